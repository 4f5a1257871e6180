from __future__ import annotations

import dataclasses
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_workers import Stub, clips, contents, measured, run_here

from likeness.curate import record
from likeness.curate.config import CurationConfig
from likeness.curate.record import Current, Dataset, ShardWriter, locked, read_table
from likeness.curate.run import curate
from likeness.curate.supervise import Outcome
from likeness.curate.tables import MEASURES, ROW, FileState, measures_of, rows_table, sources_table
from likeness.curate.types import ClipSource, Measures
from likeness.curate.worker import Fatal, attempt
from likeness.errors import CheckpointError, UserError

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TRACKS = st.lists(st.lists(NUMBERS, max_size=4).map(tuple), max_size=3).map(tuple)
MEASURED = st.builds(
    Measures,
    width=st.integers(0, 2**31 - 1), height=st.integers(0, 2**31 - 1), fps=NUMBERS, duration_s=NUMBERS,
    rotation=st.sampled_from([0, 90, 180, 270]), num_expected=st.integers(0, 240), num_delivered=st.integers(0, 240),
    num_corrupt=st.integers(0, 240), num_people=st.lists(st.integers(0, 99), max_size=5).map(tuple), cosines=TRACKS,
    areas=TRACKS, flow=NUMBERS, motion=NUMBERS, aesthetics=st.none() | NUMBERS,
    bridge=st.none() | NUMBERS,
)  # fmt: skip


def dataset(folder: Path) -> Dataset:
    """A new one without models."""
    return Dataset.create(folder, CurationConfig(), {}, "")


def outcome(source: ClipSource, number: int = 1, measures: Measures | None = None) -> Outcome:
    """A clip that was measured."""
    found = measured(source, number)
    return Outcome(source=source, status="ok", measured=dataclasses.replace(found, measures=measures or found.measures))


@settings(max_examples=30)
@given(st.lists(st.none() | MEASURED, max_size=5))
def test_measures_come_back_to_the_bit(rows: list[Measures | None]) -> None:
    sources = clips(len(rows))
    outcomes = [
        Outcome(source=source, status="crash", reason="why") if measures is None else outcome(source, 1, measures)
        for source, measures in zip(sources, rows, strict=True)
    ]
    table = rows_table([(FileState(), one) for one in outcomes], "stamp")
    assert table.schema.equals(ROW)
    assert list(measures_of(table)) == rows
    assert list(measures_of(table.slice(1).select(MEASURES.names))) == rows[1:]


def test_a_row_holds_all_that_was_found(tmp_path: Path) -> None:
    (source,) = clips(1)
    found = measured(source, 3)
    with locked(tmp_path / "set", make=True) as folder:
        writer = ShardWriter(dataset(folder))
        writer.add(FileState(5, 6), outcome(source, 3))
        writer.commit()
    (row,) = pq.read_table(tmp_path / "set" / "measures" / "00000000.parquet").to_pylist()
    assert (row["key"], row["size"], row["mtime_ns"], row["attempts"], row["status"]) == (source.key, 5, 6, 1, "ok")
    assert (row["clip_id"], row["thumbnail"]) == (found.clip_id, found.thumbnail)
    assert len(row["faces"]) == len(found.faces)
    face = row["faces"][1]
    assert face.pop("box") == [1.0, 2.0, 30.0, 40.5]
    assert face == pytest.approx({name: getattr(found.faces[1], name) for name in face}, rel=1e-6)
    for stored, face in zip(row["references"], found.references, strict=True):
        np.testing.assert_array_equal(np.reshape(stored["keypoints"], (5, 2)), face.keypoints)
        np.testing.assert_array_equal(stored["embedding"], face.embedding.astype(np.float16))
        for name in ("track", "number", "sample", "time_s", "mean_x", "crop"):
            assert stored[name] == getattr(face, name)


def test_shards_are_written_by_number_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(record.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(record, "SHARD_CLIPS", 4)
    writer = ShardWriter(dataset(tmp_path))
    for source in clips(9):
        writer.add(FileState(), outcome(source))
    writer.tick()
    assert writer.written == 8
    now[0] += record.SHARD_S + 1
    writer.tick()
    assert writer.written == 9
    writer.commit()
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "measures").iterdir())] == [4, 4, 1]
    again = ShardWriter(dataset(tmp_path))
    again.add(FileState(), outcome(clips(1)[0]))
    again.commit()
    assert sorted(path.name for path in (tmp_path / "measures").iterdir())[-1] == "00000003.parquet"


