"""The aesthetics score: a linear head on CLIP, refused where it does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from likeness.curate.aesthetics import Aesthetics
from likeness.errors import CheckpointError

WIDTH = 8


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=tower | {"vocab_size": 99},
        vision_config=tower | {"image_size": 32, "patch_size": 16, "projection_dim": WIDTH},
        projection_dim=WIDTH,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def head(path: Path, width: int = WIDTH, **more: torch.Tensor) -> Path:
    torch.save({"weight": torch.arange(1.0, width + 1)[None], "bias": torch.tensor([5.0])} | more, path)
    return path


def test_the_score_is_linear_in_the_unit_embedding(clip, tmp_path) -> None:
    scores = Aesthetics.load(clip, head(tmp_path / "head.pth"))
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    model = CLIPModel.from_pretrained(clip).eval()
    batch = CLIPImageProcessorPil.from_pretrained(clip)(images=picture, return_tensors="pt")
    with torch.inference_mode():
        vision = model.vision_model(**batch).pooler_output
        feature = model.visual_projection(vision)[0]
    expected = float((feature / feature.norm()) @ torch.arange(1.0, WIDTH + 1)) + 5.0
    assert scores.score(picture) == pytest.approx(expected, abs=1e-4)
    assert scores.score(255 - picture) != pytest.approx(expected, abs=1e-3)


def test_safetensors_and_torch_files_are_the_same(clip, tmp_path) -> None:
    tensors = {"weight": torch.arange(1.0, WIDTH + 1)[None], "bias": torch.tensor([5.0])}
    save_file(tensors, tmp_path / "head.safetensors")
    picture = np.full((32, 32, 3), 99, np.uint8)
    both = [
        Aesthetics.load(clip, file).score(picture)
        for file in (tmp_path / "head.safetensors", head(tmp_path / "head.pth"))
    ]
    assert both[0] == pytest.approx(both[1], abs=1e-4)


def test_what_does_not_fit_is_refused(clip, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="9 numbers; this CLIP model gives 8"):
        Aesthetics.load(clip, head(tmp_path / "wide.pth", 9))
    with pytest.raises(CheckpointError, match="weight and bias, nothing else"):
        Aesthetics.load(clip, head(tmp_path / "more.pth", layers=torch.zeros(1)))
    with pytest.raises(CheckpointError, match="no file"):
        Aesthetics.load(clip, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        Aesthetics.load(tmp_path, head(tmp_path / "head.pth"))
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"broken\.pth"):
        Aesthetics.load(clip, tmp_path / "broken.pth")
