import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likeness.diffusion import RectifiedFlow
from likeness.errors import UserError

FLOW = RectifiedFlow(shift=5.0)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=4), st.integers(0, 100))
def test_clean_estimate_inverts_noising(sigmas: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z0, noise = torch.randn(2, len(sigmas), 2, 3, 2, 2, generator=generator)
    sigma = torch.tensor(sigmas)
    z_t = FLOW.add_noise(z0, noise, sigma)
    torch.testing.assert_close(FLOW.clean_estimate(z_t, FLOW.target(z0, noise, sigma), sigma), z0, atol=1e-5, rtol=1e-5)


def test_ends_of_the_path() -> None:
    z0, noise = torch.randn(2, 3, 4)
    assert FLOW.add_noise(z0, noise, 0.0).equal(z0)
    assert FLOW.add_noise(z0, noise, 1.0).equal(noise)


def test_sigmas_equal_the_scheduler_of_diffusers() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, 51)[:-1])
    torch.testing.assert_close(FLOW.sigmas(50), scheduler.sigmas[:-1], atol=1e-6, rtol=0)
    # Negative control: the scheduler's own spacing is another one.
    scheduler.set_timesteps(50)
    assert (FLOW.sigmas(50) - scheduler.sigmas[:-1]).abs().max() > 0.05


def test_training_sigmas_are_those_of_the_scheduler() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    known = FlowMatchEulerDiscreteScheduler(shift=5.0).sigmas.sort().values
    drawn = FLOW.sample_sigma(20_000, torch.Generator().manual_seed(0))
    place = torch.searchsorted(known, drawn).clamp(max=len(known) - 1)
    nearest = torch.minimum((known[place] - drawn).abs(), (known[(place - 1).clamp(min=0)] - drawn).abs())
    assert nearest.max() < 1e-6
    # Uniform over the thousand: the median is the shifted 0.5, which is 5/6.
    assert drawn.median() == pytest.approx(5 / 6, abs=0.01)
    assert drawn.unique().numel() > 990
    assert drawn.max() == 1.0


def test_weight_of_the_identity_losses() -> None:
    sigma = torch.tensor([0.0, 0.5, 0.8, 1.0])
    torch.testing.assert_close(FLOW.snr_weight(sigma), torch.tensor([1.0, 0.5, 0.04 / 0.68, 0.0]))
    torch.testing.assert_close(FLOW.snr_weight(sigma, gamma=2.0), FLOW.snr_weight(sigma).square())
    ratio = ((1 - sigma) / (sigma + 1e-8)).square()  # the paper's form, Eq. 12
    torch.testing.assert_close(FLOW.snr_weight(sigma), ratio / (ratio + 1))


@pytest.mark.parametrize("steps", [0, -3])
def test_steps_are_positive(steps: int) -> None:
    with pytest.raises(UserError, match="at least 1"):
        FLOW.sigmas(steps)


def test_a_flow_needs_a_positive_shift() -> None:
    with pytest.raises(UserError, match="shift"):
        RectifiedFlow(shift=0.0)
