"""A record decided by one process or by several: the same table, and a clear end whatever befalls one of them."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from stub_workers import clips, measured

from likeness.curate import deciding, record
from likeness.curate.config import CurationConfig
from likeness.curate.deciding import Share, decide_shares
from likeness.curate.record import Dataset, ShardWriter, locked
from likeness.curate.run import decide_again
from likeness.curate.supervise import Outcome
from likeness.curate.tables import FileState, sources_table
from likeness.errors import CheckpointError, UserError

NUM_CLIPS = 60


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards of 7 clips and portions of 14: sound clips, failures, captions that name nobody, rows that a later one replaces."""
    monkeypatch.setattr(record, "SHARD_CLIPS", 7)
    monkeypatch.setattr(deciding, "PORTION", 14)
    monkeypatch.setattr(deciding, "_PORTIONS_A_WORKER", 1)
    captions = ["a woman in a park", "a red car", None, "two men"]
    sources = [dataclasses.replace(clip, caption=captions[i % 4]) for i, clip in enumerate(clips(NUM_CLIPS))]
    with locked(tmp_path / "set", make=True) as path:
        dataset = Dataset.create(path, CurationConfig(), {}, "")
        writer = ShardWriter(dataset)
        for number, source in enumerate([*sources, *sources[:9]]):
            if number % 4 != 1:  # a red car was never decoded
                outcome = Outcome(source=source, status="ok", measured=measured(source, number))
                if number % 10 == 0:
                    outcome = Outcome(source=source, status="error", reason="empty file", detail="It is empty.")
                writer.add(FileState(), outcome)
        writer.commit()
        dataset.write_sources(sources_table(sources[:-5]))  # the last five are no longer named
    return tmp_path / "set"


@pytest.mark.parametrize(
    "settings", [[], ["thresholds.max_area=0.2", "thresholds.quality_of=all clips", "ranking.top=7"]]
)
def test_the_table_does_not_depend_on_the_number_of_processes(folder: Path, settings: list[str]) -> None:
    tables = set()
    for workers in (1, 2, 3):
        summary = decide_again(folder, settings, workers=workers)
        assert summary.counts.clips == NUM_CLIPS - 5 == sum(summary.counts.statuses.values())
        assert set(summary.counts.statuses) == {"ok", "dropped", "error"}
        tables.add((folder / "clips.parquet").read_bytes())
        assert (workers == 1) == (len(used(folder, workers)) == 1)
    assert len(tables) == 1


def used(folder: Path, workers: int) -> set[int]:
    """The processes that decide; this one alone is named by its number."""
    seen: set[int] = set()
    for _ in decide_shares(shares(folder), CurationConfig(), num_rows=NUM_CLIPS, workers=workers):
        seen |= {child.pid or 0 for child in multiprocessing.active_children()}
    return seen or {os.getpid()}


def shares(folder: Path) -> Iterator[Share]:
    current = Dataset.open(folder).current()
    for path, rows in zip(current.paths, current.rows, strict=True):
        yield Share(path=path, rows=rows, captions=["a man"] * len(rows))


def decided(found: list[Share], workers: int = 2) -> int:
    return sum(len(t) for t in decide_shares(found, CurationConfig(), num_rows=NUM_CLIPS, workers=workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_shard_that_is_gone_is_named(folder: Path, workers: int) -> None:
    found = list(shares(folder))
    assert decided(found, workers) == sum(len(share.rows) for share in found)
    found[3].path.unlink()
    with pytest.raises(CheckpointError, match=r"00000003.parquet is lost or damaged"):
        decided(found, workers)
    assert not multiprocessing.active_children()


class Deadly:
    """Ends the process that it is sent to."""

    def __reduce__(self) -> tuple:
        return os._exit, (9,)


def test_a_process_that_dies_is_told(folder: Path) -> None:
    found = list(shares(folder))
    deadly = dataclasses.replace(found[2], captions=[Deadly()] * len(found[2].rows))
    with pytest.raises(UserError, match=r"One of 2 processes that decide about clips died.*--workers 1"):
        decided([*found[:2], deadly, *found[3:]])
    assert not multiprocessing.active_children()


def test_few_portions_are_under_way_at_once(folder: Path) -> None:
    taken = 0

    def counted() -> Iterator[Share]:
        nonlocal taken
        for share in list(shares(folder)) * 6:
            taken += 1
            yield share

    tables = decide_shares(counted(), CurationConfig(), num_rows=NUM_CLIPS * 6, workers=2)
    first = len(next(tables))
    assert first >= deciding.PORTION and taken <= 3 * (2 * 2 + 1)  # two or three shards a portion
    tables.close()
    assert not multiprocessing.active_children()


def test_ctrl_c_ends_the_processes_and_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decide_again(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.parquet")}

    def interrupt(portion: object) -> Iterator[list[Share]]:
        for number, share in enumerate(shares(folder)):
            if number == 3:
                signal.raise_signal(signal.SIGINT)
            yield [share]

    monkeypatch.setattr(deciding, "_portions", interrupt)
    with pytest.raises(KeyboardInterrupt):
        decide_again(folder, ["thresholds.max_area=0.2"], workers=2)
    assert not multiprocessing.active_children()
    assert {path: path.read_bytes() for path in folder.rglob("*.parquet")} == before
    assert np.isclose(Dataset.open(folder).config.thresholds.max_area, 0.9)
