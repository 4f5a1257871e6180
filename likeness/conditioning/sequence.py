"""The one way to build a model's input: video latents joined by the latents of references.

Training and sampling both call :func:`join` and hand the result to a backbone's ``predict``. Tokens are laid out
[video | reference 0 | reference 1 ...] (Concat-ID Eq. 1, ST-DRC Eq. 2).
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from likeness.errors import UserError
from likeness.method import Method, Placement


@dataclass(frozen=True, eq=False)
class Sequence:
    """Latents of a video and its references, and the method that says how the model treats them.

    Attributes:
        video: ``[B, C, T, H, W]``, noisy.
        references: M tensors ``[B, C, 1, H, W]``, clean.
        method: placement, timestep, modulation and text access of the references.
    """

    video: Tensor
    references: tuple[Tensor, ...]
    method: Method

    @property
    def placement(self) -> Placement:
        return self.method.placement

    @property
    def num_references(self) -> int:
        return len(self.references)


def join(method: Method, video: Tensor, references: Items[Tensor]) -> Sequence:
    """Join references to a video.

    Args:
        method: how the model is to treat the references.
        video: latents ``[B, C, T, H, W]``.
        references: at most ``method.max_references`` latents ``[B, C, 1, H, W]``; none is allowed.

    Raises:
        UserError: for more references than the method takes, or latents of another size than the video's.
    """
    if len(references) > method.max_references:
        raise UserError(
            f"{len(references)} references were given; method {method.name!r} was made for at most "
            f"{method.max_references}. Give fewer, or use a model whose method takes more."
        )
    batch, channels, _, height, width = video.shape
    expected = (batch, channels, 1, height, width)
    for index, reference in enumerate(references):
        if reference.shape != expected:
            raise UserError(
                f"Reference {index} has latents of shape {list(reference.shape)}; a video of {list(video.shape)} takes "
                f"{list(expected)}. Encode the reference on a canvas of the video's height and width."
            )
    return Sequence(video, tuple(references), method)


def split_tokens(tokens: Tensor, num_video_tokens: int) -> tuple[Tensor, Tensor]:
    """Undo the layout: tokens ``[B, N, D]`` -> the video's ``[B, num_video_tokens, D]`` and the references' rest."""
    return tokens[:, :num_video_tokens], tokens[:, num_video_tokens:]


def drop(method: Method, sequence: Sequence, dropped: Tensor | bool) -> Sequence:
    """Drop the references as the method does it; dropping twice is dropping once.

    Args:
        method: its ``dropped_reference`` says what stands for a dropped reference.
        sequence: from :func:`join`.
        dropped: True for the whole batch, or ``bool [B]``. A method that drops by absence shortens the sequence, which
            a batch can only do as a whole: it takes a tensor of equal entries.

    Raises:
        UserError: for a mixed tensor under ``dropped_reference="absent"``.
    """
    if isinstance(dropped, bool):
        dropped = torch.full((sequence.video.shape[0],), dropped)
    if method.dropped_reference == "absent":
        if dropped.all():
            return replace(sequence, references=())
        if dropped.any():
            raise UserError(
                f"Method {method.name!r} drops references by leaving their tokens out, which changes the length of "
                "the sequence; draw one decision for the whole batch."
            )
        return sequence
    dropped = dropped.to(sequence.video.device).view(-1, 1, 1, 1, 1)
    return replace(sequence, references=tuple(item.masked_fill(dropped, 0.0) for item in sequence.references))
