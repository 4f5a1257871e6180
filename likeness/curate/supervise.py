"""Clips to workers, and what a lost worker means: one policy for processes on this machine and for Ray's actors.

- A worker may have the next clip in hand beside the one in work, so that it never waits for us.
- A clip that outlasts the deadline costs its worker; a worker that dies costs the clip in work. The clip that it had not begun
  goes to another worker, the one in work is tried once more, alone: by a new process that has nothing else in hand. If that is
  lost too, the clip is given up with the status ``crash`` or ``timeout``.
- A process that was killed from outside says little about its clip (the system kills any process when memory runs out), so three
  lone tries are allowed.
- What a clip raises is its result, and is not tried again.

Every clip that goes in comes out exactly once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from likeness.curate.types import ClipSource, Measured
from likeness.curate.worker import Failure, Fatal, Reply
from likeness.errors import UserError

TICK_S = 0.25  # the longest silence of `supervise`
_LONE_TRIES, _LONE_TRIES_KILLED = 1, 3
_STILLBORN = 3  # in a row and a worker, before it is hopeless

H = TypeVar("H")


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What became of a clip in the workers' hands.

    Attributes:
        source: the clip.
        status: "ok" when it was measured; rules have not been asked yet.
        measured: where it was.
        reason, detail: where it was not: a short name, and a sentence or nothing.
        attempts: how often it was begun.
    """

    source: ClipSource
    status: Literal["ok", "error", "crash", "timeout"]
    measured: Measured | None = None
    reason: str = ""
    detail: str = ""
    attempts: int = 1


# What became of clips; closing it gives up the rest.
Outcomes = Generator[Outcome | None, None, None]


@dataclass(frozen=True)
class Ready:
    """A worker has built its models."""


@dataclass(frozen=True)
class Lost:
    """A worker is gone: why, and whether something outside ended it."""

    reason: str
    is_killed: bool = False


class Crew(Protocol[H]):
    """Where workers run. ``H`` is its handle of one.

    A worker tells :class:`Ready` or :class:`Fatal` once, then one :class:`Reply` a clip, in the order in which they were given.

    Attributes:
        in_hand: clips that a worker may have. More than one only where an answer that was sent cannot be lost with its worker.
    """

    in_hand: int

    def start(self) -> H:
        """Begin to start a worker."""
        ...

    def give(self, worker: H, source: ClipSource) -> None:
        """Send a clip. A worker that is lost meanwhile is told by `wait`."""
        ...

    def wait(self, workers: Sequence[H], timeout_s: float) -> list[tuple[H, Ready | Reply | Lost]]:
        """What some workers have to tell; empty after the time."""
        ...

    def kill(self, worker: H) -> None:
        """End a worker, at once."""
        ...

    def close(self) -> None:
        """End all of them."""
        ...


@dataclass(eq=False)
class _Try:
    source: ClipSource
    begun: int = 0  # times
    lone: int = 0  # of these, alone


@dataclass(eq=False)
class _Seat(Generic[H]):
    """A worker as seen from here. ``is_new``: it has never been given a clip."""

    handle: H
    is_ready: bool = False
    is_new: bool = True
    is_alone: bool = False
    in_hand: deque[_Try] = field(default_factory=deque)
    began_s: float = 0.0  # when the first of them did


def supervise(sources: Iterable[ClipSource], crew: Crew[H], *, workers: int, deadline_s: float) -> Outcomes:
    """Have clips measured; closing the iterator ends the workers and gives up what they have in hand.

    Args:
        sources: the clips.
        crew: where workers run.
        workers: how many.
        deadline_s: for one clip, in a worker that is built.

    Yields:
        What became of each clip, as it is known, and None when nothing has happened for `TICK_S`.

    Raises:
        UserError: for something that would befall every clip, such as a full disk, or workers that die before their first one.
    """
    run = _Run(sources, crew, workers, deadline_s)
    try:
        while run.has_work:
            run.staff()
            run.feed()
            outcomes = run.hear()
            outcomes += run.overdue()
            yield from outcomes
            if not outcomes:
                yield None
    finally:
        crew.close()


