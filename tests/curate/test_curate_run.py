from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from stub_workers import Stub, begun, clips, contents, run_here, write_files

from likeness.curate.config import CurationConfig
from likeness.curate.local import run_local
from likeness.curate.record import Dataset, locked
from likeness.curate.run import Stopped, Summary, curate, decide_again
from likeness.curate.types import ClipSource
from likeness.errors import CheckpointError, UserError

ALL_CLIPS = "thresholds.quality_of=all clips"


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A folder that stands for a pack: workers of these tests have no models."""
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "detector.onnx").write_bytes(b"a detector")
    return folder


def run(sources: list[ClipSource], folder: Path, *settings: str, stub: Stub | None = None, **more) -> Summary:
    """A curation by stub workers, without processes unless a runner is named."""
    stub = stub or Stub(str(folder.parent))
    config = CurationConfig().override(list(settings))
    return curate(sources, folder, config, faces=folder.parent / "pack", make=stub, **{"runner": run_here, **more})


def test_every_clip_is_accounted_for(tmp_path: Path, faces: Path) -> None:
    sources = clips(40, broken=10, exit=39)
    seen: list[tuple[int, int, Mapping[str, int]]] = []
    summary = run(
        sources, tmp_path / "set", runner=run_local, workers=2, progress=lambda d, t, f: seen.append((d, t, dict(f)))
    )
    assert summary.counts.statuses == {"ok": 35, "error": 4, "crash": 1}
    assert summary.counts.reasons == {("error", "empty file"): 4, ("crash", "the process ended with exit code 3"): 1}
    assert (summary.measured, summary.reused, summary.counts.uncaptioned) == (40, 0, 40)
    assert seen[0] == (0, 40, {})
    assert seen[-1] == (40, 40, {"kept": 35, "empty file": 4, "crash": 1})
    table = pq.read_table(tmp_path / "set" / "clips.parquet")
    assert table.column("path").to_pylist() == sorted(source.path for source in sources)
    assert set(table.column("key").to_pylist()) == {source.key for source in sources}


def test_faces_are_those_of_the_kept_in_the_order_of_the_clips(tmp_path: Path, faces: Path) -> None:
    summary = run(clips(9, broken=4), tmp_path / "set")
    table = pq.read_table(tmp_path / "set" / "clips.parquet").to_pylist()
    rows = pq.read_table(tmp_path / "set" / "faces.parquet").to_pylist()
    expected = [
        (place, track, number)
        for place, clip in enumerate(table) if clip["status"] == "ok"
        for track in range(1 + int(Path(clip["path"]).stem) % 2) for number in range(2)
    ]  # fmt: skip
    assert [(row["clip"], row["track"], row["number"]) for row in rows] == expected
    assert summary.counts.faces == len(expected)
    for row in rows:
        assert table[row["clip"]]["key"] in row["crop"]
        assert sum(value * value for value in row["embedding"]) == pytest.approx(1.0, abs=2e-3)


def test_a_finished_run_decodes_nothing(tmp_path: Path, faces: Path) -> None:
    sources = write_files(tmp_path / "clips", 12)
    first = run(sources, tmp_path / "set")
    before = contents(tmp_path / "set")
    again = run(sources, tmp_path / "set")
    assert (first.measured, again.measured, again.reused) == (12, 0, 12)
    assert sum(begun(tmp_path).values()) == 12
    assert contents(tmp_path / "set") == before


def test_what_is_new_or_changed_is_measured_and_what_is_gone_is_left_out(tmp_path: Path, faces: Path) -> None:
    sources = write_files(tmp_path / "clips", 6)
    run(sources[:5], tmp_path / "set")
    Path(sources[0].path).write_bytes(b"another clip")
    os.utime(sources[1].path, ns=(1, 1))
    summary = run(sources[:2] + sources[3:], tmp_path / "set")
    assert summary.measured == 3
    counts = begun(tmp_path)
    assert [counts[source.key] for source in sources] == [2, 2, 1, 1, 1, 1]
    paths = pq.read_table(tmp_path / "set" / "clips.parquet").column("path").to_pylist()
    assert paths == [source.path for source in sources[:2] + sources[3:]]
    assert run(sources, tmp_path / "set").measured == 0  # the one that was left out is still in the record


def test_what_failed_is_tried_again_when_asked(tmp_path: Path, faces: Path) -> None:
    sources = clips(6, broken=3)
    run(sources, tmp_path / "set")
    assert run(sources, tmp_path / "set").measured == 0
    assert run(sources, tmp_path / "set", retry=True).measured == 2


def test_thresholds_are_decided_again_without_decoding(tmp_path: Path, faces: Path) -> None:
    sources = [dataclasses.replace(c, caption="a man" if i % 2 else None) for i, c in enumerate(clips(20))]
    first = run(sources, tmp_path / "set")
    assert first.counts.statuses == {"ok": 20}
    strict = decide_again(tmp_path / "set", ["thresholds.min_duration_s=3"])
    assert strict.counts.reasons == {("dropped", "too short"): 20}
    row = pq.read_table(tmp_path / "set" / "clips.parquet").to_pylist()[0]
    assert (row["value"], row["threshold"]) == (2.0, 3.0)
    assert Dataset.open(tmp_path / "set").config.thresholds.min_duration_s == 3
    top = decide_again(tmp_path / "set", ["thresholds.min_duration_s=0", "ranking.top=5", ALL_CLIPS])
    assert (top.counts.statuses, top.counts.reasons) == ({"ok": 5, "dropped": 15}, {("dropped", "not in top K"): 15})
    rows = pq.read_table(tmp_path / "set" / "clips.parquet").to_pylist()
    worst = min(row["score"] for row in rows if row["status"] == "ok")
    assert all(row["score"] <= worst == row["threshold"] for row in rows if row["status"] == "dropped")
    assert sum(begun(tmp_path).values()) == 20
    same = run(sources, tmp_path / "set", "ranking.top=5", "thresholds.min_duration_s=0", ALL_CLIPS)
    assert (same.measured, same.counts) == (0, top.counts)


def test_a_clip_that_its_caption_rules_out_is_not_decoded(tmp_path: Path, faces: Path) -> None:
    captions = ["a woman in a park", "a red car", None]
    sources = [dataclasses.replace(c, caption=captions[i]) for i, c in enumerate(clips(3))]
    summary = run(sources, tmp_path / "set")
    assert (summary.measured, summary.reused) == (2, 0)
    assert summary.counts.reasons == {("dropped", "no person in caption"): 1}
    row = pq.read_table(tmp_path / "set" / "clips.parquet").to_pylist()[1]
    assert (row["path"], row["status"], row["value"], row["threshold"]) == ("/clips/1.mp4", "dropped", 0.0, 1.0)
    before = contents(tmp_path / "set")
    with pytest.raises(UserError, match=r"1 of the 3 clips .* have not been measured yet.*likeness curate"):
        decide_again(tmp_path / "set", ["thresholds.human_terms=false"])
    assert contents(tmp_path / "set") == before
    every = run(sources, tmp_path / "set", "thresholds.human_terms=false")
    assert (every.measured, every.reused, every.counts.statuses) == (1, 2, {"ok": 3})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on(tmp_path: Path, faces: Path, number: int) -> None:
    def stop(done: int, total: int, funnel: Mapping[str, int]) -> None:
        if done == 7:
            signal.raise_signal(number)

    with pytest.raises(Stopped, match=r"stopped with 7 of 30 clips measured; the same command goes on"):
        run(clips(30), tmp_path / "set", progress=stop)
    assert not (tmp_path / "set" / "clips.parquet").exists()
    with pytest.raises(UserError, match="23 of the 30 clips"):
        decide_again(tmp_path / "set")
    rest = run(clips(30), tmp_path / "set")
    assert (rest.measured, rest.reused) == (23, 7)


def test_another_measuring_or_model_is_refused_by_name(tmp_path: Path, faces: Path) -> None:
    run(clips(3), tmp_path / "set")
    before = contents(tmp_path / "set")
    with pytest.raises(UserError, match=r"measured with measuring.references=5, and 3 is asked for. .*another folder"):
        run(clips(3), tmp_path / "set", "measuring.references=3")
    with pytest.raises(UserError, match=r"measuring.references=5, and 3"):
        decide_again(tmp_path / "set", ["measuring.references=3"])
    (faces / "detector.onnx").write_bytes(b"another")
    with pytest.raises(UserError, match=r"other models: faces/detector.onnx has changed.*--faces"):
        run(clips(3), tmp_path / "set")
    (faces / "detector.onnx").rename(faces / "other.onnx")
    with pytest.raises(UserError, match=r"faces/detector.onnx is gone"):
        run(clips(3), tmp_path / "set")
    assert contents(tmp_path / "set") == before


def test_folders_that_will_not_do(tmp_path: Path, faces: Path) -> None:
    with pytest.raises(UserError, match="no clips to curate"):
        run([], tmp_path / "set")
    with pytest.raises(UserError, match="0 workers"):
        run(clips(1), tmp_path / "set", workers=0)
    with pytest.raises(CheckpointError, match=r"There is no .*nowhere, which was given as faces"):
        curate(clips(1), tmp_path / "set", faces=tmp_path / "nowhere")
    assert not (tmp_path / "set").exists()
    with pytest.raises(UserError, match=r"no curated dataset in .*set. Make one"):
        decide_again(tmp_path / "set")
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError, match="is a file; a folder is needed"):
        run(clips(1), tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds no curated dataset \(there is notes.txt\). Give a new folder"):
        run(clips(1), tmp_path / "other")
    assert os.listdir(tmp_path / "other") == ["notes.txt"]


def test_two_runs_do_not_write_to_one_dataset(tmp_path: Path, faces: Path) -> None:
    told = rf"Another run \(process {os.getpid()} on .*\) is writing to"
    with locked(tmp_path / "set", make=True), pytest.raises(UserError, match=told):
        run(clips(1), tmp_path / "set")
    assert run(clips(1), tmp_path / "set").counts.clips == 1


def test_a_run_may_be_in_a_thread(tmp_path: Path, faces: Path) -> None:
    done: list[Summary] = []
    thread = threading.Thread(target=lambda: done.append(run(clips(2), tmp_path / "set")))
    thread.start()
    thread.join()
    assert done[0].counts.clips == 2


def test_repeated_sources_are_one(tmp_path: Path, faces: Path) -> None:
    (once,) = clips(1)
    again = dataclasses.replace(once, origin="another list")
    summary = run([once, again], tmp_path / "set")
    assert summary.counts.clips == 1
    assert pq.read_table(tmp_path / "set" / "clips.parquet").column("origin").to_pylist() == [""]
