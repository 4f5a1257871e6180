"""A whole evaluation: what is measured, what is not measured twice, what becomes of videos that are none, and a kill."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from evaluation_parts import Brightness, grey_clip, item
from odd_videos import KINDS, good_bytes, make

from likeness.errors import UserError
from likeness.evaluate.decode import UnreadableVideo, read_frames
from likeness.evaluate.record import RESULTS, read_rows
from likeness.evaluate.run import Progress, evaluate
from likeness.evaluate.types import Result
from likeness.media import read_video, write_picture


@pytest.fixture
def clips(tmp_path):
    """Ten clips of 1 to 10 frames; frame i of clip n has the level 20 n + i."""
    return [
        item(f"v{n}", grey_clip(tmp_path / "videos" / f"v{n}.mp4", [20 * n + i for i in range(n)]), group=f"g{n % 3}")
        for n in range(1, 11)
    ]


def _levels(report):
    return {row.id: row.values.get("level") for row in report.rows if row.metric == "brightness"}


def test_values_are_those_of_the_frames(clips, tmp_path):
    report = evaluate(clips, [Brightness()], tmp_path / "report")
    for n, level in enumerate(_levels(report).values(), 1):
        assert level == pytest.approx(20 * n + (n - 1) / 2, abs=1)
    row = report.rows[-1]
    assert (row.width, row.height, row.num_frames, row.fps, row.status) == (16, 16, 10, 8.0, "ok")
    assert row.curves["level"] == pytest.approx([200, 209], abs=1)


def test_no_number_depends_on_the_batch(clips, tmp_path):
    reports = [evaluate(clips, [Brightness()], tmp_path / str(size), batch=size) for size in (1, 3, 50)]
    assert _levels(reports[0]) == _levels(reports[1]) == _levels(reports[2])


def test_a_video_is_decoded_once_for_all_metrics(clips, tmp_path, monkeypatch):
    from likeness.evaluate import run

    read = []
    monkeypatch.setattr(run, "read_frames", lambda path, wanted: read.append(path) or read_frames(path, wanted))
    evaluate(clips, [Brightness(), Brightness("contrast"), Brightness("shade")], tmp_path / "report")
    assert read == [clip.video for clip in clips]


def test_frames_are_those_that_a_whole_decode_gives(tmp_path):
    rng = np.random.default_rng(0)
    path = grey_clip(tmp_path / "v.mp4", rng.integers(0, 255, 37), size=32, fps=12)
    whole = read_video(path)
    found = read_frames(path, lambda num, fps: np.array([36, 0, 5, 5]))
    assert (found.indices.tolist(), found.num_frames, found.fps) == ([0, 5, 36], 37, 12.0)
    assert np.array_equal(found.frames, whole.frames[[0, 5, 36]])


def test_what_is_there_is_not_measured_again(clips, tmp_path):
    first = Brightness()
    evaluate(clips[:6], [first], tmp_path / "report")
    again, more = Brightness(), Brightness("contrast")
    seen = []
    evaluate(clips, [again, more], tmp_path / "report", progress=seen.append)
    assert again.asked == [clip.id for clip in clips[6:]]
    assert more.asked == [clip.id for clip in clips]
    third = Brightness()
    report = evaluate(clips, [third], tmp_path / "report", progress=seen.append)
    assert third.asked == []
    assert seen[-1] == Progress(done=10, total=10, kept=10, without=0)
    assert len(report.rows) == 20


def test_a_video_that_changes_is_measured_anew_and_back_again(clips, tmp_path):
    one = clips[:1]
    before = _levels(evaluate(one, [Brightness()], tmp_path / "report"))
    kept = one[0].video.read_bytes()
    grey_clip(one[0].video, [250])
    assert _levels(evaluate(one, [Brightness()], tmp_path / "report"))["v1"] == pytest.approx(250, abs=1)
    one[0].video.write_bytes(kept)
    metric = Brightness()
    assert _levels(evaluate(one, [metric], tmp_path / "report")) == before
    assert metric.asked == []  # the first row counts again
    one[0].video.unlink()
    report = evaluate(one, [Brightness()], tmp_path / "report")
    assert [row.status for row in report.rows] == ["missing"]


class _Broken(Brightness):
    """Raises at one video, gives no number at another."""

    def measure(self, sample):
        if sample.item.id == "v4":
            raise MemoryError("no room\nfor this")
        if sample.item.id == "v5":
            return Result(values={"level": float("nan")})
        return super().measure(sample)


def test_a_metric_that_raises_takes_no_other_video_with_it(clips, tmp_path):
    report = evaluate(clips, [_Broken()], tmp_path / "report", batch=5)
    failed = {row.id: row.reason for row in report.rows if row.status == "failed"}
    assert failed == {"v4": "MemoryError: no room for this", "v5": "level came out as no number"}
    mended = Brightness()
    report = evaluate(clips, [mended], tmp_path / "report", batch=5)  # what failed is tried again, and only that
    assert mended.asked == ["v4", "v5"]
    assert Counter(row.status for row in report.rows) == {"ok": 10}


def test_references(tmp_path):
    picture = tmp_path / "ann.png"
    write_picture(picture, np.full((20, 20, 3), 9, np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    clip = grey_clip(tmp_path / "v.mp4", [1, 2])
    items = [
        item("with", clip, references=(picture, picture)),
        item("nobody", clip),
        item("broken", clip, references=(tmp_path / "broken.png",)),
    ]
    needy, free = Brightness("needy", needs_reference=True), Brightness("free")
    rows = {(row.id, row.metric): row for row in evaluate(items, [needy, free], tmp_path / "report").rows}
    assert [rows[id, "free"].status for id in ("with", "nobody", "broken")] == ["ok", "ok", "ok"]
    assert rows["with", "needy"].status == "ok"
    assert rows["nobody", "needy"].status == "no reference face"
    assert rows["broken", "needy"].status == "failed"
    assert "not a picture" in rows["broken", "needy"].reason


def test_what_concerns_all_rows_is_refused_before_any_work(clips, tmp_path):
    metric = Brightness(needs_reference=True)
    lost = [item("a", clips[0].video, references=(tmp_path / f"{n}.png",)) for n in "xy"]
    with pytest.raises(UserError, match=r"x\.png of a is not there"):
        evaluate(lost[:1], [metric], tmp_path / "report")
    with pytest.raises(UserError, match="comes twice"):
        evaluate([clips[0], clips[0]], [metric], tmp_path / "report")
    with pytest.raises(UserError, match="lists no videos"):
        evaluate([], [metric], tmp_path / "report")
    with pytest.raises(UserError, match="no metric was asked for"):
        evaluate(clips, [], tmp_path / "report")
    assert not (tmp_path / "report").exists()
    evaluate(lost[:1], [Brightness()], tmp_path / "report")  # a metric that needs none goes on
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        evaluate(clips, [Brightness()], tmp_path / "file" / "report")


# Videos that are none


def _evaluate_odd(tmp_path, count):
    clip, one_frame = good_bytes(tmp_path)
    kinds = [list(KINDS)[number % len(KINDS)] for number in range(count)]
    items = []
    for number, kind in enumerate(kinds):
        path = tmp_path / "odd" / f"{number:04d}.mp4"
        path.parent.mkdir(exist_ok=True)
        make(kind, path, clip, one_frame, seed=number)
        items.append(item(f"{number:04d}", path))
    report = evaluate(items, [Brightness(), Brightness("contrast")], tmp_path / "report")
    assert len(report.rows) == 2 * count == len(read_rows(tmp_path / "report" / RESULTS))
    for place, (kind, id) in enumerate(zip(kinds, report.items, strict=True)):
        for row in report.rows[2 * place : 2 * place + 2]:
            assert row.id == id
            assert KINDS[kind] in (row.status, None), (kind, row)
            assert (row.status == "ok") == (row.reason == "") == ("level" in row.values), (kind, row)
    return Counter(row.status for row in report.rows)


def test_fifty_odd_videos_give_fifty_rows_with_reasons(tmp_path):
    assert set(_evaluate_odd(tmp_path, 51)) >= {"ok", "missing", "unreadable"}


@pytest.mark.slow
def test_a_thousand_odd_videos_give_a_thousand_rows_with_reasons(tmp_path):
    statuses = _evaluate_odd(tmp_path, 1000)
    assert sum(statuses.values()) == 2000


def test_a_frame_that_is_lost_within_is_seen(tmp_path):
    """A file whose index promises more than its end holds; a decoder says nothing."""
    path = grey_clip(tmp_path / "v.mp4", np.random.default_rng(0).integers(0, 255, 60), size=64)
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
    with pytest.raises(UnreadableVideo, match=r"cut short: \d+ of 60 frames|damaged"):
        read_frames(path, lambda num, fps: np.arange(num))


# A kill

_KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from evaluation_parts import Brightness, item
from likeness.evaluate.run import evaluate

class Slow(Brightness):
    def measure(self, sample):
        time.sleep(0.05)
        return super().measure(sample)

folder = Path({folder!r})
items = [item(path.stem, path) for path in sorted((folder / "videos").glob("*.mp4"))]
evaluate(items, [Slow(), Slow("contrast")], folder / "report", batch=2)
"""


def test_a_killed_evaluation_loses_nothing_and_counts_nothing_twice(clips, tmp_path):
    code = _KILLED.format(here=str(Path(__file__).parents[1]), folder=str(tmp_path))
    results = tmp_path / "report" / RESULTS
    for wanted in (4, 12):  # killed twice: at the beginning, and within what went on
        process = subprocess.Popen([sys.executable, "-c", code])
        while process.poll() is None and (not results.exists() or results.read_bytes().count(b"\n") < wanted):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        with results.open("ab") as file:
            file.write(b'{"key": "half a li')  # what a kill within a write leaves
    items = [item(path.stem, path) for path in sorted((tmp_path / "videos").glob("*.mp4"))]
    report = evaluate(items, [Brightness(), Brightness("contrast")], tmp_path / "report")
    rows = read_rows(results)
    assert Counter((row.id, row.metric) for row in rows) == {
        (one.id, metric): 1 for one in items for metric in ("brightness", "contrast")
    }
    whole = evaluate(items, [Brightness(), Brightness("contrast")], tmp_path / "uninterrupted")
    assert [(row.key, row.values) for row in report.rows] == [(row.key, row.values) for row in whole.rows]
