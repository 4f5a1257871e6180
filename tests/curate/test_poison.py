"""Clips of which every hundredth raises, crashes or hangs: all are accounted for, and what they cost is their own."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from stub_workers import Stub, begun, clips

from likeness.curate.local import run_local
from likeness.curate.ray_runner import run_ray
from likeness.curate.run import Runner
from likeness.curate.types import ClipSource
from likeness.errors import UserError

DEADLINE_S = 5.0
STATUS = {"raise": "error", "exit": "crash", "segv": "crash", "hang": "timeout"}


def poisoned(num: int, every: int) -> list[ClipSource]:
    """Sources of which every so-many-th is poison, of each kind in turn."""
    kinds = list(STATUS)
    return [
        ClipSource(path=f"/clips/{i}-{kinds[i // every % 4]}.mp4") if i % every == every - 1 else clip
        for i, clip in enumerate(clips(num))
    ]


def check(sources: list[ClipSource], runner: Runner, folder: Path, workers: int, deadline_s: float) -> None:
    """Every clip has the status that its name says, and no clip was begun more often than it may be."""
    results = runner(sources, Stub(str(folder)), workers=workers, deadline_s=deadline_s)
    outcomes = [outcome for outcome in results if outcome]
    assert Counter(o.source.key for o in outcomes) == Counter(source.key for source in sources)
    counts = begun(folder)
    for outcome in outcomes:
        status = STATUS.get(Path(outcome.source.path).stem.partition("-")[2], "ok")
        attempts = 2 if status in ("crash", "timeout") else 1
        assert (outcome.status, outcome.attempts, counts[outcome.source.key]) == (status, attempts, attempts)
        assert status != "timeout" or outcome.reason == f"no result within {deadline_s:g} s"


def test_three_hundred_clips(tmp_path: Path) -> None:
    check(poisoned(300, 60), run_local, tmp_path, workers=3, deadline_s=3.0)


@pytest.mark.slow
def test_ten_thousand_clips(tmp_path: Path) -> None:
    check(poisoned(10_000, 100), run_local, tmp_path, workers=4, deadline_s=DEADLINE_S)


@pytest.fixture
def cluster() -> Iterator[None]:
    """A Ray of this machine whose workers find the stubs."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    here = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        runtime_env={"env_vars": here},
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.mark.slow
def test_ten_thousand_clips_on_actors_of_ray(tmp_path: Path, cluster: None) -> None:
    check(poisoned(10_000, 100), run_ray, tmp_path, workers=4, deadline_s=2 * DEADLINE_S)


@pytest.mark.slow
def test_ray_tells_what_would_befall_every_clip(cluster: None) -> None:
    with pytest.raises(UserError, match="the pack is broken"):
        list(run_ray(clips(2), Stub(refuses=True), workers=1, deadline_s=60.0))


@pytest.mark.slow
def test_no_cluster_at_an_address() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(UserError, match=r"No Ray cluster could be reached at 127.0.0.1:9 .*ray start --head"):
        list(run_ray(clips(2), Stub(), workers=1, deadline_s=60.0, address="127.0.0.1:9"))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"Ray is not installed.*likeness\[ray\]"):
        run_ray(clips(2), Stub(), workers=1, deadline_s=60.0)
