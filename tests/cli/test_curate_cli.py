"""`likeness curate` as a user runs it: what it prints, how it stops, and every mistake in one line that damages nothing.

Clips are measured by a stand-in here; tests/curate holds the real measuring to a planted truth.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from likeness.cli import app
from likeness.curate import local, record
from likeness.curate.supervise import Outcome
from likeness.curate.types import ClipError, ClipSource, Measured, Measures, ReferenceFace
from likeness.curate.worker import WorkerSpec
from likeness.media import write_picture
from likeness.train.pairs import read_pairs

NUM_CLIPS = 6


def measured(folder: Path, source: ClipSource) -> Measured:
    """Clip 0 is broken, clip 1 shows a crowd that changes, the others one and the same person."""
    number = int(Path(source.path).stem)
    if number == 0:
        raise ClipError(f"The clip {source.path}: half of it is missing. Copy it again.", "corrupt")
    vector = np.array([1, 0.2 * number, 0, 0], np.float32)
    crop = f"crops/{source.key[:2]}/{source.key}_0_0.png"
    write_picture(folder / crop, np.full((16, 16, 3), 40 * number, np.uint8))
    face = ReferenceFace(
        track=0, number=0, sample=0, time_s=0.0, box=(20.0, 9.0, 40.0, 40.0), keypoints=np.zeros((5, 2), np.float32),
        score=0.9, area=0.2, mean_x=0.5, embedding=vector / np.linalg.norm(vector), crop=crop,
    )  # fmt: skip
    measures = Measures(
        width=64, height=64, fps=8.0, duration_s=2.0, rotation=0, num_expected=4, num_delivered=4, num_corrupt=0,
        num_people=(1, 1, 2, 2) if number == 1 else (1,) * 4, cosines=((0.9, 0.9, 0.4 if number == 2 else 0.9),),
        areas=((0.2,) * 4,), flow=0.1, motion=0.1, aesthetics=None,
    )  # fmt: skip
    return Measured(clip_id=f"{number:032x}", measures=measures, faces=(), references=(face,), thumbnail=b"")


def run_here(sources, make, *, workers, deadline_s):
    worker = make()
    for source in sources:
        try:
            yield Outcome(source=source, status="ok", measured=worker(source))
        except ClipError as error:
            yield Outcome(source=source, status="error", reason=error.reason, detail=str(error))


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerSpec, "__call__", lambda self: partial(measured, Path(self.dataset)))
    monkeypatch.setattr(local, "run_local", run_here)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of files with captions beside all but the last, and a face pack that is only compared."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(NUM_CLIPS):
        (folder / f"{number}.mp4").write_bytes(b"%d" % number)
        if number < NUM_CLIPS - 1:
            (folder / f"{number}.txt").write_text("A woman smiles.")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "detector.onnx").write_bytes(b"a detector")
    return folder


def call(*words):
    return CliRunner().invoke(app, ["curate", *map(str, words)])


@pytest.fixture
def curate(clips: Path, tmp_path: Path):
    """Runs `likeness curate` on the clips; options given again win."""
    return lambda *options: call(clips, "--output", tmp_path / "set", "--faces", tmp_path / "pack", *options)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def assert_one_line(result, words: str) -> None:
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and re.search(words, lines[0]), result.stderr
    assert "Traceback" not in result.output


def test_a_run_says_what_came_of_it_and_where_it_is(curate, tmp_path: Path) -> None:
    result = curate()
    assert result.exit_code == 0, result.output
    folder = tmp_path / "set"
    assert result.stdout.split() == [str(folder)]
    last = result.stderr.splitlines()[-1]
    assert last.startswith("curated: 6 clips: kept 3, dropped 2, error 1; 6 measured now, 0 before; pairs: ")
    assert str(folder / "report.html") in last and (folder / "report.html").is_file()
    assert "curating: 6 of 6 clips" in result.stderr and "kept 3, corrupt 1" in result.stderr


def test_a_finished_run_measures_nothing_again_and_quiet_is_quiet(curate, tmp_path: Path) -> None:
    assert curate("--quiet").stderr == ""
    before = contents(tmp_path / "set")
    result = curate()
    assert "0 measured now, 6 before" in result.stderr
    assert contents(tmp_path / "set") == before


def test_clips_that_need_no_measuring_are_told_by_their_reason(curate, tmp_path: Path) -> None:
    (tmp_path / "clips" / "3.txt").write_text("A red car.")
    first = curate().stderr
    assert "curating: 1 of 6 clips; no person in caption 1\n" in first and "from before" not in first
    (tmp_path / "clips" / "4.mp4").write_bytes(b"changed")
    assert "curating: 5 of 6 clips; from before 4, no person in caption 1\n" in curate().stderr


def test_limits_are_moved_without_measuring(curate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curate()
    monkeypatch.setattr(WorkerSpec, "__call__", None)
    result = call(
        "decide", tmp_path / "set", "--set", "thresholds.max_other_count=0.6", "--set", "thresholds.max_breaks=0.4"
    )
    assert "6 clips: kept 5, error 1; 0 measured now" in result.stderr, result.output
    assert "at most 60 %" in (tmp_path / "set" / "report.html").read_text()
    assert call("report", tmp_path / "set").stdout.split() == [str(tmp_path / "set" / "report.html")]


def test_ctrl_c_while_deciding_is_told(curate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curate()
    before = contents(tmp_path / "set")

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("likeness.curate.run.decided_clips", interrupted)
        result = call("decide", tmp_path / "set", "--set", "thresholds.max_other_count=0.6")
    assert result.exit_code == 130 and "stopped: no table is half written" in result.stderr
    assert contents(tmp_path / "set") == before


def test_lists_are_exported_for_training(curate, tmp_path: Path) -> None:
    curate()
    result = call("export", tmp_path / "set", "--output", tmp_path / "lists")
    assert result.exit_code == 0, result.output
    assert "--caption TEXT" in result.stderr, "one clip that is kept has no caption"
    assert str(tmp_path / "lists" / "cross.json") in result.stdout.split()
    pairs = read_pairs([tmp_path / "lists" / "pretraining.json"])
    assert [pair.video.name for pair in pairs] == ["3.mp4", "4.mp4"] and pairs[0].caption == "A woman smiles."


def test_one_clip_is_shown(curate, tmp_path: Path) -> None:
    curate()
    source = ClipSource(path=str(tmp_path / "clips" / "1.mp4"), caption="A woman smiles.")
    before = contents(tmp_path / "set")
    result = call("show", tmp_path / "set", source.key[:8])
    assert contents(tmp_path / "set") == before
    told = json.loads(result.stdout)
    assert told["verdict"]["reason"] == "people count varies" and told["measures"]["num_people"] == [1, 1, 2, 2]
    assert_one_line(call("show", tmp_path / "set", "zz"), "0 clips .* begins with 'zz'")


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(
    curate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = curate()
    reference = contents(tmp_path / "set")
    (tmp_path / "set").rename(tmp_path / "reference")

    def interrupted(sources, make, **options):
        for number, outcome in enumerate(run_here(sources, make, **options)):
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield outcome

    monkeypatch.setattr(local, "run_local", interrupted)
    result = curate()
    assert result.exit_code == 130
    told = re.search(r"stopped: with (\d) of 6 clips measured; the same command goes on", result.stderr)
    assert told and 3 <= int(told[1]) < 6
    monkeypatch.setattr(local, "run_local", run_here)
    again = curate()
    assert (
        again.exit_code == whole.exit_code == 0 and f"{6 - int(told[1])} measured now, {told[1]} before" in again.stderr
    )
    tables = [name for name in reference if name.endswith(".parquet") and not name.startswith("measures")]
    assert {name: contents(tmp_path / "set")[name] for name in tables} == {name: reference[name] for name in tables}


def test_the_configuration_is_shown(clips: Path) -> None:
    assert json.loads(call(clips, "--show").stdout)["thresholds"]["max_breaks"] == 0.3
    assert json.loads(call("run", clips, "--show", "--set", "ranking.top=7").stdout)["ranking"]["top"] == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere", "-o", "out"), "no file or folder nowhere"),
        (("empty", "-o", "out"), "no clips in empty"),
        (("*.mkv", "-o", "out"), r"No file matches \*\.mkv"),
        (("clips",), "--output is missing"),
        (("clips", "-o", "photos"), "holiday.jpg"),
        (("clips", "-o", "photos/holiday.jpg"), "is a file"),
        (("clips", "-o", "out", "--faces", "nowhere"), "nowhere"),
        (("clips", "-o", "out", "--set", "thresholds.max_brakes=1"), "max_brakes"),
        (("clips", "-o", "out", "--set", "thresholds.max_breaks=30"), "share, in 0..1"),
        (("clips", "-o", "out", "--deadline-s", "0"), "greater than 0"),
        (("list.json", "-o", "out"), "list.json"),
        (("list.csv", "-o", "out"), "video_path"),
        (("latin.jsonl", "-o", "out"), "UTF-8"),
        (("numbers.jsonl", "-o", "out"), "numbers.jsonl, line 1.*caption"),
        (("decide", "photos"), "no curated dataset"),
        (("report", "photos"), "no curated dataset"),
        (("export", "nowhere"), "no curated dataset"),
        (("leaks", "photos", "clips"), "no curated dataset"),
    ],
)
def test_a_mistake_is_one_line_and_makes_nothing(
    words, message: str, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIKENESS_FACES", str(tmp_path / "pack"))
    Path("empty").mkdir()
    Path("photos").mkdir()
    Path("photos/holiday.jpg").write_bytes(b"a picture")
    Path("list.json").write_text('[{"video_path": "clips/0.mp4"')
    Path("list.csv").write_text("clip;words\nclips/0.mp4;hello\n")
    Path("latin.jsonl").write_bytes('{"video_path": "clips/0.mp4", "caption": "caf\u00e9"}'.encode("latin-1"))
    Path("numbers.jsonl").write_text('{"video_path": "clips/0.mp4", "caption": 7}')
    before = contents(tmp_path)
    assert_one_line(call(*words), message)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "pack" / "detector.onnx").write_bytes(b"another"), "detector.onnx has changed"),
        (lambda folder: (folder / "pack" / "recogniser.onnx").write_bytes(b"one more"), "recogniser.onnx is new"),
        (lambda folder: (folder / "set" / "run.json").write_text("{"), "run.json is damaged"),
        (lambda folder: (folder / "clips" / "2.txt").write_bytes(b"caf\xe9"), "2.txt.*UTF-8"),
    ],
)
def test_a_dataset_is_not_mixed_and_not_lost(curate, tmp_path: Path, change, message: str) -> None:
    curate()
    change(tmp_path)
    before = contents(tmp_path)
    assert_one_line(curate(), message)
    assert contents(tmp_path) == before


def test_other_measuring_settings_are_refused_by_name(curate, tmp_path: Path) -> None:
    curate()
    before = contents(tmp_path)
    assert_one_line(curate("--set", "measuring.samples_per_second=4"), r"measuring\.samples_per_second=2\.0.*4")
    assert_one_line(call("decide", tmp_path / "set", "--set", "measuring.references=3"), r"measuring\.references")
    assert contents(tmp_path) == before


def test_a_full_disk_loses_nothing_that_was_kept(curate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(table, where, **options):
        Path(where).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(record.pq, "write_table", full)
        assert_one_line(curate(), "disk filled up")
    assert not [name for name in contents(tmp_path / "set") if "tmp" in name or name.endswith(".parquet")]
    assert "kept 3" in curate().stderr
    before = contents(tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setattr(record.pq, "write_table", full)
        assert_one_line(call("decide", tmp_path / "set", "--set", "thresholds.max_breaks=0.4"), "disk filled up")
    after = contents(tmp_path / "set")
    assert {name: after.get(name) for name in before if name.startswith("measures")} == {
        name: data for name, data in before.items() if name.startswith("measures")
    }
    assert "0 measured now, 6 before" in curate().stderr
