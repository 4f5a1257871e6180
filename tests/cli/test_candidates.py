"""`likeness generate --candidates`: the best of several seeds, measured as an evaluation measures them."""

import json

import numpy as np
import pytest

from likeness.errors import UserError
from likeness.evaluate.identity import facesim_arc_strict
from likeness.evaluate.run import evaluate
from likeness.evaluate.run_folder import read_run_folder
from likeness.evaluate.types import Backends, Item
from likeness.faces import faces_folder
from likeness.generate import Choice, Job, Settings
from likeness.generate.candidates import IdentityJudge
from likeness.media import read_video, write_picture, write_video
from likeness.types import Video

PROMPT = "a woman smiling in the park"
FACES = faces_folder()  # of the package, before a fixture puts others in its place


class ScriptedJudge:
    """Scores by the seed in the name of the file, as a test says; everything else is the real one's."""

    scores: dict[int, float]
    asked: list[str]

    def __init__(self, faces):
        pass

    def metric(self, job):
        return facesim_arc_strict(Backends(faces=FACES))

    def check(self, job):
        pass

    def score(self, job, video):
        self.asked.append(video.name)
        return self.scores[int(video.stem.removeprefix("seed"))]


@pytest.fixture
def scores(monkeypatch):
    """Decides how candidates score; `asked` says which were scored."""
    monkeypatch.setattr("likeness.generate.run.IdentityJudge", ScriptedJudge)

    def decide(*values, first=0):
        ScriptedJudge.scores, ScriptedJudge.asked = dict(enumerate(values, first)), []

    return decide


def test_the_best_seed_is_the_video_and_all_are_recorded(generate, photographs, tmp_path, scores, files_of):
    scores(0.1, 0.4, 0.3, first=7)
    options = ("-r", photographs["ann"], "-p", PROMPT, "--seed", 7, "--candidates", 3)
    result = generate(*options, "-o", tmp_path / "best/v.mp4")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'best/v.mp4'}\n"
    assert "seed 8 of 3 candidates, identity 0.40 (the others from 0.10)" in result.stderr
    assert generate("-r", photographs["ann"], "-p", PROMPT, "--seed", 8, "-o", tmp_path / "one/v.mp4").exit_code == 0
    best, one = files_of(tmp_path / "best"), files_of(tmp_path / "one")
    assert best.keys() == one.keys() == {"v.mp4", "v.json", "v.png"}
    assert best["v.mp4"] == one["v.mp4"] and best["v.png"] == one["v.png"]
    record = json.loads(best["v.json"])
    chosen = record.pop("candidates")
    assert record == json.loads(one["v.json"])
    assert [(entry["seed"], entry["score"]) for entry in chosen["scores"]] == [(7, 0.1), (8, 0.4), (9, 0.3)]
    assert len({entry["sha256"] for entry in chosen["scores"]}) == 3
    assert chosen["scores"][1]["sha256"] == record["sha256"]
    assert (chosen["select"], chosen["metric"], chosen["protocol"]) == ("identity", "facesim_arc_strict", "strict")
    assert len(chosen["weights"]) == 16
    again = generate("--from", tmp_path / "best/v.json", "-o", tmp_path / "again/v.mp4")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again/v.mp4").read_bytes() == best["v.mp4"]


def test_ties_go_to_the_first_seed_and_the_same_command_gives_the_same_bytes(
    generate, photographs, tmp_path, scores, files_of
):
    for name in "ab":
        scores(0.0, 0.0)
        options = ("-r", photographs["ann"], "-p", PROMPT, "--candidates", 2, "--select", "identity")
        assert generate(*options, "-o", tmp_path / name / "v.mp4").exit_code == 0
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert json.loads((tmp_path / "a/v.json").read_text())["settings"]["seed"] == 0


