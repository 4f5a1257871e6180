"""Workers as processes of this machine, each at the end of a pipe of its own, so that none can harm another's."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from likeness.curate.supervise import Lost, Outcomes, Ready, supervise
from likeness.curate.types import ClipSource
from likeness.curate.worker import Fatal, MakeWorker, Reply, attempt, build
from likeness.threads import end_with_parent

_JOIN_S = 10
# What multiprocessing imports in each process of a fork server, and the life of a worker.
_PRELOADED = ("multiprocessing.popen_forkserver", "pkgutil", __name__)


def run_local(sources: Iterable[ClipSource], make: MakeWorker, *, workers: int, deadline_s: float) -> Outcomes:
    """Have clips measured by processes of this machine; see :func:`likeness.curate.supervise.supervise`.

    Args:
        make: called once in each process; must be importable there.
    """
    return supervise(sources, LocalCrew(make), workers=workers, deadline_s=deadline_s)


@dataclass(frozen=True, eq=False)
class _Local:
    process: BaseProcess
    connection: Connection


class LocalCrew:
    """Processes that have nothing of this one's state in them."""

    in_hand = 2  # a pipe keeps what was sent

    def __init__(self, make: MakeWorker) -> None:
        self._make = make
        # A fork server imports once what workers need, so that one that takes the place of a lost one is there in a fraction of a
        # second of work instead of several. It never has a model or a thread, so its forks are clean.
        method = "forkserver" if sys.platform == "linux" else "spawn"
        self._context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self._context.set_forkserver_preload([*_PRELOADED, *getattr(make, "imports", ())])
        self._running: set[_Local] = set()
        self._killed: list[BaseProcess] = []  # of which some may not have come to their end

    def start(self) -> _Local:
        """Begin to start a process."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._make), daemon=True)
        with _one_thread():
            process.start()
        theirs.close()  # or its end would not be seen
        worker = _Local(process, ours)
        self._running.add(worker)
        self._killed = [process for process in self._killed if process.is_alive()]
        return worker

    def give(self, worker: _Local, source: ClipSource) -> None:
        """Send a clip through the pipe."""
        try:
            worker.connection.send(source)
        except OSError:
            return  # it died; `wait` finds the end of the pipe

    def wait(self, workers: Sequence[_Local], timeout_s: float) -> list[tuple[_Local, Ready | Reply | Lost]]:
        """Messages that are there, one a worker; the end of a pipe is the end of its process."""
        by_connection = {worker.connection: worker for worker in workers}
        events: list[tuple[_Local, Ready | Reply | Lost]] = []
        for connection in wait(list(by_connection), timeout_s):
            worker = by_connection[connection]  # pyright: ignore[reportArgumentType]
            try:
                events.append((worker, worker.connection.recv()))
            except (EOFError, OSError):
                events.append((worker, _lost(worker.process)))
        return events

    def kill(self, worker: _Local) -> None:
        """SIGKILL: a process may hang in native code. Its end is not waited for; others wait for us meanwhile."""
        self._running.discard(worker)
        self._killed.append(worker.process)
        worker.connection.close()
        worker.process.kill()

    def close(self) -> None:
        """End all processes."""
        for worker in list(self._running):
            self.kill(worker)
        for process in self._killed:
            process.join(_JOIN_S)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A process that is started meanwhile computes on one thread, unless the user has said otherwise; its libraries read this when
    they are imported, before any line of ours could tell them."""
    kept = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    try:
        yield
    finally:
        for name in os.environ.keys() - kept.keys():
            del os.environ[name]


def _lost(process: BaseProcess) -> Lost:
    process.join(_JOIN_S)
    code = process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return Lost(f"the process was ended by {name}", is_killed=name in ("SIGKILL", "SIGTERM"))
    return Lost(f"the process ended with exit code {code}")


def _serve(connection: Connection, make: MakeWorker) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent decides
    end_with_parent()
    worker = build(make)
    try:
        if isinstance(worker, Fatal):
            connection.send(worker)
            return
        connection.send(Ready())
        while True:
            connection.send(attempt(worker, connection.recv()))
    except (EOFError, OSError):
        os._exit(0)  # the parent is gone or wants no more
