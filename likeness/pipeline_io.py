"""What goes into the pipeline and comes out of it: prompts, canvases, frames, and what was encoded lately."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from likeness.errors import UserError
from likeness.method import Method

OUTPUT_TYPES = ("np", "pil", "pt", "latent")


class Recent:
    """Results by key, the least recently used forgotten first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        if key not in self._items:
            self._items[key] = make()
        self._items.move_to_end(key)
        if len(self._items) > self._size:
            self._items.popitem(last=False)
        return self._items[key]


def prompt_list(prompt: str | Sequence[str] | None, embeds: Tensor | None) -> list[str]:
    """The prompts of a call; none if it came with embeddings."""
    if (prompt is None) == (embeds is None):
        raise UserError("Give a prompt or prompt_embeds, one of the two.")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt or ())
    if embeds is None and (not prompts or not all(text.strip() for text in prompts)):
        raise UserError("An empty prompt was given; say in a few words what the person does and where.")
    return prompts


def negative_list(negative_prompt: str | Sequence[str], batch: int) -> list[str]:
    """One negative prompt a prompt."""
    prompts = [negative_prompt] * batch if isinstance(negative_prompt, str) else list(negative_prompt)
    if len(prompts) != batch:
        raise UserError(f"{len(prompts)} negative prompts were given for {batch} prompts; give one, or one a prompt.")
    return prompts


def canvases_by_reference(
    references: Sequence[Any], batch: int, size: tuple[int, int], method: Method
) -> list[tuple[np.ndarray, ...]]:
    """Canvases by reference and prompt: M tuples of one canvas a prompt."""
    nested = len(references) > 0 and isinstance(references[0], list | tuple)
    rows = [list(row) for row in references] if nested else [list(references)] * batch
    if len(rows) != batch or len({len(row) for row in rows}) > 1:
        raise UserError(
            f"References were given as lists of {[len(row) for row in rows]} for {batch} prompts; give one list for all, "
            "or one list a prompt, all of one length. Prompts with other numbers of references go in calls of their own."
        )
    if len(rows[0]) > method.max_references:
        raise UserError(
            f"{len(rows[0])} references were given; method {method.name!r} of this model takes at most "
            f"{method.max_references}. Give fewer, or use a model made for more."
        )
    for row in rows:
        for index, item in enumerate(row):
            canvas = np.asarray(getattr(item, "canvas", item))
            if canvas.dtype != np.uint8 or canvas.shape != (*size, 3):
                raise UserError(
                    f"Reference {index} is {canvas.dtype} {list(canvas.shape)}; it must be a canvas uint8 "
                    f"{[*size, 3]} of the video's size. Make it with likeness.faces.reference_canvas."
                )
            row[index] = canvas
    return list(zip(*rows, strict=True))


def to_pixels(canvas: np.ndarray) -> Tensor:
    """``uint8 [H, W, 3]`` -> ``float32 [1, 3, 1, H, W]`` in [-1, 1]."""
    return torch.from_numpy(canvas).float().div(127.5).sub(1.0).permute(2, 0, 1)[None, :, None]


def to_output(pixels: Tensor, output_type: str) -> Any:
    """``[1, 3, F, H, W]`` in [-1, 1] -> one video as ``output_type`` has it."""
    frames = pixels[0].transpose(0, 1).add(1.0).div(2.0).clamp(0.0, 1.0).cpu()  # [F, 3, H, W]
    if output_type == "pt":
        return frames
    pictures = frames.permute(0, 2, 3, 1).contiguous().numpy()
    if output_type == "np":
        return pictures
    return [Image.fromarray(picture) for picture in (pictures * 255.0).round().astype(np.uint8)]
