"""The probe of drawn videos: its files, its answers' shapes, and the truth it is trained on."""

import json

import numpy as np
import pytest
import torch

from likeness.errors import CheckpointError
from likeness.recipes.faces.data import SetSpec, drawn
from likeness.recipes.faces.probe import batch_of
from likeness.world import TURNS
from likeness.world.probe import CONFIG_FILE, VOCABULARIES, ProbeConfig, ProbeNetwork, load_probe, save_probe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("probe")
    save_probe(ProbeNetwork(ProbeConfig()), path)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("cache"), SetSpec(name="clips", first=0, num_groups=6), workers=1)


def test_reads_any_size_and_length(folder):
    probe = load_probe(folder)
    rng = np.random.default_rng(0)
    for shape in ((2, 17, 64, 64, 3), (1, 5, 96, 128, 3)):
        answers = probe.read(rng.integers(0, 256, shape, dtype=np.uint8))
        assert set(answers) == {*VOCABULARIES, "pose"}
        assert answers["pose"].shape == (shape[0], 6, 3)
        for name, words in VOCABULARIES.items():
            assert answers[name].shape == (shape[0],) and answers[name].max() < len(words)


def test_batches_do_not_change_answers(folder):
    probe = load_probe(folder)
    frames = np.random.default_rng(0).integers(0, 256, (5, 6, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_allclose(probe.read(frames)["pose"], probe.read(frames, batch_size=2)["pose"], atol=1e-4)


@pytest.mark.parametrize("frames", [np.zeros((1, 6, 64, 64, 3), np.float32), np.zeros((6, 64, 64, 3), np.uint8)])
def test_refuses_other_frames(folder, frames):
    with pytest.raises(ValueError, match="uint8"):
        load_probe(folder).read(frames)


def test_broken_and_foreign_folders_are_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"no probe\.safetensors"):
        load_probe(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    config["answers"][0][1] = config["answers"][0][1][::-1]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="other words for place"):
        load_probe(tmp_path)
    (tmp_path / "probe.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_probe(tmp_path)


def test_mirrored_clips_swap_left_and_right(clips):
    index = np.zeros(32, int)
    _, truth, pose = batch_of(clips, index, torch.Generator().manual_seed(0))
    yaw = float(clips.pose[0, 0, 0, 0])
    mirrored = torch.isclose(pose[:, 0, 0], torch.tensor(-yaw))
    assert 0 < mirrored.sum() < 32
    turn = TURNS[int(clips.turn[0, 0])]
    other = {"left": "right", "right": "left"}.get(turn, turn)
    assert {TURNS[t] for t in truth["turn"][mirrored].tolist()} == {other}
    assert {TURNS[t] for t in truth["turn"][~mirrored].tolist()} == {turn}


def test_sets_show_the_people_asked_for_and_nobody_else(clips, tmp_path):
    assert clips.people[:, 0].tolist() == list(range(6)) and clips.pixels.shape == (6, 6, 64, 64, 3)
    for first, count in ((900_000, 1), (799_999, 2), (899_999, 2), (-1, 1)):
        with pytest.raises(ValueError, match="not within"):
            SetSpec(name="outside", first=first, num_groups=count)


def test_a_set_is_drawn_once(tmp_path):
    spec = SetSpec(name="photos", first=3, num_groups=2, clips=2, photo=True, size=32, num_frames=1)
    first = drawn(tmp_path, spec, workers=1)
    (path,) = tmp_path.iterdir()
    stamp = (path / "pixels.npy").stat().st_mtime_ns
    again = drawn(tmp_path, spec, workers=1)
    assert (path / "pixels.npy").stat().st_mtime_ns == stamp
    assert np.array_equal(first.pixels, again.pixels)
    portraits = again.portraits()
    assert portraits.person.tolist() == [0, 0, 1, 1] and portraits.keypoints.shape == (4, 5, 2)
