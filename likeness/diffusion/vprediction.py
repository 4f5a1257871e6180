"""v-prediction on a zero-terminal-SNR schedule: noise, target, clean estimate, DDIM and DPM-Solver++ steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from likeness.diffusion.base import Generators, expand_like
from likeness.errors import UserError

SamplerName = Literal["dpm", "ddim", "sat-dpm"]


@dataclass(frozen=True)
class VPrediction:
    """``z_t = sqrt(abar) z0 + sqrt(1 - abar) noise`` with ``v = sqrt(abar) noise - sqrt(1 - abar) z0`` as target.

    ``sigma`` is ``sqrt(1 - abar)``. A model of this kind knows ``num_train_timesteps`` noise levels and reads their
    number; the last one is pure noise (zero terminal SNR). Where a sigma is one of the levels, as in training and
    sampling, abar comes from the schedule in float64: near 1, ``1 - sigma ** 2`` in float32 would lose it.

    Attributes:
        num_train_timesteps: noise levels.
        beta_start, beta_end: the roots of the betas rise linearly from one's root to the other's.
        snr_shift_scale: divides the SNR of every level: 1 for CogVideoX-5B, 3 for CogVideoX-2B.
        rescale_zero_snr: stretch the schedule so that the last level has no signal at all.
        sampler_name: "dpm", stochastic DPM-Solver++ of second order, as diffusers' ``CogVideoXDPMScheduler``; "ddim",
            its deterministic first order, as ``CogVideoXDDIMScheduler``; "sat-dpm", the sampler of the published
            CogVideoX and Concat-ID code, "dpm" with two quirks (see :meth:`sampler`).
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    snr_shift_scale: float = 1.0
    rescale_zero_snr: bool = True
    sampler_name: SamplerName = "dpm"

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 2 or not 0 < self.beta_start <= self.beta_end < 1 or not self.snr_shift_scale > 0:
            raise UserError(
                f"{self} is not a schedule: it takes 2 timesteps or more, 0 < beta_start <= beta_end < 1 and an "
                "snr_shift_scale greater than 0."
            )
        if self.sampler_name not in get_args(SamplerName):
            known = ", ".join(map(repr, get_args(SamplerName)))
            raise UserError(f"The sampler {self.sampler_name!r} was given; a v-prediction model has {known}.")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], sampler_name: SamplerName = "dpm") -> VPrediction:
        """The process that a diffusers scheduler's configuration describes.

        ``timestep_spacing`` is not read: sampling always starts at the last level ("trailing"), as the published code
        does, since a model that never starts from pure noise wastes its zero terminal SNR.

        Raises:
            UserError: for another prediction type or kind of schedule.
        """
        expected = {"prediction_type": "v_prediction", "beta_schedule": "scaled_linear", "trained_betas": None}
        for key, value in expected.items():
            found = config.get(key, value)
            if found != value:
                raise UserError(
                    f"The scheduler has {key} = {found!r}; a v-prediction model takes {value!r}. Use the scheduler of "
                    "a CogVideoX model."
                )
        # A file that leaves a value out means the default of diffusers' classes.
        return cls(
            num_train_timesteps=config.get("num_train_timesteps", 1000),
            beta_start=config.get("beta_start", 0.00085),
            beta_end=config.get("beta_end", 0.012),
            snr_shift_scale=config.get("snr_shift_scale", 3.0),
            rescale_zero_snr=config.get("rescale_betas_zero_snr", False),
            sampler_name=sampler_name,
        )

    def for_video(self, num_video_tokens: int) -> VPrediction:
        """Itself: the schedule is fixed."""
        return self

    @property
    def alphas_bar(self) -> Tensor:
        """abar of each noise level, ``float64 [num_train_timesteps]``, falling."""
        return _alphas_bar(*self._schedule)

    def add_noise(self, z0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
        """The noisy latents at ``sigma``; all ``[B, ...]``."""
        signal, deviation = self._mix(sigma, z0)
        return signal * z0 + deviation * noise

    def target(self, z0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
        """The v that the model learns. Its plain squared error is the published loss, that of the clean latents
        weighted by ``1 / (1 - abar)``."""
        signal, deviation = self._mix(sigma, z0)
        return signal * noise - deviation * z0

    def clean_estimate(self, z_t: Tensor, prediction: Tensor, sigma: Tensor | float) -> Tensor:
        """The clean latents that a prediction implies, ``sqrt(abar) z_t - sqrt(1 - abar) v``, in float32."""
        z_t = z_t.float()
        signal, deviation = self._mix(sigma, z_t)
        return signal * z_t - deviation * prediction.float()

    def timestep(self, sigma: Tensor) -> Tensor:
        """Number of the noise level nearest to each sigma, ``float32 [B]``."""
        return self._nearest(sigma)[0].float()

    def sample_sigma(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``float32 [count]``, uniform over the noise levels, on the generator's device, on the CPU without one."""
        device = torch.device("cpu") if generator is None else generator.device
        index = torch.randint(self.num_train_timesteps, (count,), generator=generator, device=device)
        return _sigmas(*self._schedule).to(device)[index]

    def snr_weight(self, sigma: Tensor, gamma: float = 1.0) -> Tensor:
        """Weight of the identity losses (ST-DRC Eq. 12): ``SNR / (SNR + 1)`` is abar, so ``abar ** gamma``."""
        return self._levels(sigma).float() ** gamma

    def timesteps(self, num_steps: int) -> list[int]:
        """Noise levels at which the steps of a sampler start, falling from the last one ("trailing").

        "sat-dpm" rounds as the published code does; the two agree where ``num_steps`` divides ``num_train_timesteps``,
        as 50 does.

        Raises:
            UserError: for fewer than 1 step, or more steps than noise levels.
        """
        total = self.num_train_timesteps
        if not 1 <= num_steps <= total:
            raise UserError(f"{num_steps} denoising steps were given; use 1 to {total}, 50 is what CogVideoX uses.")
        if self.sampler_name == "sat-dpm":
            return [math.floor((total - 1) * (num_steps - step) / num_steps) for step in range(num_steps)]
        return [round(total * (num_steps - step) / num_steps) - 1 for step in range(num_steps)]

    def sampler(self, num_steps: int, generator: Generators = None) -> DpmSolverSampler:
        """A run of ``num_steps`` steps over :meth:`timesteps` and down to 0.

        ``generator`` gives the noise that "dpm" and "sat-dpm" add at every step but the last; "ddim" adds none.

        The published sampler ("sat-dpm") differs from "dpm" in two ways, which this one follows. It stretches the
        chosen noise levels to zero terminal SNR on their own, holding the smallest of them instead of level 0, so that
        its steps lie at slightly other abars than the model's levels (by up to 0.0012 at 50 steps). And it takes the
        clean estimate at the model's level that is nearest to such an abar.

        Raises:
            UserError: see :meth:`timesteps`.
        """
        timesteps = self.timesteps(num_steps)
        alphas = self.alphas_bar[timesteps]
        solved, estimated = alphas, alphas
        if self.sampler_name == "sat-dpm":
            solved, estimated = self._published_levels(timesteps)
        sigmas = torch.cat([_sigmas(*self._schedule)[timesteps], torch.zeros(1)])
        return DpmSolverSampler(sigmas, solved, estimated, generator, stochastic=self.sampler_name != "ddim")

    def _published_levels(self, timesteps: list[int]) -> tuple[Tensor, Tensor]:
        """abar of the published sampler's steps, and abar of its clean estimates."""
        chosen = _alphas_bar(*self._schedule[:-1], False)[timesteps]
        steps = _zero_terminal(chosen.flip(0)).flip(0) if self.rescale_zero_snr else chosen
        # Nearest in sqrt(abar).
        nearest = (steps.sqrt()[:, None] - self.alphas_bar.sqrt()).abs().argmin(dim=1)
        return steps, self.alphas_bar[nearest]

    @property
    def _schedule(self) -> tuple[int, float, float, float, bool]:
        """What the tables depend on."""
        return (
            self.num_train_timesteps,
            self.beta_start,
            self.beta_end,
            self.snr_shift_scale,
            self.rescale_zero_snr,
        )

    def _nearest(self, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """Number of the nearest noise level, and whether sigma is that level to float32."""
        level = torch.as_tensor(sigma, dtype=torch.float32)
        table = _sigmas(*self._schedule).to(level.device)
        index = (level.unsqueeze(-1) - table).abs().argmin(dim=-1)
        return index, table[index] == level

    def _levels(self, sigma: Tensor | float) -> Tensor:
        """abar at each sigma, float64."""
        index, exact = self._nearest(sigma)
        between = 1.0 - torch.as_tensor(sigma, dtype=torch.float32).double().square()
        return torch.where(exact, self.alphas_bar.to(index.device)[index], between)

    def _mix(self, sigma: Tensor | float, latents: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """``sqrt(abar)`` and ``sqrt(1 - abar)``, to broadcast over latents."""
        abar = self._levels(sigma)
        signal, deviation = abar.sqrt(), (1.0 - abar).sqrt()
        if abar.ndim == 0:
            return signal.item(), deviation.item()
        return expand_like(signal, latents), expand_like(deviation, latents)


def _zero_terminal(alphas_bar: Tensor) -> Tensor:
    """Stretch a falling schedule so that the last abar is 0 and the first stays: algorithm 1 of arXiv 2305.08891."""
    roots = alphas_bar.sqrt()
    first, last = roots[0], roots[-1]
    if first == last:  # a single level
        return torch.zeros_like(alphas_bar)
    return ((roots - last) * (first / (first - last))).square()


@lru_cache(maxsize=8)
def _alphas_bar(levels: int, beta_start: float, beta_end: float, snr_shift_scale: float, rescale: bool) -> Tensor:
    # A table outlives the mode it was made in: one made in inference mode could not serve a training step.
    with torch.inference_mode(False):
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, levels, dtype=torch.float64).square()
        abar = torch.cumprod(1.0 - betas, dim=0)
        abar = abar / (snr_shift_scale + (1.0 - snr_shift_scale) * abar)
        return _zero_terminal(abar) if rescale else abar


@lru_cache(maxsize=8)
def _sigmas(levels: int, beta_start: float, beta_end: float, snr_shift_scale: float, rescale: bool) -> Tensor:
    """Sigma of each noise level, ``float32 [levels]``, rising."""
    with torch.inference_mode(False):
        return (1.0 - _alphas_bar(levels, beta_start, beta_end, snr_shift_scale, rescale)).sqrt().float()


class _Step(NamedTuple):
    """Numbers of one step of a sampler: ``z' = keep z + clean (D + extrapolate (D - D_before)) + noise epsilon``.

    ``D = signal z - deviation v`` is the clean estimate.
    """

    signal: float
    deviation: float
    keep: float
    clean: float
    extrapolate: float
    noise: float


class DpmSolverSampler:
    """DPM-Solver++ steps of v-prediction: second order and stochastic ("SDE-DPM-Solver++ 2M"), or DDIM, its
    deterministic first order.

    With ``lambda = log(sqrt(abar) / sqrt(1 - abar))`` and ``h`` its growth in a step, the stochastic step is
    ``z' = (s'/s) e^-h z + a' (1 - e^-2h) D + s' sqrt(1 - e^-2h) noise``, where ``a`` and ``s`` are the roots of abar
    and ``1 - abar``, and D the clean estimate, extrapolated from the one before by ``h / (2 h_before)``. From pure
    noise ``h`` is infinite, so the first two steps extrapolate nothing; into the clean video it is infinite too, so
    the last step returns the clean estimate.

    Attributes:
        sigmas: ``float32 [S + 1]``, falling, the last 0.
    """

    def __init__(
        self, sigmas: Tensor, solved: Tensor, estimated: Tensor, generator: Generators, *, stochastic: bool
    ) -> None:
        """
        Args:
            sigmas: levels that the model reads.
            solved: abar of the steps, ``float64 [S]``, rising.
            estimated: abar of the clean estimates, ``float64 [S]``.
            generator: of the noise.
            stochastic: False for DDIM.
        """
        self.sigmas = sigmas
        self._generator = generator
        self._steps = _steps(solved.tolist(), estimated.tolist(), stochastic)
        self._before: Tensor | None = None

    def step(self, index: int, latents: Tensor, prediction: Tensor) -> Tensor:
        """Latents ``[B, ...]`` at ``sigmas[index + 1]`` from those at ``sigmas[index]``, float32."""
        numbers, latents = self._steps[index], latents.float()
        clean = numbers.signal * latents - numbers.deviation * prediction.float()
        extrapolated = clean
        if numbers.extrapolate and self._before is not None:
            extrapolated = clean + numbers.extrapolate * (clean - self._before)
        self._before = clean
        result = numbers.keep * latents + numbers.clean * extrapolated
        if numbers.noise:
            result = result + numbers.noise * gaussian(latents, self._generator)
        return result


def _steps(solved: list[float], estimated: list[float], stochastic: bool) -> list[_Step]:
    steps: list[_Step] = []
    growth_before = math.inf
    for index, abar in enumerate(solved):
        following = solved[index + 1] if index + 1 < len(solved) else 1.0
        a, s = math.sqrt(abar), math.sqrt(1.0 - abar)
        a_next, s_next = math.sqrt(following), math.sqrt(1.0 - following)
        ratio = a * s_next / (s * a_next)  # e^-h, 0 from pure noise and into the clean video
        extrapolate = noise = 0.0
        if stochastic:
            keep, clean = s_next / s * ratio, a_next * (1.0 - ratio**2)
            noise = s_next * math.sqrt(1.0 - ratio**2)
            growth = -math.log(ratio) if ratio else math.inf
            if math.isfinite(growth) and math.isfinite(growth_before):
                extrapolate = growth / (2.0 * growth_before)
            growth_before = growth
        else:
            keep, clean = s_next / s, a_next - a * s_next / s
        steps.append(
            _Step(math.sqrt(estimated[index]), math.sqrt(1.0 - estimated[index]), keep, clean, extrapolate, noise)
        )
    return steps


def gaussian(like: Tensor, generator: Generators) -> Tensor:
    """Gaussian noise of the shape, type and device of latents ``[B, ...]``.

    One generator draws for the whole batch, a list has one for each video; they draw on their own device, so that one
    on the CPU gives the same noise everywhere.

    Raises:
        UserError: for a list of another length than the batch.
    """
    if isinstance(generator, list):
        if len(generator) != len(like):
            raise UserError(f"{len(generator)} generators were given for {len(like)} videos; give one, or one a video.")
        return torch.cat([gaussian(like[index : index + 1], one) for index, one in enumerate(generator)])
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)
