"""What training does to a reference before the VAE: pixel noise (Concat-ID) and augmentation (ST-DRC Eq. 5).

All randomness comes from the generator given, drawn on its device and in a fixed order, so that a seed gives the same
pictures wherever the pixels are. Both functions take ``[B, 3, H, W]`` or ``[B, 3, 1, H, W]`` in [-1, 1], whatever they show; flips of
one kind of reference alone (Concat-ID B.2) are made in :mod:`likeness.train.loader`, which knows the kinds.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from likeness.method import Augment, ReferenceNoise

# Rec. 601 luma, what image libraries use for saturation.
_LUMA = (0.299, 0.587, 0.114)


def reference_noise(pixels: Tensor, noise: ReferenceNoise, generator: torch.Generator | None = None) -> Tensor:
    """Add Gaussian noise whose deviation is drawn once a picture as ``exp(N(log_mean, log_std))``.

    The result may leave [-1, 1] as in the published training code: the VAE sees the noise unclipped.
    """
    device = torch.device("cpu") if generator is None else generator.device
    deviation = torch.exp(torch.randn(len(pixels), generator=generator, device=device) * noise.log_std + noise.log_mean)
    gaussian = torch.randn(pixels.shape, generator=generator, device=device)
    gaussian *= deviation.view(-1, *[1] * (pixels.ndim - 1))
    return pixels + gaussian.to(pixels)


def augment_reference(pixels: Tensor, augment: Augment, generator: torch.Generator | None = None) -> Tensor:
    """Flip, rotate, crop and change the colours of each picture, each with its own probability.

    Whatever a rotation brings in from outside continues the canvas's edge: the blanked background or the padding.

    Returns:
        Pixels of the same shape and type in [-1, 1].
    """
    pictures = pixels.squeeze(2) if pixels.ndim == 5 else pixels
    draw = _Draws(len(pictures), generator, pictures.device)
    pictures = (pictures.float() + 1.0) / 2.0
    pictures = _geometry(pictures, augment, draw)
    pictures = _colour(pictures, augment, draw)
    return (pictures * 2.0 - 1.0).clamp(-1.0, 1.0).to(pixels.dtype).view_as(pixels)


class _Draws:
    """Random numbers, one a picture."""

    def __init__(self, count: int, generator: torch.Generator | None, device: torch.device) -> None:
        self.count, self.generator, self.device = count, generator, device

    def uniform(self, low: float, high: float) -> Tensor:
        source = torch.device("cpu") if self.generator is None else self.generator.device
        values = torch.rand(self.count, generator=self.generator, device=source)
        return (low + (high - low) * values).to(self.device)

    def chance(self, probability: float) -> Tensor:
        return self.uniform(0.0, 1.0) < probability


def _geometry(pictures: Tensor, augment: Augment, draw: _Draws) -> Tensor:
    """Flip, rotation and crop as one affine sampling. pictures: ``[B, 3, H, W]`` in [0, 1]."""
    height, width = pictures.shape[-2:]
    mirror = torch.where(draw.chance(augment.flip), -1.0, 1.0)
    turned = draw.chance(augment.rotate)
    angle = turned * draw.uniform(-math.radians(augment.rotation_deg), math.radians(augment.rotation_deg))
    cropped = draw.chance(augment.crop)
    scale = torch.where(cropped, draw.uniform(augment.crop_scale, 1.0), 1.0)
    # The window may move as far as it stays inside the canvas.
    shift_x = (1.0 - scale) * draw.uniform(-1.0, 1.0)
    shift_y = (1.0 - scale) * draw.uniform(-1.0, 1.0)
    # affine_grid counts each side as 2 units: a rotation in pixels needs the aspect ratio.
    cos, sin, aspect = torch.cos(angle) * scale, torch.sin(angle) * scale, height / width
    first = torch.stack((cos * mirror, -sin * aspect, shift_x), dim=-1)
    second = torch.stack((sin * mirror / aspect, cos, shift_y), dim=-1)
    matrix = torch.stack((first, second), dim=1)  # [B, 2, 3]
    grid = F.affine_grid(matrix, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _colour(pictures: Tensor, augment: Augment, draw: _Draws) -> Tensor:
    """Brightness, contrast and saturation. pictures: ``[B, 3, H, W]`` in [0, 1]."""
    jittered = draw.chance(augment.jitter)

    def factor(strength: float) -> Tensor:
        return torch.where(jittered, draw.uniform(1.0 - strength, 1.0 + strength), 1.0).view(-1, 1, 1, 1)

    luma = pictures.new_tensor(_LUMA).view(1, 3, 1, 1)
    pictures = (pictures * factor(augment.brightness)).clamp(0.0, 1.0)
    mean = (pictures * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    pictures = (mean + (pictures - mean) * factor(augment.contrast)).clamp(0.0, 1.0)
    grey = (pictures * luma).sum(1, keepdim=True)
    return (grey + (pictures - grey) * factor(augment.saturation)).clamp(0.0, 1.0)
