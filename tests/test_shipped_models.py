"""The models that come with the package: whole, light, and each with its card."""

import json

import numpy as np
import pytest
import torch

from likeness.backbones.known import MODELS
from likeness.backbones.load import check_folder
from likeness.pipeline import LikenessPipeline

SHIPPED = {name: model for name, model in MODELS.items() if model.folder is not None}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_generates(name) -> None:
    pipeline = LikenessPipeline.from_pretrained(name)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.method.name in SHIPPED[name].methods
    canvases = [np.full((64, 64, 3), 90 * index, np.uint8) for index in range(pipeline.method.max_references)]
    frames = pipeline(
        ["a man smiling"], [canvases], num_inference_steps=2, generator=[torch.Generator().manual_seed(0)]
    ).frames
    assert frames[0].shape == (17, 64, 64, 3) and np.isfinite(frames[0]).all() and frames[0].std() > 0.01


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_has_its_configuration_and_its_card(name) -> None:
    folder = SHIPPED[name].folder
    assert folder is not None and check_folder(folder).name == "Wan"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "trained_on: drawn people" in card and "## Recipe" in card and "seed 0" in card and "## Figures" in card
    config = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert config["steps"] > 0 and not any(path.startswith("/") for path in [config["model"], *config["data"]["pairs"]])


def test_all_weights_together_are_light() -> None:
    """The repository stays light: 60 MB."""
    folder = MODELS["tiny"].folder
    assert folder is not None
    assert sum(path.stat().st_size for path in folder.parent.rglob("*") if path.is_file()) < 60e6
