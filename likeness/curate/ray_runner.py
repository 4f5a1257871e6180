"""Workers as Ray's actors, when one machine is not enough.

Actors rather than Ray Data: there one clip that raises ends the job or empties its block, one that crashes never comes to an end,
and none has a deadline. Here clips stay ours, and an actor is a process with a name: what befalls it is handled by
:mod:`likeness.curate.supervise`, as for processes of this machine.

Every machine needs the package, the clips, the face models and the dataset's folder under the same paths, where crops are written.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from likeness.curate.supervise import Lost, Outcomes, Ready, supervise
from likeness.curate.types import ClipSource
from likeness.curate.worker import Fatal, MakeWorker, Reply, attempt, build
from likeness.errors import UserError

_NOT_ITS_FAULT = ("node has died", "low on memory", "preempted")  # in Ray's words for the end of an actor


def run_ray(
    sources: Iterable[ClipSource], make: MakeWorker, *, workers: int, deadline_s: float, address: str | None = None
) -> Outcomes:
    """Have clips measured by Ray's actors; see :func:`likeness.curate.supervise.supervise`.

    Args:
        workers: actors, each with one CPU; those for which there is no room wait for it.
        address: of a running cluster; None starts Ray on this machine.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    return supervise(sources, RayCrew(make, address), workers=workers, deadline_s=deadline_s)


@dataclass(eq=False)
class _Remote:
    actor: Any
    refs: deque[Any] = field(default_factory=deque)  # what it will tell, in order


class _Actor:
    """The process of a worker, one CPU and so one thread."""

    def __init__(self, make: MakeWorker) -> None:
        self._make = make
        self._worker: Any = None

    def build(self) -> Ready | Fatal:
        """Load the models."""
        self._worker = build(self._make)
        return self._worker if isinstance(self._worker, Fatal) else Ready()

    def measure(self, source: ClipSource) -> Reply:
        """Measure a clip."""
        return attempt(self._worker, source)


class RayCrew:
    """Actors of a cluster, or of a Ray that runs on this machine meanwhile."""

    in_hand = 1  # the answer before a crash may be lost on its way, and the wrong clip would be blamed

    def __init__(self, make: MakeWorker, address: str | None = None) -> None:
        self._make = make
        self._ray = _import_ray()
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            try:
                _check_reachable(address)
                self._ray.init(
                    address=address or "local", include_dashboard=False if address is None else None, log_to_driver=False,
                    logging_level="ERROR",
                )  # fmt: skip
            except (OSError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"No Ray cluster could be reached at {address} ({str(error).splitlines()[0]}). Start one with `ray start --head`, "
                    "or leave --ray-address out."
                ) from error
        # Ray's own second tries would hide a crash from us.
        self._class = self._ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Actor)
        self._running: set[_Remote] = set()

    def start(self) -> _Remote:
        """Ask for an actor; it is ready when there is room for it."""
        actor = self._class.remote(self._make)
        worker = _Remote(actor, deque([actor.build.remote()]))
        self._running.add(worker)
        return worker

    def give(self, worker: _Remote, source: ClipSource) -> None:
        """Send a clip."""
        worker.refs.append(worker.actor.measure.remote(source))

    def wait(self, workers: Sequence[_Remote], timeout_s: float) -> list[tuple[_Remote, Ready | Reply | Lost]]:
        """The next answer of each worker that has one."""
        by_ref = {worker.refs[0]: worker for worker in workers if worker.refs}
        if not by_ref:
            time.sleep(timeout_s)
            return []
        refs = list(by_ref)
        if not self._ray.wait(refs, num_returns=1, timeout=timeout_s)[0]:
            return []
        there, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        return [(by_ref[ref], self._told(by_ref[ref])) for ref in there]

    def _told(self, worker: _Remote) -> Ready | Reply | Lost:
        try:
            return self._ray.get(worker.refs.popleft())
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.OutOfMemoryError) as error:
            if getattr(error, "actor_init_failed", False):
                last = str(error).strip().splitlines()[-1]
                return Fatal(
                    UserError(f"A worker cannot be made on a machine of the cluster: {last}. Install Likeness there.")
                )
            is_killed = any(words in str(error) for words in _NOT_ITS_FAULT)
            return Lost("the machine was lost" if is_killed else "the process of the actor ended", is_killed=is_killed)

    def kill(self, worker: _Remote) -> None:
        """End the actor's process."""
        self._running.discard(worker)
        self._ray.kill(worker.actor)

    def close(self) -> None:
        """End all actors, and Ray if it was started here."""
        for worker in list(self._running):
            self.kill(worker)
        if self._is_ours:
            self._ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise an OSError where nobody answers; Ray itself would go on trying for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _import_ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]  # an extra of its own
    except ImportError as error:
        raise UserError("Ray is not installed; it comes with the extra: pip install 'likeness[ray]'.") from error
    return ray