def test_of_two_rows_the_later_counts() -> None:
    a, b, c = clips(3)
    failed = Outcome(source=b, status="error", reason="empty file")
    tables = [
        rows_table([(FileState(1, 1), outcome(a)), (FileState(2, 2), failed), (FileState(3, 3), outcome(c))], "x"),
        rows_table([(FileState(9, 9), outcome(a)), (FileState(4, 4), Outcome(source=c, status="crash"))], "x"),
    ]
    current = Current.of([Path("0"), Path("1")], tables)
    assert [rows.tolist() for rows in current.rows] == [[1], [0, 1]]
    assert current.states == {a.key: FileState(9, 9), b.key: FileState(2, 2), c.key: FileState(4, 4)}
    assert current.failed == {b.key, c.key}


def test_sources_are_in_the_order_of_their_paths_and_spans() -> None:
    rows = [("b", 0.0, None), ("a", 5.0, 9.0), ("a", 5.0, None), ("a", 0.0, 5.0)]
    table = sources_table([ClipSource(path=path, start_s=start, end_s=end) for path, start, end in rows])
    columns = (table.column(name).to_pylist() for name in ("path", "start_s", "end_s"))
    assert list(zip(*columns, strict=True)) == [rows[3], rows[1], rows[2], rows[0]]


def test_damage_is_told_with_a_way_out(tmp_path: Path) -> None:
    made = dataset(tmp_path)
    writer = ShardWriter(made)
    writer.add(FileState(), outcome(clips(1)[0]))
    writer.commit()
    shard = tmp_path / "measures" / "00000000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    with pytest.raises(CheckpointError, match=r"00000000.parquet is lost or damaged .* Remove it .*likeness curate"):
        made.current()
    shard.write_bytes(whole)
    other = dataclasses.replace(made, basis=dataclasses.replace(made.basis, models={"a": "b"}))
    with pytest.raises(CheckpointError, match=r"00000000.parquet was measured with other settings or models"):
        other.current()
    with pytest.raises(CheckpointError, match=r"sources.parquet is lost or damaged"):
        made.sources()
    for text, told in (("{", "is damaged"), ("{}", "is damaged"), (json.dumps({"format": 0}), "another version")):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(CheckpointError, match=told):
            Dataset.open(tmp_path)


def test_a_record_whose_run_file_is_gone_goes_on(tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    first = curate(clips(3), tmp_path / "set", faces=pack, make=Stub(), runner=run_here)
    (tmp_path / "set" / "run.json").unlink()
    again = curate(clips(3), tmp_path / "set", faces=pack, make=Stub(), runner=run_here)
    assert (first.measured, again.measured) == (3, 0)


def test_halves_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    with locked(tmp_path, make=True) as folder:
        dataset(folder)
    names = ["clips.parquet", "measures/00000000.parquet", "pairs/cross.parquet", "crops/ab/ab12_0_0.png"]
    halves = [(folder / name).with_name(f".{Path(name).stem}.1a2b3c4d.tmp{Path(name).suffix}") for name in names]
    for half in halves:
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(b"half")
    (folder / ".lock").write_text("process 1 on another machine")
    with locked(folder):
        assert not any(half.exists() for half in halves)
    assert (folder / ".lock").read_text() == ""


def test_a_folder_named_like_a_column_adds_none(tmp_path: Path) -> None:
    folder = tmp_path / "year=2020"
    record.write_table(folder / "a.parquet", sources_table(clips(1)))
    assert "year" not in read_table(folder / "a.parquet").column_names


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow beyond so many bytes meanwhile, which is told as a full disk is."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)


def test_a_full_disk_damages_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "SHARD_CLIPS", 5)
    pack = tmp_path / "pack"
    pack.mkdir()
    curate(clips(5), tmp_path / "set", faces=pack, make=Stub(), runner=run_here)
    before = contents(tmp_path / "set")
    largest = max(len(data) for name, data in before.items() if name.startswith("measures"))
    with small_files(largest // 2), pytest.raises(UserError, match=r"The disk filled up .* nothing of it was kept"):
        curate(clips(20), tmp_path / "set", faces=pack, make=Stub(), runner=run_here)
    after = contents(tmp_path / "set")
    assert {name: data for name, data in after.items() if name != "sources.parquet"} == {
        name: data for name, data in before.items() if name != "sources.parquet"
    }
    rest = curate(clips(20), tmp_path / "set", faces=pack, make=Stub(), runner=run_here)
    assert (rest.measured, rest.reused, rest.counts.clips) == (15, 5, 20)


def test_a_full_disk_in_a_worker_is_no_clips_fault(tmp_path: Path) -> None:
    def worker(source: ClipSource):
        with small_files(10):
            record.write_table(tmp_path / "crop.parquet", sources_table([source]))

    reply = attempt(worker, clips(1)[0])  # pyright: ignore[reportArgumentType]
    assert isinstance(reply, Fatal)
    assert isinstance(reply.error, UserError)
    assert "disk filled up" in str(reply.error)