def test_others_are_kept_if_asked_for(generate, photographs, tmp_path, scores, files_of):
    scores(0.2, 0.1)
    options = ("-r", photographs["ann"], "-p", PROMPT, "--candidates", 2, "-o", tmp_path / "v.mp4")
    assert generate(*options).exit_code == 0
    alone = files_of(tmp_path)
    assert generate(*options, "--keep-candidates").exit_code == 0
    kept = files_of(tmp_path)
    others = {f"v_candidates/seed{seed}{suffix}" for seed in (0, 1) for suffix in (".mp4", ".json", ".png")}
    assert kept.keys() == alone.keys() | others
    assert {name: kept[name] for name in alone} == alone
    assert kept["v_candidates/seed0.mp4"] == kept["v.mp4"] != kept["v_candidates/seed1.mp4"]
    assert [item.id for item in read_run_folder(tmp_path)] == ["v"], "an evaluation counts the one that was chosen"
    assert [item.id for item in read_run_folder(tmp_path / "v_candidates")] == ["seed0", "seed1"]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    result = generate(*options, "--keep-candidates")
    assert result.exit_code == 0 and "kept: v.mp4: finished before, seed 0 of 2 candidates" in result.stderr
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}


def test_a_stopped_choice_goes_on(generate, photographs, tmp_path, scores, files_of, monkeypatch):
    options = ("-r", photographs["ann"], "-p", PROMPT, "--candidates", 3)
    scores(0.1, 0.3, 0.2)
    assert generate(*options, "-o", tmp_path / "whole/v.mp4").exit_code == 0
    scores(0.1, 0.3, 0.2)
    score, made = ScriptedJudge.score, []

    def stopped(self, job, video):
        if video.stem == "seed1":
            raise KeyboardInterrupt
        return score(self, job, video)

    monkeypatch.setattr(ScriptedJudge, "score", stopped)
    result = generate(*options, "-o", tmp_path / "stopped/v.mp4")
    assert result.exit_code == 130 and "0 of 1 videos are finished" in result.stderr
    assert not (tmp_path / "stopped/v.mp4").exists()
    monkeypatch.setattr(ScriptedJudge, "score", score)
    from likeness.generate.studio import Studio

    make = Studio.make
    monkeypatch.setattr(
        Studio, "make", lambda self, job, *rest: made.append(job.settings.seed) or make(self, job, *rest)
    )
    assert generate(*options, "-o", tmp_path / "stopped/v.mp4").exit_code == 0
    assert made == [2]
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")
    scores()
    assert generate(*options, "-o", tmp_path / "stopped/v.mp4").exit_code == 0
    assert made == [2] and ScriptedJudge.asked == []


def test_every_video_of_a_batch_is_chosen_and_a_bad_one_stops_no_other(generate, photographs, tmp_path, scores):
    scores(0.1, 0.2, 0.0)
    lines = [
        {"key": "a", "prompt": "a man smiling", "references": str(photographs["ann"])},
        {"key": "b", "prompt": "a man smiling", "references": str(tmp_path / "nowhere.png")},
        {"key": "c", "prompt": "a man smiling", "references": str(photographs["bob"]), "seed": 1},
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = generate("--batch", tmp_path / "b.jsonl", "--candidates", 2, "-o", tmp_path / "out", "--no-sheet")
    assert result.exit_code == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a.mp4",
        "a.json",
        "c.mp4",
        "c.json",
        "failures.json",
    }
    seeds = {name: json.loads((tmp_path / f"out/{name}.json").read_text())["settings"]["seed"] for name in "ac"}
    assert seeds == {"a": 1, "c": 1}