class _Run(Generic[H]):
    def __init__(self, sources: Iterable[ClipSource], crew: Crew[H], workers: int, deadline_s: float) -> None:
        self.crew, self.workers, self.deadline_s = crew, workers, deadline_s
        self.waiting = deque(_Try(source) for source in sources)
        self.lone: deque[_Try] = deque()
        self.seats: list[_Seat[H]] = []
        self.stillborn = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.lone or any(seat.in_hand for seat in self.seats))

    def staff(self) -> None:
        """Fill the places, as far as there is work for them. A lone try needs a worker that is new."""
        idle = sum(not seat.in_hand for seat in self.seats)
        new = sum(seat.is_new for seat in self.seats)
        wanted = max(len(self.waiting) + len(self.lone) - idle, len(self.lone) - new)
        for _ in range(min(wanted, self.workers - len(self.seats))):
            self.seats.append(_Seat(self.crew.start()))

    def feed(self) -> None:
        """Lone tries to new workers, the others to whoever has a hand free; the last clips are not hoarded."""
        for seat in self.seats:
            if seat.is_ready and seat.is_new and self.lone:
                seat.is_alone = True
                self._give(seat, self.lone.popleft())
        for depth in range(self.crew.in_hand):
            for seat in self.seats:
                if depth and len(self.waiting) < self.workers:
                    return
                if self.waiting and seat.is_ready and not seat.is_alone and len(seat.in_hand) == depth:
                    self._give(seat, self.waiting.popleft())

    def hear(self) -> list[Outcome]:
        """Wait for the workers and take in what they say."""
        outcomes: list[Outcome] = []
        now = time.monotonic()
        left = [seat.began_s + self.deadline_s - now for seat in self.seats if seat.in_hand]
        timeout_s = max(0.0, min([TICK_S, *left]))
        by_handle = {id(seat.handle): seat for seat in self.seats}
        for handle, event in self.crew.wait([seat.handle for seat in self.seats], timeout_s):
            seat = by_handle[id(handle)]
            if isinstance(event, Fatal):
                raise event.error
            if isinstance(event, Ready):
                seat.is_ready, self.stillborn = True, 0
            elif isinstance(event, Lost):
                outcomes += self._lose(
                    seat, "crash", event.reason, _LONE_TRIES_KILLED if event.is_killed else _LONE_TRIES
                )
            else:
                outcomes.append(self._finish(seat, event))
        return outcomes

    def overdue(self) -> list[Outcome]:
        """End the workers whose clip has outlasted the deadline."""
        now = time.monotonic()
        late = [seat for seat in self.seats if seat.in_hand and now - seat.began_s > self.deadline_s]
        outcomes: list[Outcome] = []
        for seat in late:
            outcomes += self._lose(seat, "timeout", f"no result within {self.deadline_s:g} s", _LONE_TRIES)
        return outcomes

    def _give(self, seat: _Seat[H], clip: _Try) -> None:
        if not seat.in_hand:
            seat.began_s = time.monotonic()
        seat.is_new = False
        seat.in_hand.append(clip)
        self.crew.give(seat.handle, clip.source)

    def _finish(self, seat: _Seat[H], reply: Measured | Failure) -> Outcome:
        clip = seat.in_hand.popleft()
        seat.is_alone, seat.began_s = False, time.monotonic()
        attempts = clip.begun + 1
        if isinstance(reply, Failure):
            return Outcome(
                source=clip.source, status="error", reason=reply.reason, detail=reply.detail, attempts=attempts
            )
        return Outcome(source=clip.source, status="ok", measured=reply, attempts=attempts)

    def _lose(self, seat: _Seat[H], status: Literal["crash", "timeout"], reason: str, lone_tries: int) -> list[Outcome]:
        """Remove a worker; its clip in work is tried alone or given up, the one that it had not begun goes back."""
        self._remove(seat)
        if not seat.is_ready:
            self.stillborn += 1
            if self.stillborn >= _STILLBORN * self.workers:
                raise UserError(
                    f"{self.stillborn} worker processes in a row died while they were starting ({reason}). Most likely there is too "
                    "little memory for so many: lower --workers."
                )
            return []
        if not seat.in_hand:
            return []
        clip = seat.in_hand.popleft()
        self.waiting.extendleft(reversed(seat.in_hand))
        clip.begun += 1
        clip.lone += seat.is_alone
        if clip.lone < lone_tries:
            self.lone.append(clip)
            return []
        return [Outcome(source=clip.source, status=status, reason=reason, attempts=clip.begun)]

    def _remove(self, seat: _Seat[H]) -> None:
        self.seats.remove(seat)
        self.crew.kill(seat.handle)
