import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift
from ltx2_parts import SCHEDULER

from likeness.diffusion.shifted import DynamicShiftFlow
from likeness.errors import UserError


@pytest.mark.parametrize("tokens", [18, 1024, 4096, 6144])
@pytest.mark.parametrize("steps", [3, 8, 40])
@pytest.mark.parametrize("terminal", [0.1, None])
def test_sigmas_are_those_of_diffusers_pipeline(tokens: int, steps: int, terminal: float | None) -> None:
    config = {**SCHEDULER, "shift_terminal": terminal}
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    mu = calculate_shift(tokens, 1024, 4096, 0.95, 2.05)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    process = DynamicShiftFlow.from_config(scheduler.config).for_video(tokens)
    sampler = process.sampler(steps)
    torch.testing.assert_close(sampler.sigmas, scheduler.sigmas, atol=1e-6, rtol=0)
    torch.testing.assert_close(process.timestep(sampler.sigmas[:-1]), scheduler.timesteps, atol=1e-3, rtol=0)
    # Negative control: a reference counted in would be seen.
    counted = DynamicShiftFlow.from_config(scheduler.config).for_video(tokens + 600).sampler(steps)
    assert (counted.sigmas - scheduler.sigmas).abs().max() > 1e-3


def test_mu_is_linear_in_the_tokens() -> None:
    process = DynamicShiftFlow()
    for tokens, mu in ((1024, 0.95), (2560, 1.5), (4096, 2.05), (7168, 3.15)):
        assert math.isclose(math.log(process.for_video(tokens).shift), mu, rel_tol=1e-9)
    # It does not matter which size came before.
    assert process.for_video(4096).for_video(2560) == process.for_video(2560)


def test_one_step_starts_from_noise() -> None:
    sampler = DynamicShiftFlow(terminal=0.1).sampler(1)
    assert sampler.sigmas.tolist() == [1.0, 0.0]
    latents, velocity = torch.randn(2, 1, 4, 2, 2, 2)
    torch.testing.assert_close(sampler.step(0, latents, velocity), latents - velocity)


def test_a_fixed_shift_is_the_same_for_every_size() -> None:
    process = DynamicShiftFlow.from_config({"shift": 3.0, "use_dynamic_shifting": False})
    assert math.isclose(process.for_video(9999).shift, 3.0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 7, 7))
    torch.testing.assert_close(process.for_video(9999).sampler(7).sigmas, scheduler.sigmas, atol=1e-6, rtol=0)


def test_training_levels_are_logit_normal_with_a_uniform_tenth() -> None:
    process = DynamicShiftFlow().for_video(4096)
    sigma = process.sample_sigma(200_000, torch.Generator().manual_seed(0))
    assert sigma.dtype == torch.float32 and sigma.min() > 0 and sigma.max() <= 1
    # The mixture's quantiles: nine tenths of a normal around 2.05 on the logit scale, one tenth uniform.
    for level in (0.05, 0.3, 0.7, 0.9, 0.98):
        normal = 0.5 * (1 + math.erf((math.log(level / (1 - level)) - 2.05) / math.sqrt(2)))
        assert abs((sigma < level).float().mean().item() - (0.9 * normal + 0.1 * level)) < 4e-3
    again = process.sample_sigma(200_000, torch.Generator().manual_seed(0))
    assert again.equal(sigma)


def test_schedules_that_ltx_does_not_have_are_refused() -> None:
    for key, value in (("time_shift_type", "linear"), ("use_karras_sigmas", True), ("invert_sigmas", True)):
        with pytest.raises(UserError, match=f"{key} = {value!r}"):
            DynamicShiftFlow.from_config({**SCHEDULER, key: value})
    with pytest.raises(UserError, match=r"0 denoising steps.*40"):
        DynamicShiftFlow().sampler(0)
    for wrong in ({"base_tokens": 4096}, {"terminal": 1.0}, {"uniform": 1.1}, {"shift": 0.0}):
        with pytest.raises(UserError, match="is not a flow"):
            DynamicShiftFlow(**wrong)
