"""Rectified flow whose shift grows with the size of the video, as LTX-2 trains and samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from likeness.diffusion.flow import RectifiedFlow
from likeness.errors import UserError


@dataclass(frozen=True)
class DynamicShiftFlow(RectifiedFlow):
    """Rectified flow with ``shift = exp(mu)``, mu linear in the number of video tokens and going on beyond both ends.

    Take the process of a video's size by :meth:`for_video`; as it is made, it is that of ``base_tokens``. Only the
    video's tokens count: with references counted in, adding one would change the schedule.

    Attributes:
        base_mu, max_mu: at ``base_tokens`` and ``max_tokens``.
        terminal: the last step of a sampler starts at this sigma, to which the others are stretched; None leaves them.
        uniform: share of the training sigmas that is uniform in 0..1; the others are logit-normal around mu.
        deviation: of that normal.
    """

    shift: float = math.exp(0.95)
    base_mu: float = 0.95
    max_mu: float = 2.05
    base_tokens: int = 1024
    max_tokens: int = 4096
    terminal: float | None = None
    uniform: float = 0.1
    deviation: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        terminal = 0.5 if self.terminal is None else self.terminal
        if self.base_tokens >= self.max_tokens or not 0 < terminal < 1 or not 0 <= self.uniform <= 1:
            raise UserError(
                f"{self} is not a flow: base_tokens is less than max_tokens, terminal between 0 and 1 and uniform in "
                "0..1."
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DynamicShiftFlow:
        """The process that a ``FlowMatchEulerDiscreteScheduler``'s configuration describes.

        Without ``use_dynamic_shifting`` mu is the same for every size.

        Raises:
            UserError: for an entry that would change the schedule in a way that is not implemented.
        """
        for key, usual in (
            ("time_shift_type", "exponential"), ("use_karras_sigmas", False), ("use_exponential_sigmas", False),
            ("use_beta_sigmas", False), ("invert_sigmas", False), ("stochastic_sampling", False),
        ):  # fmt: skip
            found = config.get(key, usual)
            if (found or usual) != usual:
                raise UserError(f"The scheduler has {key} = {found!r}; LTX-2 is sampled with {usual!r}. Set it so.")
        if config.get("use_dynamic_shifting", False):
            base, most = config.get("base_shift", 0.95), config.get("max_shift", 2.05)
        else:
            base = most = math.log(config.get("shift", 1.0))
        return cls(
            num_train_timesteps=config.get("num_train_timesteps", 1000),
            shift=math.exp(base),
            base_mu=base,
            max_mu=most,
            base_tokens=config.get("base_image_seq_len", 1024),
            max_tokens=config.get("max_image_seq_len", 4096),
            terminal=config.get("shift_terminal") or None,
        )

    def for_video(self, num_video_tokens: int) -> DynamicShiftFlow:
        """The process of a video of so many tokens, references not counted."""
        slope = (self.max_mu - self.base_mu) / (self.max_tokens - self.base_tokens)
        return replace(self, shift=math.exp(self.base_mu + slope * (num_video_tokens - self.base_tokens)))

    def sample_sigma(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``float32 [count]``: sigmoid of normal numbers around mu, and a share uniform in 0..1.

        The uniform share keeps every level in training: large videos draw almost nothing below 0.9 otherwise. On the
        generator's device, on the CPU without one.
        """
        device = torch.device("cpu") if generator is None else generator.device
        normal = torch.randn(count, generator=generator, device=device)
        level, choice = torch.rand(2, count, generator=generator, device=device)
        return torch.where(choice < self.uniform, level, torch.sigmoid(math.log(self.shift) + self.deviation * normal))

    def sigmas(self, num_steps: int) -> Tensor:
        """Noise levels at which the steps of a sampler start, ``float32 [num_steps]`` from 1 downwards.

        Those of diffusers' LTX-2 pipelines: the shifted ``1, 1 - 1/n ... 1/n``, stretched so that the last is
        ``terminal``. A single step starts at 1.

        Raises:
            UserError: for fewer than 1 step.
        """
        if num_steps < 1:
            raise UserError(f"{num_steps} denoising steps were given; at least 1 is needed, 40 is what LTX-2 uses.")
        levels = self.shifted(torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64)[:-1])
        if self.terminal is not None and num_steps > 1:
            levels = 1.0 - (1.0 - levels) * (1.0 - self.terminal) / (1.0 - levels[-1])
        return levels.float()
