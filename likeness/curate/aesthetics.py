"""How pleasing a clip looks: a linear head on CLIP, as LAION published it (one of the scores of Concat-ID, section 4.2).

There is no score without the two files: a folder of a CLIP model in the format of transformers, and the head, a file with ``weight
[1, D]`` and ``bias [1]`` such as ``sa_0_4_vit_l_14_linear.pth`` for ViT-L/14. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from likeness.errors import CheckpointError
from likeness.tensorfile import read_tensor_file

if TYPE_CHECKING:
    from torch import Tensor

PICTURES = 3  # of a clip that are scored; a clip's score is their mean


@dataclass(frozen=True, eq=False)
class Aesthetics:
    """CLIP's picture tower with a linear head.

    Attributes:
        model: transformers' ``CLIPVisionModelWithProjection``.
        processor: its preparation of pictures.
        weight: ``float32 [D]``.
        bias: a number.
    """

    model: Any
    processor: Any
    weight: Tensor
    bias: float

    @classmethod
    def load(cls, clip: str | Path, head: str | Path) -> Aesthetics:
        """Load model and head.

        Raises:
            CheckpointError: a file is missing, damaged, or the head is for another model.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

        clip, head = Path(clip), Path(head)
        if not (clip / "config.json").is_file():
            raise CheckpointError(
                f"{clip} is no folder of a CLIP model (it has no config.json). Set measuring.clip to one."
            )
        if not head.is_file():
            raise CheckpointError(f"There is no file {head} with an aesthetics head. Check measuring.aesthetics.")
        try:
            with _quiet():
                model, report = CLIPVisionModelWithProjection.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                    clip, dtype=torch.float32, local_files_only=True, output_loading_info=True
                )
            processor = CLIPImageProcessorPil.from_pretrained(clip, local_files_only=True)
        except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"The CLIP model in {clip} cannot be loaded: {error}. Copy it again.") from error
        if missing := sorted(report["missing_keys"]):
            raise CheckpointError(
                f"The CLIP model in {clip} lacks {len(missing)} weights, {missing[0]} first. Copy it again."
            )
        weight, bias = _head(head, read_tensor_file(head), model.config.projection_dim)
        return cls(model.eval(), processor, weight, bias)

    def score(self, picture: np.ndarray) -> float:
        """The score of a picture ``uint8 [H, W, 3]`` RGB; about 1 (ugly) to 10."""
        import torch

        with torch.inference_mode():
            batch = self.processor(images=picture, return_tensors="pt")
            features = self.model(**batch).image_embeds  # [1, D]
            features = torch.nn.functional.normalize(features, dim=-1)
            return float(features[0] @ self.weight) + self.bias


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports the text tower, which is not read, as unexpected."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def _head(file: Path, tensors: Any, width: int) -> tuple[Tensor, float]:
    if not isinstance(tensors, Mapping) or set(tensors) != {"weight", "bias"}:
        raise CheckpointError(f"{file} is no linear aesthetics head: it must hold weight and bias, nothing else.")
    weight, bias = tensors["weight"].float(), tensors["bias"].float()
    if weight.shape != (1, width) or bias.shape != (1,):
        raise CheckpointError(
            f"The aesthetics head {file} is for embeddings of {weight.shape[-1]} numbers; this CLIP model gives {width}. "
            "Use the head that was made for it."
        )
    return weight[0], float(bias[0])
