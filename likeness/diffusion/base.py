"""What training and sampling ask of a noise process, whichever one a backbone was made with."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

Generators = torch.Generator | list[torch.Generator] | None


class Sampler(Protocol):
    """One run of a sampler over its noise levels; it may remember earlier steps, so each run takes a new one.

    Attributes:
        sigmas: ``float32 [S + 1]``, falling, the last 0.
    """

    sigmas: Tensor

    def step(self, index: int, latents: Tensor, prediction: Tensor) -> Tensor:
        """Latents at ``sigmas[index + 1]`` from those at ``sigmas[index]`` and what the model predicts there, float32."""
        ...


class NoiseProcess(Protocol):
    """Between a clean video and noise.

    ``sigma`` is the noise level in 0..1 for every process: 0 is the clean video, 1 is noise. It is a float or ``[B]``.
    """

    @property
    def num_train_timesteps(self) -> int: ...

    def for_video(self, num_video_tokens: int) -> NoiseProcess:
        """The process of a video of this size, references not counted; itself where the size does not matter."""
        ...

    def add_noise(self, z0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
        """The noisy latents at ``sigma``; all ``[B, ...]``."""
        ...

    def target(self, z0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
        """What the model learns to predict."""
        ...

    def clean_estimate(self, z_t: Tensor, prediction: Tensor, sigma: Tensor | float) -> Tensor:
        """The clean latents that a prediction implies, in float32 (ST-DRC Eq. 6)."""
        ...

    def timestep(self, sigma: Tensor) -> Tensor:
        """What the model reads for noise levels ``[B]``, ``float32 [B]``."""
        ...

    def sample_sigma(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Noise levels for training, ``float32 [count]``, on the generator's device."""
        ...

    def sampler(self, num_steps: int, generator: Generators = None) -> Sampler:
        """A run of ``num_steps`` steps; ``generator`` is for samplers that add noise, one, or one a video.

        Raises:
            UserError: for fewer than 1 step.
        """
        ...

    def snr_weight(self, sigma: Tensor, gamma: float = 1.0) -> Tensor:
        """Weight of the identity losses, ``(SNR / (SNR + 1)) ** gamma`` (ST-DRC Eq. 12)."""
        ...


def expand_like(sigma: Tensor | float, latents: Tensor) -> Tensor | float:
    """``[B]`` -> ``[B, 1, 1, ...]`` to broadcast over latents; a float as it is."""
    if isinstance(sigma, Tensor):
        return sigma.to(latents).view(-1, *[1] * (latents.ndim - 1))
    return sigma
