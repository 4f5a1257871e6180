"""CLIP in transformers' layout: whole or refused, pictures and prompts as the published scores had them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_clip import write_clip
from transformers import CLIPModel

from likeness.errors import CheckpointError
from likeness.evaluate.networks.clip import Clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return Clip.load(folder)


def test_pictures_become_unit_vectors(clip: Clip) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (35, 40, 56, 3), dtype=np.uint8)  # more than one batch
    vectors = clip.images(pictures)
    assert vectors.shape == (35, 12) and vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert np.abs(clip.images([pictures[33]]) - vectors[33]).max() < 1e-6
    assert np.abs(clip.images(pictures[:1, ..., ::-1]) - vectors[0]).max() > 1e-4
    assert clip.images([]).shape == (0, 12)


def test_picture_features_are_those_of_the_model(clip: Clip, folder: Path) -> None:
    pixels = torch.rand(2, 3, 32, 32)
    model = CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(pixels).pooler_output)
    assert (clip.features(pixels) - expected).abs().max() < 1e-6


def test_prompts_become_unit_vectors_and_are_cut(clip: Clip) -> None:
    vectors = clip.texts(["a man smiles", "a woman", "red " * 200])
    assert vectors.shape == (3, 12) and np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4
    # Padding to the longest of a batch changes nothing, and 75 words are all that is read of 200.
    assert np.abs(clip.texts(["a woman"])[0] - vectors[1]).max() < 1e-5
    assert np.abs(clip.texts(["red " * 75])[0] - vectors[2]).max() < 1e-5
    assert np.abs(clip.texts(["red " * 74])[0] - vectors[2]).max() > 1e-6
    assert clip.texts([]).shape == (0, 12)


def test_weights_are_told_by_their_bytes(clip: Clip, folder: Path, tmp_path: Path) -> None:
    assert len(clip.weights) == 16 and clip.official == "" and clip.image_size == 32
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text("notes")
    assert Clip.load(copy).weights == clip.weights
    state = load_file(copy / "model.safetensors")
    state["logit_scale"] += 1
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    assert Clip.load(copy).weights != clip.weights


def test_a_folder_without_settings_for_pictures_or_a_tokenizer(folder: Path, clip: Clip, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    for name in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (copy / name).unlink(missing_ok=True)
    bare = Clip.load(copy)
    picture = np.random.default_rng(1).integers(0, 256, (1, 50, 41, 3), dtype=np.uint8)
    assert np.abs(bare.images(picture) - clip.images(picture)).max() < 1e-6
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        bare.texts(["a man"])


def without(state: dict) -> None:
    del state["visual_projection.weight"]


def with_more(state: dict) -> None:
    state["something.else"] = torch.zeros(2)


def with_another_shape(state: dict) -> None:
    state["visual_projection.weight"] = torch.zeros(5, 16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without, "has no tensor visual_projection.weight"),
        (with_more, "has a tensor too many: something.else"),
        (with_another_shape, "visual_projection.weight is not of the shape"),
    ],
)
def test_one_tensor_that_does_not_fit_is_named(folder: Path, tmp_path: Path, change: Callable, words: str) -> None:
    """from_pretrained would fill what is missing with random numbers."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    state = load_file(copy / "model.safetensors")
    change(state)
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=words):
        Clip.load(copy)


def test_what_is_no_clip_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder of CLIP"):
        Clip.load(tmp_path)
    with pytest.raises(CheckpointError, match="is not a folder of CLIP"):
        Clip.load(tmp_path / "nowhere")
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match="does not hold a CLIP that can be opened"):
        Clip.load(copy)
    (copy / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="copy"):
        Clip.load(copy)


def test_a_repository_without_a_network_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"openai/no-such-clip .* cannot be fetched"):
        Clip.load("openai/no-such-clip")
