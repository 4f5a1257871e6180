"""How threads wait, processes end and signals stop a run; imported before numerical libraries are."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def wait_passively() -> None:
    """Let threads that wait sleep; to be called before torch is imported.

    On a CPU that other programs use too, threads that spin while they wait for one another make a video take minutes
    instead of seconds. A user's own setting stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def end_with_parent() -> None:
    """End this process of multiprocessing at once when the one that started it is gone, however it went."""
    import multiprocessing
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT, unless they are ignored; a second one of them acts as it did before.

    Only the main thread may say how signals are taken; in another nothing is collected.
    """
    asked: list[int] = []
    kept: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, kept[number])

    is_main = threading.current_thread() is threading.main_thread()
    for number in (signal.SIGTERM, signal.SIGINT) if is_main else ():
        if signal.getsignal(number) is not signal.SIG_IGN:
            kept[number] = signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
