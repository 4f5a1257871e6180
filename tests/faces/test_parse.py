"""The parser against transformers' own preparation, on a small random Segformer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade_pack import small_segformer
from PIL import Image

from likeness.errors import CheckpointError
from likeness.faces.parse import PARSING_LABELS, FaceParser


@pytest.fixture(scope="module")
def parser_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parser")
    small_segformer().save_pretrained(folder)
    return folder


def test_labels_equal_those_of_transformers(parser_folder: Path) -> None:
    from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

    crop = np.random.default_rng(0).integers(0, 255, (448, 448, 3), dtype=np.uint8)
    prepared = SegformerImageProcessorPil()(images=Image.fromarray(crop), return_tensors="pt")
    with torch.inference_mode():
        logits = small_segformer()(**prepared).logits
    expected = torch.nn.functional.interpolate(logits, (448, 448), mode="bilinear", align_corners=False).argmax(1)[0]
    labels = FaceParser.load(parser_folder).labels(crop)
    assert labels.dtype == np.uint8 and labels.shape == (448, 448)
    assert len(np.unique(labels)) > 1
    assert np.mean(labels == expected.numpy()) > 0.999


def test_the_preparation_is_read_from_the_folder(parser_folder: Path, tmp_path: Path) -> None:
    for path in parser_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    settings = {"size": {"height": 64, "width": 96}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    parser = FaceParser.load(tmp_path)
    assert (parser.height, parser.width, parser.mean, parser.std) == (64, 96, (0.5,) * 3, (0.25,) * 3)
    assert parser.labels(np.zeros((30, 50, 3), np.uint8)).shape == (30, 50)


@pytest.mark.parametrize(
    "names",
    [PARSING_LABELS[:18], ("background", "skin", "l_brow", "r_brow", *PARSING_LABELS[2:6], *PARSING_LABELS[8:])],
    ids=["18 labels", "another order"],
)
def test_a_parser_with_other_labels_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    small_segformer(names).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="jonathandinu/face-parsing are needed"):
        FaceParser.load(tmp_path)


def test_a_broken_folder_is_refused(parser_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        FaceParser.load(tmp_path)
    (tmp_path / "config.json").write_bytes((parser_folder / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        FaceParser.load(tmp_path)
    weights = (parser_folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        FaceParser.load(tmp_path)
