"""Rectified flow: noise, target, clean estimate, sigmas, Euler steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from likeness.diffusion.base import Generators, expand_like
from likeness.errors import UserError


@dataclass(frozen=True)
class RectifiedFlow:
    """``z_t = (1 - sigma) z0 + sigma noise`` with the velocity ``noise - z0`` as target.

    Attributes:
        num_train_timesteps: a model reads ``sigma * num_train_timesteps``.
        shift: ``sigma -> shift * sigma / (1 + (shift - 1) * sigma)`` spends more steps at high noise; Concat-ID on Wan
            trains and samples with 5.
    """

    num_train_timesteps: int = 1000
    shift: float = 5.0

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 1 or not self.shift > 0:
            raise UserError(f"{self} is not a flow: num_train_timesteps is 1 or more and shift greater than 0.")

    def for_video(self, num_video_tokens: int) -> RectifiedFlow:
        """Itself: the shift is fixed."""
        return self

    def add_noise(self, z0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
        """The noisy latents at ``sigma``; all ``[B, ...]``."""
        sigma = expand_like(sigma, z0)
        return (1.0 - sigma) * z0 + sigma * noise

    def target(self, z0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
        """The velocity that the model learns, the same at every ``sigma``."""
        return noise - z0

    def clean_estimate(self, z_t: Tensor, prediction: Tensor, sigma: Tensor | float) -> Tensor:
        """The clean latents that a prediction implies (ST-DRC Eq. 6), in float32."""
        z_t = z_t.float()
        return z_t - expand_like(sigma, z_t) * prediction.float()

    def timestep(self, sigma: Tensor) -> Tensor:
        """``sigma * num_train_timesteps``, float32."""
        return sigma.float() * self.num_train_timesteps

    def shifted(self, sigma: Tensor) -> Tensor:
        return self.shift * sigma / (1.0 + (self.shift - 1.0) * sigma)

    def sample_sigma(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``float32 [count]``, uniform over the shifted ``1/n, 2/n ... 1`` of ``n = num_train_timesteps``.

        On the generator's device, on the CPU without one.
        """
        device = torch.device("cpu") if generator is None else generator.device
        index = torch.randint(1, self.num_train_timesteps + 1, (count,), generator=generator, device=device)
        return self.shifted(index.double() / self.num_train_timesteps).float()

    def sigmas(self, num_steps: int) -> Tensor:
        """Noise levels at which the steps of a sampler start, ``float32 [num_steps]`` from 1 downwards.

        The schedule of Wan's own sampler, ``shift(linspace(1, 0, num_steps + 1)[:-1])``; a last step ends at 0.

        Raises:
            UserError: for fewer than 1 step.
        """
        if num_steps < 1:
            raise UserError(f"{num_steps} denoising steps were given; at least 1 is needed, 50 is what Wan uses.")
        return self.shifted(torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64)[:-1]).float()

    def sampler(self, num_steps: int, generator: Generators = None) -> EulerSampler:
        """Euler steps over :meth:`sigmas` and down to 0; ``generator`` is not used.

        Raises:
            UserError: for fewer than 1 step.
        """
        return EulerSampler(torch.cat([self.sigmas(num_steps), torch.zeros(1)]))

    def snr_weight(self, sigma: Tensor, gamma: float = 1.0) -> Tensor:
        """Weight of the identity losses (ST-DRC Eq. 12), ``((1-t)^2 / ((1-t)^2 + t^2)) ** gamma``.

        The paper's form with SNR divides by ``t + eps``; this one is the same without the division by zero.
        """
        signal, noise = (1.0 - sigma).square(), sigma.square()
        return (signal / (signal + noise)) ** gamma


class EulerSampler:
    """Euler steps along the flow.

    Attributes:
        sigmas: ``float32 [S + 1]``, falling, the last 0.
    """

    def __init__(self, sigmas: Tensor) -> None:
        self.sigmas = sigmas
        self._levels: list[float] = sigmas.tolist()

    def step(self, index: int, latents: Tensor, prediction: Tensor) -> Tensor:
        """``z + (sigma' - sigma) v`` in float32."""
        return latents.float() + (self._levels[index + 1] - self._levels[index]) * prediction.float()
