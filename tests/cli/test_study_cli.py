"""`likeness study` and `likeness study tally`, from folders of videos to a table."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from likeness.cli import app
from likeness.evaluate.study import VOTES_FORMAT
from likeness.media import write_picture, write_video
from likeness.types import Video


def call(*options):
    return CliRunner().invoke(app, ["study", *map(str, options)])


@pytest.fixture
def runs(tmp_path):
    """Two folders as `likeness generate` leaves them, with two videos each."""
    write_picture(tmp_path / "ann.png", np.full((32, 32, 3), 120, np.uint8))
    folders = []
    for shade, name in enumerate(("ours", "theirs")):
        for key in "ab":
            video = tmp_path / name / f"{key}.mp4"
            write_video(video, Video(np.full((3, 32, 32, 3), 60 + 90 * shade, np.uint8), 8.0))
            record = {
                "format": 1,
                "video": video.name,
                "prompt": f"a woman, {key}",
                "settings": {"seed": 0},
                "references": [{"path": "../ann.png", "sha256": "a" * 64, "kind": "face"}],
                "model_name": "tiny",
                "method": {"name": name},
            }
            video.with_suffix(".json").write_text(json.dumps(record))
        folders.append(tmp_path / name)
    return folders


def write_votes(folder, study, voter, run):
    """A ballot of somebody who always prefers `run`."""
    key = json.loads((study / "key.json").read_text())
    votes = {
        id: dict.fromkeys(key["questions"], "left" if pair["left"] == run else "right")
        for id, pair in key["pairs"].items()
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{voter}.json"
    path.write_text(json.dumps({"format": VOTES_FORMAT, "study": key["study"], "voter": voter, "votes": votes}))
    return path


def test_from_runs_to_win_rates(runs, tmp_path):
    study = tmp_path / "study"
    result = call(*runs, "--output", study)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{study / 'page/index.html'}\n" and "2 pairs" in result.stderr
    for voter, run in (("x", "ours"), ("y", "ours"), ("z", "theirs")):
        write_votes(tmp_path / "votes", study, voter, run)
    result = call("tally", study, tmp_path / "votes", "--output", tmp_path / "tally.json")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.strip().split("\n")[1:]]
    assert [row[:4] for row in rows] == [
        [name, "ours", "theirs", "67%"] for name in ("identity", "motion", "naturalness")
    ]
    written = json.loads((tmp_path / "tally.json").read_text())
    assert written["voters"] == {"x": 6, "y": 6, "z": 6}
    assert written["win_rates"][0]["rate"]["num"] == 6 and written["win_rates"][0]["kappa"] == pytest.approx(-0.5)


def test_the_command_may_be_named_and_options_may_come_first(runs, tmp_path):
    keys = []
    for name, words in (("a", ["run", *runs, "--output"]), ("b", [*runs, "--output"]), ("c", [])):
        words = [*words, tmp_path / name] if words else ["--output", tmp_path / name, *runs]
        assert call(*words, "--seed", 4, "--quiet").exit_code == 0
        keys.append((tmp_path / name / "key.json").read_bytes())
    assert keys[0] == keys[1] == keys[2]


def test_without_a_seed_every_study_is_another(runs, tmp_path):
    for name in "ab":
        assert call(*runs, "--output", tmp_path / name).exit_code == 0
    seeds = [json.loads((tmp_path / name / "key.json").read_text())["seed"] for name in "ab"]
    assert seeds[0] != seeds[1]


def test_folders_of_others_are_read_by_a_benchmark(runs, tmp_path):
    for folder in runs:
        for path in folder.glob("*.json"):
            path.unlink()
    lines = [{"key": key, "prompt": "p", "references": ["ann.png"]} for key in "ab"]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = call(*runs, "--output", tmp_path / "study", "--benchmark", tmp_path / "rows.jsonl")
    assert result.exit_code == 0, result.output
    key = json.loads((tmp_path / "study/key.json").read_text())
    assert sorted(pair["item"] for pair in key["pairs"].values()) == ["a", "b"]


def test_what_is_left_out_is_told(runs, tmp_path):
    (runs[1] / "b.mp4").unlink()
    result = call(*runs, "--output", tmp_path / "study")
    assert result.exit_code == 0 and "left out: 1 items, such as b (no video in theirs)" in result.stderr


def test_runs_of_the_same_name_are_told_apart(runs, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    runs[1].rename(other / "ours")
    for path in (other / "ours").glob("*.json"):
        path.write_text(path.read_text().replace("../ann.png", "../../ann.png"))
    assert call(runs[0], other / "ours", "--output", tmp_path / "study").exit_code == 0
    names = json.loads((tmp_path / "study/key.json").read_text())["runs"]
    assert len(set(names)) == 2 and all(name.endswith("ours") for name in names)


def one_error(result, words):
    assert result.exit_code == 2 and "Traceback" not in result.output
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert line.startswith("error: ") and words in line


def test_mistakes_are_one_line(runs, tmp_path):
    one_error(call(runs[0], "--output", tmp_path / "s"), "at least two folders")
    one_error(call(runs[0], runs[0], "--output", tmp_path / "s"), "given twice")
    one_error(call(runs[0], tmp_path / "nowhere", "--output", tmp_path / "s"), "no folder")
    one_error(call(*runs, "--output", runs[0]), "may hold votes")
    one_error(call(*runs, "--output", tmp_path / "s", "--num", 0), "at least 1")
    assert not (tmp_path / "s").exists()
    for name in "st":
        assert call(*runs, "--output", tmp_path / name).exit_code == 0
    path = write_votes(tmp_path / "votes", tmp_path / "s", "x", "ours")
    one_error(call("tally", tmp_path / "t", path), "votes of the study")
    one_error(call("tally", tmp_path / "s", path, path), "again")
    one_error(call("tally", tmp_path / "s", tmp_path / "s" / "key.json"), "not a file of votes")
    one_error(call("tally", tmp_path, path), "no key of a study")
    one_error(call("tally", tmp_path / "s", tmp_path / "nowhere.json"), "cannot be read")
    one_error(call("tally", tmp_path / "s"), "Missing argument")