def test_a_single_video_is_not_replaced_by_a_choice(generate, photographs, tmp_path, scores, files_of):
    scores(0.1, 0.2)
    options = ("-r", photographs["ann"], "-p", PROMPT, "-o", tmp_path / "v.mp4")
    assert generate(*options).exit_code == 0
    before = files_of(tmp_path)
    result = generate(*options, "--candidates", 2)
    assert result.exit_code == 2 and "--overwrite" in result.stderr and files_of(tmp_path) == before
    assert generate(*options, "--candidates", 2, "--overwrite").exit_code == 0
    assert json.loads((tmp_path / "v.json").read_text())["settings"]["seed"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--candidates", 1), "give 2 to 1000"),
        (("--candidates", 1001), "give 2 to 1000"),
        (("--candidates", 2, "--select", "beauty"), "--select identity"),
        (("--select", "identity"), "--candidates"),
        (("--keep-candidates",), "--candidates"),
        (("--candidates", 3, "--seed", 2**63 - 2), "smaller --seed"),
        (("--candidates", 2), "no recogniser|no face detector"),  # the fixture's face models are an empty folder
    ],
)
def test_what_cannot_be_chosen_is_refused(generate, photographs, tmp_path, options, words):
    result = generate("-r", photographs["ann"], "-p", PROMPT, "-o", tmp_path / "v.mp4", *options)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert any(word in result.stderr for word in words.split("|")), result.stderr
    assert not list(tmp_path.iterdir())


def test_without_a_face_to_compare_with_nothing_is_made(generate, photographs, tmp_path):
    result = generate("--no-reference", "-p", PROMPT, "--candidates", 2, "-o", tmp_path / "v.mp4")
    assert result.exit_code == 2 and "likeness to a photograph" in result.stderr
    clothing = ("--clothing", photographs["bob"], "-p", PROMPT, "--candidates", 2, "-o", tmp_path / "v.mp4")
    result = generate(*clothing)
    assert result.exit_code == 2 and not list(tmp_path.iterdir())


# The judge itself, with the package's face models and drawn people


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two drawn people: photographs and a clip of each, and a clip of nobody."""
    from likeness.world.folder import draw_people

    folder = tmp_path_factory.mktemp("drawn")
    draw_people(folder, first=800_010, num=2, clips=1)
    write_video(folder / "nobody.mp4", Video(np.full((17, 64, 64, 3), 128, np.uint8), 8.0))
    return folder


def job_for(*photographs):
    return Job(
        prompt="p",
        references=photographs,
        output=photographs[0].with_suffix(".mp4"),
        sheet=None,
        settings=Settings(),
        choice=Choice(num=2),
    )


def test_the_score_is_what_an_evaluation_of_the_file_says(drawn, tmp_path):
    judge, photograph = IdentityJudge(FACES), drawn / "800010/reference_0.png"
    videos = {"own": drawn / "800010/clip_0.mp4", "other": drawn / "800011/clip_0.mp4", "nobody": drawn / "nobody.mp4"}
    scores = {name: judge.score(job_for(photograph), path) for name, path in videos.items()}
    items = [
        Item(id=name, video=path, prompt="p", references=(photograph,), people=(0,), group="g")
        for name, path in videos.items()
    ]
    report = evaluate(items, [facesim_arc_strict(Backends(faces=FACES))], tmp_path)
    assert scores == {row.id: row.values["facesim_arc"] for row in report.rows}
    assert scores["own"] > 0.3 > scores["other"] and scores["nobody"] == 0


def test_of_several_people_each_must_be_there(drawn):
    judge = IdentityJudge(FACES)
    first, second = (drawn / f"{person}/reference_0.png" for person in (800_010, 800_011))
    both = job_for(first, second)
    half = judge.score(both, drawn / "800010/clip_0.mp4")
    whole = judge.score(job_for(first, first), drawn / "800010/clip_0.mp4")
    assert judge.metric(both).name == "people" and 0 < half < 0.6 and half <= whole
    side_by_side = np.concatenate(
        [read_video(drawn / f"{person}/clip_0.mp4").frames for person in (800_010, 800_011)], axis=2
    )
    write_video(drawn / "both.mp4", Video(side_by_side, 8.0))
    assert judge.score(both, drawn / "both.mp4") > half + 0.1


def test_a_photograph_without_a_face_is_refused_before_anything_is_made(drawn, tmp_path):
    judge = IdentityJudge(FACES)
    judge.check(job_for(drawn / "800010/reference_0.png"))
    write_picture(tmp_path / "wall.png", np.full((64, 64, 3), 150, np.uint8))
    with pytest.raises(UserError, match=r"No face is found in the photograph .*wall\.png"):
        judge.check(job_for(drawn / "800010/reference_0.png", tmp_path / "wall.png"))
