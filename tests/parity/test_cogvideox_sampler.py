"""Golden comparisons of the v-prediction samplers: with diffusers' two CogVideoX schedulers, and with a transcription
of the sampler that CogVideoX and Concat-ID were published with (SAT code, ``VPSDEDPMPP2MSampler``)."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler
from diffusers.schedulers import scheduling_dpm_cogvideox

from likeness.diffusion import vprediction
from likeness.diffusion.vprediction import VPrediction

SHAPE = (2, 3, 2, 4, 4)
CONFIG = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def model(latents: torch.Tensor, timestep: float) -> torch.Tensor:
    """A prediction that depends on everything a model reads, and smoothly, as a trained one's does."""
    mixed = latents.roll(1, -1) * 0.6 + latents.roll(1, -2) * 0.3
    return torch.sin(mixed + timestep / 400.0) + 0.5 * latents


@pytest.fixture
def noises() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator) for _ in range(51)]


@pytest.fixture
def given_noise(monkeypatch, noises) -> Callable[[], None]:
    """Makes a run take the same noise at each step; called before it."""
    feed: Iterator[torch.Tensor] = iter(())

    def start() -> None:
        nonlocal feed
        feed = iter(noises[1:])

    monkeypatch.setattr(vprediction, "gaussian", lambda like, generator: next(feed))
    return start


def ours(process: VPrediction, steps: int, latents: torch.Tensor) -> torch.Tensor:
    sampler = process.sampler(steps)
    for index, sigma in enumerate(sampler.sigmas[:-1]):
        latents = sampler.step(index, latents, model(latents, process.timestep(sigma[None]).item()))
    return latents


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_ddim_is_that_of_diffusers(noises, shift: float, steps: int) -> None:
    scheduler = CogVideoXDDIMScheduler(**CONFIG, snr_shift_scale=shift)
    scheduler.set_timesteps(steps)
    latents = noises[0]
    for timestep in scheduler.timesteps:
        latents = scheduler.step(model(latents, timestep.item()), timestep, latents).prev_sample
    process = VPrediction.from_config(scheduler.config, "ddim")
    assert process.snr_shift_scale == shift
    assert difference(ours(process, steps, noises[0]), latents) < 1e-5


def diffusers_dpm(monkeypatch, noises: list[torch.Tensor], shift: float, steps: int) -> torch.Tensor:
    scheduler = CogVideoXDPMScheduler(**CONFIG, snr_shift_scale=shift)
    scheduler.set_timesteps(steps)
    latents, before = noises[0], None
    timesteps = scheduler.timesteps.tolist()
    for index, timestep in enumerate(timesteps):
        # It draws twice a step from the second on and throws the first away; both are the step's noise here.
        monkeypatch.setattr(
            scheduling_dpm_cogvideox, "randn_tensor", lambda *args, index=index, **kwargs: noises[index + 1]
        )
        latents, before = scheduler.step(
            model(latents, timestep), before, timestep, timesteps[index - 1] if index else None, latents
        )
    return latents


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_dpm_is_that_of_diffusers(monkeypatch, noises, given_noise, shift: float, steps: int) -> None:
    expected = diffusers_dpm(monkeypatch, noises, shift, steps)
    given_noise()
    assert difference(ours(VPrediction(snr_shift_scale=shift), steps, noises[0]), expected) < 1e-5
    if steps > 2:  # negative control: the two samplers are told apart
        ddim = VPrediction(snr_shift_scale=shift, sampler_name="ddim")
        assert difference(ours(ddim, steps, noises[0]), expected) > 1e-2


def test_step_counts_that_do_not_divide_the_levels_end_clean(monkeypatch, noises, given_noise) -> None:
    """diffusers steps by 1000 // 7 = 142 levels, so that its last of 7 steps stops at level 0 and adds noise there;
    ours goes to the timestep that follows, and ends clean."""
    timesteps = VPrediction().timesteps(7)
    scheduler = CogVideoXDPMScheduler(**CONFIG)
    scheduler.set_timesteps(7)
    assert timesteps == scheduler.timesteps.tolist()
    assert timesteps[-1] - 1000 // 7 == 0
    sampler = VPrediction().sampler(7)
    assert sampler.step(6, noises[0], noises[1]).equal(
        VPrediction().clean_estimate(noises[0], noises[1], sampler.sigmas[6:7].expand(2))
    )


# The published sampler, written out from the mathematics of the SAT code in its own arithmetic, float32 or float64, and
# sharing no function with ours.


def published(noises: list[torch.Tensor], steps: int, dtype: torch.dtype, shift: float = 1.0) -> torch.Tensor:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    unshifted = np.cumprod(1 - betas)
    table = unshifted / (shift + (1 - shift) * unshifted)

    def discretise(levels: np.ndarray) -> torch.Tensor:
        """sqrt(abar) of rising levels, stretched between the first of them and zero."""
        roots = torch.tensor(table[levels], dtype=dtype) ** 0.5
        return (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))

    every = discretise(np.arange(1000))
    levels = np.linspace(999, 0, steps, endpoint=False).astype(int)
    a = torch.cat([discretise(levels[::-1].copy()).flip(0), torch.ones(1, dtype=dtype)])

    def half_log_snr(root: torch.Tensor) -> torch.Tensor:
        return torch.log(torch.sqrt(root**2 / (1 - root**2)))

    latents, before = noises[0].to(dtype), torch.zeros(())
    for step, level in enumerate(levels):
        quantised = every[(every - a[step]).abs().argmin()]
        prediction = model(latents.float(), float(level)).to(dtype)
        clean = quantised * latents - torch.sqrt(1 - quantised**2) * prediction
        if step == steps - 1:
            return clean.float()
        h = half_log_snr(a[step + 1]) - half_log_snr(a[step])
        direction = clean
        if step > 0:
            r = (half_log_snr(a[step]) - half_log_snr(a[step - 1])) / h
            direction = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * before
        s, s_next = torch.sqrt(1 - a[step] ** 2), torch.sqrt(1 - a[step + 1] ** 2)
        latents = (
            s_next / s * torch.exp(-h) * latents
            - torch.expm1(-2 * h) * a[step + 1] * direction
            + s_next * torch.sqrt(1 - torch.exp(-2 * h)) * noises[step + 1].to(dtype)
        )
        before = clean
    raise AssertionError("no steps")


@pytest.mark.parametrize(("steps", "shift"), [(4, 1.0), (50, 1.0), (50, 3.0), (30, 1.0)])
def test_sat_dpm_is_the_published_sampler(noises, given_noise, steps: int, shift: float) -> None:
    process = VPrediction(sampler_name="sat-dpm", snr_shift_scale=shift)
    given_noise()
    latents = ours(process, steps, noises[0])
    assert difference(latents, published(noises, steps, torch.float64, shift)) < 1e-5
    # As shipped it computes in float32 throughout.
    assert difference(latents, published(noises, steps, torch.float32, shift)) < 1e-5
    # Negative control: without its quirks it is another sampler.
    given_noise()
    plain = VPrediction(snr_shift_scale=shift)
    assert difference(ours(plain, steps, noises[0]), published(noises, steps, torch.float64, shift)) > 1e-3


def test_the_nearest_scheduler_of_diffusers_is_close_to_the_published_sampler(monkeypatch, noises, given_noise) -> None:
    """0.011 on latents of deviation 0.77: what the two quirks make of 50 steps of one model with the same noise."""
    expected = published(noises, 50, torch.float64)
    nearest = difference(diffusers_dpm(monkeypatch, noises, 1.0, 50), expected)
    assert 1e-3 < nearest < 0.1
