"""A pipeline of each family, of parts of its own: these tests hook, cast, fuse and compile them."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from likeness.method import CONCAT_ID, CONCAT_ID_WAN
from likeness.pipeline import LikenessPipeline


@dataclass(frozen=True)
class Case:
    """A family: the fixture of its parts, its method here, its frames, and what its transformer names its blocks."""

    components: str
    method: Any
    num_frames: int
    blocks: str


# One line a family.
FAMILIES = {
    "wan": Case("random_wan_components", CONCAT_ID_WAN, 5, "blocks"),
    "cogvideox": Case("random_cogvideox_components", CONCAT_ID, 9, "transformer_blocks"),
    "ltx2": Case("random_ltx2_components", CONCAT_ID, 9, "transformer_blocks"),
}


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def make_pipeline(request) -> Callable[..., LikenessPipeline]:
    def make(family: str, method: Any = None, **components: Any) -> LikenessPipeline:
        case = FAMILIES[family]
        parts = {**copy.deepcopy(request.getfixturevalue(case.components)), **components}
        pipeline = LikenessPipeline(
            **parts,
            method=method or case.method,
            default_num_frames=case.num_frames,
            default_height=32,
            default_width=32,
            default_fps=8,
            default_num_inference_steps=2,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return make


@pytest.fixture
def pipeline(family, make_pipeline) -> LikenessPipeline:
    return make_pipeline(family)


@pytest.fixture
def video() -> Callable[..., Any]:
    """Latents (or what output_type says) of one seed and one reference."""

    def make(pipeline: LikenessPipeline, **kwargs: Any) -> Any:
        canvas = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        generator = torch.Generator().manual_seed(0)
        settings = {
            "prompt": "a man in the park", "references": [canvas], "generator": generator, "output_type": "latent"
        }  # fmt: skip
        return pipeline(**{**settings, **kwargs}).frames

    return make


@pytest.fixture
def blocks(family) -> Callable[[LikenessPipeline], Any]:
    return lambda pipeline: getattr(pipeline.transformer, FAMILIES[family].blocks)
