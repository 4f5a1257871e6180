"""`likeness train` as a user runs it: pairs in, a model that generates out, and every mistake in one line."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from likeness.cli import app
from likeness.media import write_picture, write_video
from likeness.types import Video

SMALL = (
    "steps=2", "batch_size=2", "micro_batch_size=1", "checkpoint_every=1", "log_every=1", "precision=fp32",
    "attention_backend=null", "face_weight=1", "previews.every=2", "previews.count=1", "previews.num_inference_steps=1",
    "data.workers=0",
)  # fmt: skip


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Three clips of 9 frames and their references, in Concat-ID's JSON."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    rows = []
    for index in range(3):
        frames = np.kron(rng.integers(0, 255, (9, 6, 6, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
        write_video(folder / f"{index}.mp4", Video(frames, 8.0))
        write_picture(folder / f"{index}.png", frames[0])
        rows.append({"video_path": f"{index}.mp4", "caption": "a man in the park", "image_path": f"{index}.png"})
    (folder / "pairs.json").write_text(json.dumps(rows))
    return folder / "pairs.json"


@pytest.fixture
def train(model, pairs, tmp_path):
    """Runs `likeness train` with the random model; options given again win."""

    def call(*options, recipe="tiny-concat-id-stage1", data=pairs, settings=SMALL):
        given = ["train", recipe, "--output", tmp_path / "run", "--model", model, "--data", data]
        given += [word for setting in settings for word in ("--set", setting)]
        return CliRunner().invoke(app, [str(option) for option in [*given, *options]])

    return call


def test_pairs_become_a_model_that_generates(train, tmp_path, photographs) -> None:
    result = train()
    assert result.exit_code == 0, result.output
    folder = tmp_path / "run"
    assert result.stdout.splitlines()[-1] == str(folder / "model")
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and all(np.isfinite(row["loss"]) for row in rows)
    assert {"seconds_a_step", "waited_share", "memory_gb"} <= json.loads(
        (folder / "speed.jsonl").read_text().split("\n")[0]
    ).keys()
    assert (folder / "previews" / "step-00000002" / "0.mp4").exists()
    assert (folder / "previews" / "step-00000002" / "0.png").exists()
    assert list((folder / "tensorboard").iterdir())
    written = json.loads((folder / "model" / "training.json").read_text())
    assert written["recipe"] == "tiny-concat-id-stage1" and written["steps"] == 2
    made = CliRunner().invoke(
        app,
        ["generate", "--model", str(folder / "model"), "--reference", str(photographs["ann"]), "--prompt", "a man",
         "--steps", "1", "--device", "cpu", "--output", str(tmp_path / "video.mp4")],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert (tmp_path / "video.mp4").exists()


def test_a_finished_run_is_not_run_again(train, tmp_path) -> None:
    assert train().exit_code == 0
    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    assert train().exit_code == 0
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == log


def test_the_configuration_is_shown_and_read_back(train, tmp_path) -> None:
    shown = train("--show")
    assert shown.exit_code == 0 and not (tmp_path / "run").exists()
    file = tmp_path / "mine.json"
    file.write_text(shown.stdout)
    assert json.loads(train("--show", recipe=file, settings=()).stdout) == json.loads(shown.stdout)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipe": "concat-id-stage9"}, "There is no recipe"),
        ({"recipe": "missing.json"}, "cannot be read"),
        ({"settings": (*SMALL, "optimization.rate=1")}, "rate"),
        ({"settings": (*SMALL, "steps=0")}, "1 or more"),
        ({"settings": (*SMALL, "data.num_frames=6")}, "6 frames were given"),
        ({"settings": (*SMALL, "data.height=50")}, "50 px"),
        ({"settings": (*SMALL, "batch_size=3", "micro_batch_size=2")}, "multiple of 2"),
        ({"settings": (*SMALL, "attention_backend=fastest")}, "attention_backend"),
        ({"settings": (*SMALL, 'lora={"targets": ["nothing"]}')}, "No layer"),
        ({"data": "nowhere.json"}, "nowhere.json"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_nothing(train, options, words, tmp_path) -> None:
    result = train(**options)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and words in lines[0]
    assert not (tmp_path / "run" / "model").exists() and not (tmp_path / "run" / "checkpoints").exists()


def test_a_model_that_is_not_there(train) -> None:
    result = train("--model", "wan3")
    assert result.exit_code == 2 and "wan3" in result.stderr


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"video_path": "gone.mp4", "caption": "a man", "image_path": "0.png"}, "gone.mp4"),
        ({"video_path": "0.mp4", "caption": "", "image_path": "0.png"}, "caption"),
        ({"video_path": "0.mp4", "caption": "a man", "image_path": "gone.png"}, "gone.png"),
    ],
)  # fmt: skip
def test_pairs_that_cannot_be_used_are_named(train, pairs, row, words) -> None:
    broken = pairs.with_name("broken.json")
    broken.write_text(json.dumps([row]))
    result = train(data=broken)
    assert result.exit_code == 2 and words in result.stderr


def test_identity_losses_without_faces_say_what_to_do(train) -> None:
    result = train(recipe="tiny-st-drc")
    assert result.exit_code == 2 and "precompute" in result.stderr and "--faces" in result.stderr
