from __future__ import annotations

import dataclasses
import random
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_workers import Stub, begun, clips, measured

from likeness.curate.local import run_local
from likeness.curate.supervise import Lost, Outcome, Ready, supervise
from likeness.curate.types import ClipSource
from likeness.curate.worker import Failure, attempt
from likeness.errors import UserError


def _outcomes(sources: list[ClipSource], stub: Stub, *, workers: int = 2, deadline_s: float = 60.0) -> list[Outcome]:
    return [outcome for outcome in run_local(sources, stub, workers=workers, deadline_s=deadline_s) if outcome]


class Seat:
    """A handle of the acted crew."""

    def __init__(self) -> None:
        self.is_ready, self.is_dead, self.done = False, False, 0
        self.clips: deque[ClipSource] = deque()


class ActedCrew:
    """Workers that are played by random numbers: they answer late, die at any moment, and are told to."""

    def __init__(self, seed: int, p_death: float) -> None:
        self.in_hand = 1 + seed % 2
        self.random, self.p_death = random.Random(seed), p_death
        self.begun: Counter[str] = Counter()
        self.with_others: list[str] = []  # clips that were begun again by a process with something else to do
        self.stillborn = 0  # in a row; a third one would be hopeless
        self.closed = 0

    def start(self) -> Seat:
        return Seat()

    def give(self, worker: Seat, source: ClipSource) -> None:
        if self.begun[source.key] and (worker.clips or worker.done):
            self.with_others.append(source.key)
        worker.clips.append(source)

    def wait(self, workers: Sequence[Seat], timeout_s: float) -> list:
        events = []
        for worker in workers:
            if self.random.random() < 0.5:
                continue
            can_die = worker.is_ready or (self.stillborn < 2 and self.random.random() < 0.2)
            if can_die and self.random.random() < self.p_death:
                worker.is_dead = True
                self.stillborn += not worker.is_ready
                if worker.clips:
                    self.begun[worker.clips[0].key] += 1
                events.append((worker, Lost("drawn", is_killed=False)))
            elif not worker.is_ready:
                worker.is_ready, self.stillborn = True, 0
                events.append((worker, Ready()))
            elif worker.clips:
                source = worker.clips.popleft()
                worker.done += 1
                self.begun[source.key] += 1
                reply = Failure("drawn", "") if self.random.random() < 0.1 else measured(source, 1)
                events.append((worker, reply))
        return events

    def kill(self, worker: Seat) -> None:
        assert worker.is_dead  # nothing here is late

    def close(self) -> None:
        self.closed += 1


@given(st.integers(0, 10**6), st.integers(0, 30), st.integers(1, 5), st.sampled_from([0.0, 0.05, 0.3]))
def test_every_clip_comes_out_once_whatever_dies(seed: int, num: int, workers: int, p_death: float) -> None:
    crew = ActedCrew(seed, p_death)
    sources = clips(num)
    out = [o for o in supervise(sources, crew, workers=workers, deadline_s=1e9) if o is not None]
    assert sorted(o.source.key for o in out) == sorted(source.key for source in sources)
    assert all(o.attempts == crew.begun[o.source.key] <= 2 for o in out)
    assert all(o.attempts == 2 for o in out if o.status == "crash")
    assert all((o.measured is not None) == (o.status == "ok") for o in out)
    assert crew.with_others == []
    assert crew.closed == 1


def test_each_end_of_a_clip_has_its_status_and_costs_no_other(tmp_path: Path) -> None:
    sources = [*clips(60, exit=20, segv=23, broken=31, once=13), ClipSource(path="/clips/99-raise.mp4")]
    outcomes = _outcomes(sources, Stub(str(tmp_path)))
    assert sorted(o.source.path for o in outcomes) == sorted(source.path for source in sources)
    for outcome in outcomes:
        what = Path(outcome.source.path).stem.partition("-")[2]
        expected = {
            "exit": ("crash", "the process ended with exit code 3", 2),
            "segv": ("crash", "the process was ended by SIGSEGV", 2),
            "raise": ("error", "unexpected ValueError", 1),
            "broken": ("error", "empty file", 1),
            "once": ("ok", "", 2),
        }.get(what, ("ok", "", 1))
        assert (outcome.status, outcome.reason, outcome.attempts) == expected
    counts = begun(tmp_path)
    assert all(counts[o.source.key] == o.attempts for o in outcomes)


def test_a_lone_try_has_a_process_of_its_own(tmp_path: Path) -> None:
    sources = clips(40, once=8)
    _outcomes(sources, Stub(str(tmp_path)), workers=3)
    lines = [line.split() for line in (tmp_path / "begun.txt").read_text().splitlines()]
    first_of_process = {pid: key for key, pid in reversed(lines)}
    retried = [key for key, count in begun(tmp_path).items() if count == 2]
    assert len(retried) == 5
    for key in retried:
        last = [pid for name, pid in lines if name == key][-1]
        assert first_of_process[last] == key


def test_a_clip_whose_process_is_killed_from_outside_has_more_tries(tmp_path: Path) -> None:
    (outcome,) = _outcomes([ClipSource(path="/clips/1-kill.mp4")], Stub(str(tmp_path)))
    assert (outcome.status, outcome.reason, outcome.attempts) == ("crash", "the process was ended by SIGKILL", 4)


def test_what_would_befall_every_clip_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        _outcomes([ClipSource(path="/clips/1-full.mp4")], Stub())
    with pytest.raises(UserError, match="the pack is broken"):
        _outcomes(clips(3), Stub(refuses=True))
    with pytest.raises(UserError, match=r"6 worker processes in a row died .*exit code 7.*lower --workers"):
        _outcomes(clips(9), Stub(dies_while_starting=True))


def test_an_unexpected_error_is_one_line() -> None:
    def worker(source: ClipSource):
        raise KeyError("a\nb" * 1000)

    reply = attempt(worker, ClipSource(path="/clips/1.mp4"))
    assert isinstance(reply, Failure)
    assert reply.reason == "unexpected KeyError"
    assert len(reply.detail) == 300
    assert "\n" not in reply.detail


def test_closing_the_iterator_ends_the_workers(tmp_path: Path) -> None:
    import multiprocessing

    before = set(multiprocessing.active_children())
    results = run_local(clips(500), Stub(work_s=0.01), workers=2, deadline_s=60)
    first = next(outcome for outcome in results if outcome)
    assert first.status == "ok"
    results.close()
    assert set(multiprocessing.active_children()) == before


def test_outcomes_travel_whole() -> None:
    (outcome,) = _outcomes(clips(1), Stub())
    assert outcome.measured is not None
    expected = measured(clips(1)[0], 0)
    assert outcome.measured.measures == expected.measures
    assert outcome.measured.faces == expected.faces
    for got, wanted in zip(outcome.measured.references, expected.references, strict=True):
        for field in dataclasses.fields(wanted):
            a, b = getattr(got, field.name), getattr(wanted, field.name)
            assert (a == b).all() if hasattr(a, "shape") else a == b
