"""Face parsing: which pixel is skin, hair, background ...

The network is transformers' ``SegformerForSemanticSegmentation`` with the 19 labels of jonathandinu/face-parsing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from likeness.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import SegformerForSemanticSegmentation

# Index = label. Left and right are the person's own, as in CelebAMask-HQ.
PARSING_LABELS = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip

# What SegformerImageProcessor does unless its preprocessor_config.json says otherwise.
_DEFAULTS = {
    "size": {"height": 512, "width": 512},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


@dataclass(frozen=True, eq=False)
class FaceParser:
    """A face parsing network with the preparation of its input.

    Attributes:
        model: the network, in evaluation mode.
        height, width: size of its input, px.
        mean, std: per channel, of RGB in 0..1.
    """

    model: SegformerForSemanticSegmentation
    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> FaceParser:
        """Load a folder as written by ``save_pretrained`` (config.json, model.safetensors, preprocessor_config.json).

        Raises:
            CheckpointError: the folder or a file is missing or damaged, or its labels are not the 19 of
                jonathandinu/face-parsing.
        """
        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise CheckpointError(f"The face parser in {folder} has no {name}. Copy the whole folder again.")
        import torch
        from safetensors import SafetensorError
        from transformers import SegformerForSemanticSegmentation

        try:
            preparation = _DEFAULTS | _read_json(folder / "preprocessor_config.json")
            names = _read_json(folder / "config.json").get("id2label", {})
            with _no_progress_bar():
                model = SegformerForSemanticSegmentation.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"The face parser in {folder} cannot be loaded: {error}. Copy it again.") from error
        _check_labels(folder, names)
        size = preparation["size"]
        return cls(
            model=model.to(device).eval(),  # pyright: ignore[reportArgumentType]
            height=int(size["height"]),
            width=int(size["width"]),
            mean=tuple(preparation["image_mean"]),
            std=tuple(preparation["image_std"]),
        )

    def labels(self, crop: np.ndarray) -> np.ndarray:
        """The label of every pixel.

        As published: the input resized bilinearly, the logits resized bilinearly to the crop, then the largest.

        Args:
            crop: ``uint8 [H, W, 3]`` RGB, a face in the middle.

        Returns:
            ``uint8 [H, W]``, indices of ``PARSING_LABELS``.
        """
        import torch

        height, width = crop.shape[:2]
        resized = Image.fromarray(crop).resize((self.width, self.height), Image.Resampling.BILINEAR)
        mean, std = np.array([self.mean, self.std], np.float32)
        pixels = (np.asarray(resized, np.float32) / 255 - mean) / std  # [h, w, 3]
        with torch.inference_mode():
            batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self.model.device)  # [1, 3, h, w]
            logits = self.model(pixel_values=batch).logits  # [1, 19, h/4, w/4]
            logits = torch.nn.functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
            return logits.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers draws a bar even for a model of some megabytes."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _check_labels(folder: Path, names: dict[str, str]) -> None:
    """Refuse another number of labels, or a known name in another place (other parsers order theirs differently)."""
    place = {name: int(index) for index, name in names.items()}
    moved = [name for index, name in enumerate(PARSING_LABELS) if place.get(name, index) != index]
    if len(names) != len(PARSING_LABELS) or moved:
        raise CheckpointError(
            f"The face parser in {folder} has the labels {', '.join(names.values())}; the {len(PARSING_LABELS)} of "
            f"jonathandinu/face-parsing are needed, in their order: {', '.join(PARSING_LABELS)}."
        )
