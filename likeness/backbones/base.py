"""What every video model offers to training and sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from likeness.conditioning.sequence import Sequence
from likeness.diffusion import NoiseProcess
from likeness.errors import UserError
from likeness.method import Method
from likeness.types import LatentGrid


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """Sizes and noise process of a backbone.

    Attributes:
        name: for messages.
        spatial_stride: px a latent covers in height and in width.
        temporal_stride: frames a latent covers, but for the first, which covers one.
        patch: latents a transformer token covers, (t, h, w).
        latent_channels: channels of a latent.
        process: noise, target and sampler.
        frame_step: frames between the lengths of a video that the model makes, where that is more than a token covers.
    """

    name: str
    spatial_stride: int
    temporal_stride: int
    patch: tuple[int, int, int]
    latent_channels: int
    process: NoiseProcess
    frame_step: int = 0

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        """Refuse a size that does not come out in whole tokens.

        Raises:
            UserError: naming the nearest sizes that do.
        """
        step_f = self.frame_step or self.temporal_stride * self.patch[0]
        first_f = 1 + self.temporal_stride * (self.patch[0] - 1)
        if num_frames < first_f or (num_frames - first_f) % step_f:
            near = _nearest(num_frames, step_f, first_f)
            raise UserError(
                f"{num_frames} frames were given; {self.name} makes {first_f} + {step_f} n frames: use {near}."
            )
        for name, value, patch in (("height", height, self.patch[1]), ("width", width, self.patch[2])):
            step = self.spatial_stride * patch
            if value < step or value % step:
                near = _nearest(value, step, step)
                raise UserError(
                    f"A {name} of {value} px was given; {self.name} needs a multiple of {step}: use {near}."
                )

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """``(C, T, H, W)`` of the latents of a video.

        Raises:
            UserError: as :meth:`check_size`.
        """
        self.check_size(num_frames, height, width)
        frames = (num_frames - 1) // self.temporal_stride + 1
        return self.latent_channels, frames, height // self.spatial_stride, width // self.spatial_stride

    def grid(self, num_frames: int, height: int, width: int) -> LatentGrid:
        """The video's size in transformer tokens.

        Raises:
            UserError: as :meth:`check_size`.
        """
        sizes = self.latent_shape(num_frames, height, width)[1:]
        return LatentGrid(*(size // patch for size, patch in zip(sizes, self.patch, strict=True)))

    def num_video_tokens(self, latents: Tensor) -> int:
        """Transformer tokens of video latents ``[B, C, T, H, W]``."""
        return math.prod(size // step for size, step in zip(latents.shape[2:], self.patch, strict=True))


def _nearest(value: int, step: int, first: int) -> str:
    """The valid values around an invalid one, for a message."""
    below = first + (value - first) // step * step
    return f"{first}" if below < first else f"{below} or {below + step}"


class Backbone(Protocol):
    """A video model with its text encoder and VAE. All methods keep gradients unless the caller turns them off."""

    @property
    def spec(self) -> BackboneSpec: ...

    def check_method(self, method: Method) -> None:
        """Raise a UserError that names both and the way out if the backbone cannot express the method."""
        ...

    def encode_text(self, prompts: list[str]) -> Tensor:
        """Embeddings ``[B, L, D]`` of prompts, zero past each prompt's end, as :meth:`predict` takes them."""
        ...

    def encode_video(self, pixels: Tensor) -> Tensor:
        """``[B, 3, F, H, W]`` in [-1, 1] -> normalised latents ``float32 [B, C, T, H, W]``."""
        ...

    def encode_reference(self, pixels: Tensor) -> Tensor:
        """``[B, 3, 1, H, W]`` in [-1, 1] -> normalised latents ``float32 [B, C, 1, H, W]``."""
        ...

    def predict(self, sequence: Sequence, sigma: Tensor, prompt_embeds: Tensor) -> Tensor:
        """What the process has as its target, for the video alone: ``[B, C, T, H, W]`` at levels ``sigma`` ``[B]`` in 0..1."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents -> pixels ``float32 [B, 3, F, H, W]`` in [-1, 1]."""
        ...

    def decode_window(self, latents: Tensor, start: int, length: int) -> Tensor:
        """The frames of latents ``start .. start + length`` out of the whole video, with gradient to those alone."""
        ...
