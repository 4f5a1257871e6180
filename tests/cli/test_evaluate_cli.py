"""`likeness evaluate` and `likeness compare` as a user calls them."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest
from evaluation_parts import Brightness, grey_clip, made_up_report, row
from typer.testing import CliRunner

from likeness.cli import app
from likeness.cli.evaluate import _faces
from likeness.evaluate.metrics import METRICS
from likeness.evaluate.record import read_rows
from likeness.evaluate.types import BackendAbsent
from likeness.faces import DRAWN_FACES


def _absent(backends):
    raise BackendAbsent("--musiq")


@pytest.fixture(autouse=True)
def quick_metrics(monkeypatch):
    """Three metrics: one that needs references, one that needs none, one without its weights."""
    monkeypatch.delenv("LIKENESS_FACES", raising=False)
    for name in list(METRICS):
        monkeypatch.delitem(METRICS, name)
    monkeypatch.setitem(METRICS, "face", lambda backends: Brightness("face", needs_reference=True))
    monkeypatch.setitem(METRICS, "light", lambda backends: Brightness("light"))
    monkeypatch.setitem(METRICS, "imaging", _absent)


@pytest.fixture
def evaluate():
    def call(*options, command="evaluate"):
        return CliRunner().invoke(app, [command, *map(str, options)])

    return call


@pytest.fixture
def bench(tmp_path):
    """A batch of five rows, whose videos are numbered; the fourth is missing and the fifth is empty."""
    from likeness.media import write_picture

    for name in "ab":
        write_picture(tmp_path / f"{name}.png", grey(90))
    lines = [f"prompt {number}@@{'ab'[number % 2]}.png" for number in range(5)]
    (tmp_path / "batch.txt").write_text("\n".join(lines))
    for number in range(3):
        grey_clip(tmp_path / "videos" / f"{number}.mp4", [50 * number + 20] * 3)
    (tmp_path / "videos" / "4.mp4").touch()
    return tmp_path


def grey(level, size=20):
    import numpy as np

    return np.full((size, size, 3), level, np.uint8)


def test_a_report(evaluate, bench):
    result = evaluate(bench / "videos", "--benchmark", bench / "batch.txt", "--output", bench / "report", "--parquet")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0][:3] == ["metric", "protocol", "value"]
    assert [line[0] for line in lines[1:3]] == ["face", "light"]
    assert lines[2][-10:] == ["3", "of", "5", "2", "16", "x", "16", "px,", "3", "frames"]
    assert result.stdout.splitlines()[-1] == str(bench / "report")
    notes = result.stderr.splitlines()
    assert notes[0] == "backend absent: give --musiq PATH for imaging"
    assert notes[1].startswith("missing: 1 of 5 videos, such as 0003 (0003.mp4: there is no such file)")
    assert notes[2].startswith("unreadable: 1 of 5 videos, such as 0004 (4.mp4: the file is empty (0 bytes))")
    assert len(notes) == 3
    names = {path.name for path in (bench / "report").iterdir()}
    assert {"results.jsonl", "run.json", "table.json", "results.csv", "results.parquet"} <= names
    table = json.loads((bench / "report" / "table.json").read_text())
    assert table["absent"] == {"imaging": "--musiq"}
    assert [line["mean"] for line in table["lines"]] == pytest.approx([70, 70], abs=1)
    with (bench / "report" / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 10


def test_videos_that_no_row_asks_for_are_told(evaluate, bench):
    grey_clip(bench / "videos" / "cat.mp4", [9])
    result = evaluate(bench / "videos", "-b", bench / "batch.txt", "-o", bench / "report")
    assert f"left out: 1 videos that no row of the benchmark asks for, such as {bench}/videos/cat.mp4" in result.stderr


def test_metrics_by_name(evaluate, bench):
    given = (bench / "videos", "-b", bench / "batch.txt", "-o", bench / "report", "-q")
    assert evaluate(*given, "--metrics", "light").exit_code == 0
    assert {found.metric for found in read_rows(bench / "report" / "results.jsonl")} == {"light"}
    result = evaluate(*given, "--metrics", "light,face", "--metrics", "face")
    assert result.exit_code == 0
    assert "backend absent" not in result.output
    assert len(read_rows(bench / "report" / "results.jsonl")) == 10


class _Killer(Brightness):
    """Ends the process as a cluster does, at the second video."""

    def measure(self, sample):
        if sample.item.id == "0001":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().measure(sample)


def test_a_run_that_is_stopped_says_how_to_go_on(evaluate, bench, monkeypatch):
    given = (bench / "videos", "-b", bench / "batch.txt", "-o", bench / "report", "--batch", 1)
    monkeypatch.setitem(METRICS, "face", lambda backends: _Killer("face"))
    result = evaluate(*given)
    assert result.exit_code == 130
    assert "interrupted: 1 of 5 videos are measured; the same command goes on from there" in result.stderr
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert {found.id for found in read_rows(bench / "report" / "results.jsonl")} == {"0000"}
    monkeypatch.setitem(METRICS, "face", lambda backends: Brightness("face"))
    assert evaluate(*given).exit_code == 0
    assert len(read_rows(bench / "report" / "results.jsonl")) == 10


def test_rows_for_generate(evaluate, bench):
    result = evaluate("--benchmark", bench / "batch.txt", "--write-batch", bench / "out" / "pairs.jsonl")
    assert (result.exit_code, result.stdout.strip()) == (0, str(bench / "out" / "pairs.jsonl"))
    entries = [json.loads(line) for line in (bench / "out" / "pairs.jsonl").read_text().splitlines()]
    assert [entry["key"] for entry in entries] == ["0000", "0001", "0002", "0003", "0004"]
    assert entries[0]["references"] == ["../a.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ["No folder of the videos", "VIDEOS"]),
        (("{videos}", "-b", "{bench}"), ["No folder of the report", "--output"]),
        (("{videos}", "-o", "{out}"), ["not written by `likeness generate`", "--benchmark"]),
        (("{videos}", "-b", "{root}/nothing", "-o", "{out}"), ["There is no benchmark", "OpenS2V-Eval", "VIP-200K"]),
        (("{videos}", "-b", "{videos}", "-o", "{out}"), ["no benchmark whose layout is known", "Concat-ID"]),
        (("{videos}", "-b", "{bench}", "-o", "{out}", "--metrics", "beauty"), ["no metric beauty", "face, light"]),
        (("{videos}", "-b", "{bench}", "-o", "{out}", "--metrics", "imaging"), ["imaging", "give --musiq PATH"]),
        (("{videos}", "-b", "{lost}", "-o", "{out}"), ["lost.png", "is not there", "face"]),
        (("{root}/nowhere", "-b", "{bench}", "-o", "{out}"), ["There is no folder", "nowhere"]),
        (("{videos}", "--one-a-category", "-o", "{out}"), ["need a --benchmark"]),
        (("{videos}", "-b", "{bench}", "--one-a-category", "-o", "{out}"), ["no category"]),
        (("-b", "{bench}", "--write-batch", "{root}/pairs.json"), ["must end in .jsonl"]),
    ],
)
def test_mistakes_are_one_line(evaluate, bench, options, words):
    (bench / "lost.txt").write_text("a man@@lost.png\n" + "a man@@a.png\n" * 4)
    places = {
        "videos": bench / "videos", "bench": bench / "batch.txt", "out": bench / "report", "root": bench,
        "lost": bench / "lost.txt",
    }  # fmt: skip
    result = evaluate(*(option.format(**places) for option in options), "-q")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line
    assert not (bench / "report").exists()


def test_compare_prints_pairs_and_writes_them(evaluate, tmp_path):
    ids = [f"{name}-{number}" for name in ("ann", "bob", "cid") for number in (0, 1)]
    made_up_report(tmp_path / "before", [row(id, 0.5) for id in ids])
    made_up_report(tmp_path / "after", [row(id, 0.75) for id in ids[:5]] + [row("new", 1.0, metric="light")],
                   metrics=[Brightness(), Brightness("light")])  # fmt: skip
    result = evaluate(tmp_path / "before", tmp_path / "after", "--output", tmp_path / "c.json", command="compare")
    assert result.exit_code == 0, result.output
    header, line = result.stdout.splitlines()
    assert header.split()[:3] == ["metric", "protocol", "value"]
    assert line.split() == ["brightness", "own", "level", "↑", "0.5000", "0.7500", "0.2500", "[0.2500,", "0.2500]", "*",
                            "100%", "[100%,", "100%]", "5"]  # fmt: skip
    assert result.stderr.splitlines() == [
        "incomplete: after has not measured 6 of 6 videos; `likeness evaluate` goes on",
        "left out: 2 rows that are not in every run",
        "left out: light, which only after has",
    ]
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["lines"][0]["against_first"][0]["difference"]["mean"] == 0.25


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"protocol": "strict"}, ["measured with own in before", "with strict in after"]),
        ({"weights": "ab"}, ["the weights (none) in before", "the weights ab in after"]),
        ({"height": 96}, ["64 x 48 px", "64 x 96 px", "--any-size"]),
    ],
)
def test_compare_refuses_to_mix(evaluate, tmp_path, others, words):
    made_up_report(tmp_path / "before", [row("ann", 0.5)])
    made_up_report(tmp_path / "after", [row("ann", 0.5, **others)])
    result = evaluate(tmp_path / "before", tmp_path / "after", command="compare")
    assert (result.exit_code, result.stdout) == (2, "")
    assert all(word in result.stderr for word in words), result.stderr


def test_which_face_models_are_taken(monkeypatch, tmp_path, capsys):
    """The package's own, which know drawn people only, are taken in silence for nobody."""
    assert _faces(str(tmp_path), is_own=False, quiet=False) == tmp_path
    assert _faces("drawn", is_own=False, quiet=False) == DRAWN_FACES
    assert _faces(None, is_own=False, quiet=False) is None
    assert capsys.readouterr().err == ""
    assert _faces(None, is_own=True, quiet=False) == DRAWN_FACES
    assert "know drawn people only" in capsys.readouterr().err
    monkeypatch.setenv("LIKENESS_FACES", str(tmp_path))
    assert _faces(None, is_own=False, quiet=False) == tmp_path
    assert _faces(None, is_own=True, quiet=False) == tmp_path
    assert _faces("drawn", is_own=True, quiet=False) == DRAWN_FACES
    assert capsys.readouterr().err == ""


def test_help_needs_neither_numpy_nor_torch():
    code = "import sys\nfrom likeness.cli import app\nprint({'torch', 'numpy', 'av'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
