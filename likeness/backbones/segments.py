"""Modulation of a sequence in two segments, [video | references].

Two segments and never a timestep a token: per-token modulation costs 1.3 GB in float32 a layer at 81 frames of 480 x 832.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from likeness.conditioning.sequence import split_tokens


class Modulation(NamedTuple):
    """AdaLN parameters of one segment, ``[B, 1, D]`` each; those of the text where the model has them (LTX-2.3)."""

    shift_attn: Tensor
    scale_attn: Tensor
    gate_attn: Tensor
    shift_ffn: Tensor
    scale_ffn: Tensor
    gate_ffn: Tensor
    shift_text: Tensor | None = None
    scale_text: Tensor | None = None
    gate_text: Tensor | None = None


def affine(tokens: Tensor, boundary: int, video: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> Tensor:
    """Shift and scale each segment by its own (shift, scale); in one piece where both share them."""
    if video[0] is reference[0]:
        return tokens * (1 + video[1]) + video[0]
    segments = zip(split_tokens(tokens, boundary), (video, reference), strict=True)
    return torch.cat([part * (1 + scale) + shift for part, (shift, scale) in segments], dim=1)


def gated(tokens: Tensor, boundary: int, video: Tensor, reference: Tensor) -> Tensor:
    """Multiply each segment by its own gate."""
    if video is reference:
        return tokens * video
    first, second = split_tokens(tokens, boundary)
    return torch.cat([first * video, second * reference], dim=1)
