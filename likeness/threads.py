"""How threads of numerical libraries wait, imported before those libraries are; and processes that end with their parent."""

from __future__ import annotations

import os


def wait_passively() -> None:
    """Let threads that wait sleep; to be called before torch is imported.

    On a CPU that other programs use too, threads that spin while they wait for one another make a video take minutes
    instead of seconds. A user's own setting stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def end_with_parent() -> None:
    """End this process of multiprocessing at once when the one that started it is gone, however it went."""
    import multiprocessing
    import threading
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
