"""`likeness precompute` as a user calls it."""

import json

import pytest
from training_pairs import make_pairs, write_list
from typer.testing import CliRunner

from likeness.cli import app
from likeness.train.store import read_info


@pytest.fixture
def precompute(model):
    def call(*options):
        return CliRunner().invoke(app, ["precompute", "--model", str(model), "--device", "cpu", *map(str, options)])

    return call


@pytest.fixture
def pairs(tmp_path):
    return write_list(tmp_path / "data", make_pairs(tmp_path / "data", 3))


def test_a_store_is_made_and_grows(precompute, pairs, tmp_path):
    store = tmp_path / "store"
    for _ in range(2):
        result = precompute(pairs, "--output", store)
        assert result.exit_code == 0 and result.stdout.strip() == str(store) and not result.stderr
    info = read_info(store)
    assert (info.num_frames, info.fps, info.sizes, info.faces) == (5, 8, ((48, 48),), None)
    assert len(list((store / "shards").iterdir())) == 2  # two halves of the first run, nothing of the second


def test_sizes_are_the_users(precompute, pairs, tmp_path):
    result = precompute(pairs, pairs, "--output", tmp_path / "store", "--height", 32, "--width", 64, "--bucket", "64x32",
                        "--bucket", "32x64", "--fps", 4, "--num-frames", 1)  # fmt: skip
    assert result.exit_code == 0
    info = read_info(tmp_path / "store")
    assert (info.num_frames, info.fps, info.sizes) == (1, 4, ((32, 64), (64, 32)))


def test_broken_clips_are_told_of(precompute, pairs, tmp_path):
    (pairs.parent / "1.mp4").unlink()
    store = tmp_path / "store"
    result = precompute(pairs, "--output", store, "--max-skipped", 0.5)
    assert result.exit_code == 0
    assert result.stderr.strip() == f"skipped: 1 of 3 pairs; {store / 'skipped.jsonl'} names them"
    assert json.loads((store / "skipped.jsonl").read_text())["video"].endswith("1.mp4")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--height", 33), "33"),
        (("--num-frames", 6), "6 frames"),
        (("--num-frames", 9), "lasts 0.6"),
        (("--fps", 0), "above 0"),
        (("--bucket", "wide"), "HEIGHTxWIDTH"),
        (("--bucket", "32x40"), "40"),
        (("--model", "none"), "'none' is neither"),
        (("--device", "nonsense"), "--device nonsense"),
        (("--max-skipped", 2), "--max-skipped"),
        (("--processes", 0), "--processes"),
        (("--faces", "--face-models", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_one_line(precompute, pairs, tmp_path, options, words):
    result = precompute(pairs, "--output", tmp_path / "store", *options)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and words in line
    assert not list(tmp_path.glob("store/shards/*"))


def test_other_folders_and_stores_are_left_alone(precompute, pairs, tmp_path, files_of):
    result = precompute(pairs, "--output", pairs.parent)
    assert result.exit_code == 2 and "not empty" in result.stderr
    assert precompute(pairs, "--output", tmp_path / "store").exit_code == 0
    before = files_of(tmp_path / "store")
    result = precompute(pairs, "--output", tmp_path / "store", "--height", 32)
    assert result.exit_code == 2 and "holds 5 frames at 8 a second of 48 x 48 px" in result.stderr
    assert files_of(tmp_path / "store") == before
    (tmp_path / "file").touch()
    assert precompute(pairs, "--output", tmp_path / "file" / "store").exit_code == 2


def test_a_list_with_a_mistake(precompute, pairs, tmp_path):
    pairs.write_text(json.dumps([{"video_path": "0.mp4", "image_path": "0_0.png"}]))
    result = precompute(pairs, "--output", tmp_path / "store")
    assert result.exit_code == 2 and "metadata.json, entry 1: caption is missing" in result.stderr


def test_ctrl_c_keeps_what_is_done(precompute, pairs, tmp_path, monkeypatch):
    import likeness.train.precompute as module

    true = module._Encoder.shard

    def interrupted(self, job, advance):
        if any((tmp_path / "store" / "shards").glob("*")):
            raise KeyboardInterrupt
        return true(self, job, advance)

    with monkeypatch.context() as patch:
        patch.setattr(module._Encoder, "shard", interrupted)
        result = precompute(pairs, "--output", tmp_path / "store")
    assert result.exit_code == 130 and result.stderr.startswith("stopped: what was encoded is kept")
    assert precompute(pairs, "--output", tmp_path / "store").exit_code == 0
    assert len(list((tmp_path / "store" / "shards").iterdir())) == 2
