import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from likeness.diffusion.vprediction import VPrediction, gaussian
from likeness.errors import UserError

COGVIDEOX_5B = VPrediction()
COGVIDEOX_2B = VPrediction(snr_shift_scale=3.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=4), st.integers(0, 100))
def test_clean_estimate_inverts_noising(sigmas: list[float], seed: int) -> None:
    z0, noise = torch.randn(2, len(sigmas), 2, 3, 2, 2, generator=seeded(seed))
    sigma = torch.tensor(sigmas)
    z_t = COGVIDEOX_5B.add_noise(z0, noise, sigma)
    target = COGVIDEOX_5B.target(z0, noise, sigma)
    torch.testing.assert_close(COGVIDEOX_5B.clean_estimate(z_t, target, sigma), z0, atol=1e-5, rtol=1e-5)


def test_ends_of_the_path() -> None:
    z0, noise = torch.randn(2, 3, 4, generator=seeded())
    assert COGVIDEOX_5B.add_noise(z0, noise, 0.0).equal(z0)
    assert COGVIDEOX_5B.add_noise(z0, noise, 1.0).equal(noise)
    assert COGVIDEOX_5B.target(z0, noise, 1.0).equal(-z0)


@pytest.mark.parametrize("process", [COGVIDEOX_5B, COGVIDEOX_2B])
def test_noising_is_that_of_diffusers_at_every_level(process: VPrediction) -> None:
    from diffusers import CogVideoXDDIMScheduler

    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=process.snr_shift_scale
    )
    timesteps = torch.arange(1000)
    sigma = (1.0 - scheduler.alphas_cumprod).sqrt().float()
    z0, noise = torch.randn(2, 1000, 3, generator=seeded())
    difference = process.add_noise(z0, noise, sigma) - scheduler.add_noise(z0, noise, timesteps)
    # The levels next to pure noise too, which a float32 sigma alone could not tell apart.
    assert difference.abs().max() < 1e-6
    assert process.timestep(sigma).equal(timesteps.float())
    assert process.timestep(sigma[:-1] * 0.99999 + sigma[1:] * 0.00001)[:900].equal(timesteps[:900].float())


def test_training_noise_levels_are_uniform() -> None:
    drawn = COGVIDEOX_5B.timestep(COGVIDEOX_5B.sample_sigma(20_000, seeded()))
    assert drawn.unique().numel() == 1000
    assert drawn.mean() == pytest.approx(499.5, abs=5)


def test_weight_of_the_identity_losses_is_a_power_of_alpha_bar() -> None:
    sigma = torch.tensor([0.0, 0.6, 0.8, 1.0])
    torch.testing.assert_close(COGVIDEOX_5B.snr_weight(sigma), torch.tensor([1.0, 0.64, 0.36, 0.0]))
    torch.testing.assert_close(COGVIDEOX_5B.snr_weight(sigma, 2.0), COGVIDEOX_5B.snr_weight(sigma).square())


@pytest.mark.parametrize(
    ("name", "steps"), [("dpm", 1), ("dpm", 2), ("dpm", 7), ("dpm", 50), ("ddim", 7), ("ddim", 50), ("sat-dpm", 50)]
)
def test_a_perfect_model_is_sampled_to_its_video(name, steps: int) -> None:
    """A model that knows the one video there is: every sampler must end on it."""
    process = VPrediction(sampler_name=name)
    z0 = torch.randn(2, 3, 2, 2, 2, generator=seeded())
    latents = torch.randn(2, 3, 2, 2, 2, generator=seeded(1))
    sampler = process.sampler(steps, seeded(2))
    assert len(sampler.sigmas) == steps + 1
    assert (sampler.sigmas.diff() < 0).all()
    assert sampler.sigmas[-1] == 0
    for index, sigma in enumerate(sampler.sigmas[:-1].tolist()):
        # v of a z0 that is known: solve z_t for the noise, which pure noise is itself.
        abar = process.alphas_bar[process.timesteps(steps)[index]].item()
        noise = (latents - abar**0.5 * z0) / (1.0 - abar) ** 0.5
        latents = sampler.step(index, latents, process.target(z0, noise, sigma))
    # The steps of the published sampler are not quite at the model's levels.
    assert (latents - z0).abs().max() < (2e-2 if name == "sat-dpm" else 1e-5)


def test_levels_that_the_model_reads() -> None:
    for name in ("dpm", "ddim", "sat-dpm"):
        process = VPrediction(sampler_name=name)
        assert process.timesteps(50) == list(range(999, 0, -20))
        assert process.timestep(process.sampler(50).sigmas[:-1]).tolist() == process.timesteps(50)


def test_noise_comes_from_the_generator() -> None:
    start, prediction = torch.randn(2, 2, 3, 4, generator=seeded())

    def sample(name, generator) -> torch.Tensor:
        sampler, latents = VPrediction(sampler_name=name).sampler(4, generator), start
        for index in range(3):
            latents = sampler.step(index, latents, prediction)
        return latents

    assert sample("dpm", seeded(1)).equal(sample("dpm", seeded(1)))
    assert not sample("dpm", seeded(1)).equal(sample("dpm", seeded(2)))
    assert sample("ddim", seeded(1)).equal(sample("ddim", None))
    # One a video: a video's noise does not depend on its neighbours.
    pair = sample("dpm", [seeded(1), seeded(2)])
    assert not sample("dpm", [seeded(1), seeded(3)])[1].equal(pair[1])
    assert sample("dpm", [seeded(1), seeded(3)])[0].equal(pair[0])
    torch.manual_seed(5)
    first = gaussian(start, None)
    torch.manual_seed(5)
    assert gaussian(start, None).equal(first)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="1 to 1000"):
        COGVIDEOX_5B.sampler(0)
    with pytest.raises(UserError, match="1001 denoising steps"):
        COGVIDEOX_5B.sampler(1001)
    with pytest.raises(UserError, match="not a schedule"):
        VPrediction(beta_end=0.0)
    with pytest.raises(UserError, match=r"'euler'.*'sat-dpm'"):
        VPrediction(sampler_name="euler")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="3 generators were given for 2 videos"):
        gaussian(torch.zeros(2, 1), [seeded()] * 3)


def test_configuration() -> None:
    config = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "snr_shift_scale": 1.0}
    assert VPrediction.from_config(config, "ddim") == VPrediction(sampler_name="ddim")
    assert VPrediction.from_config({}) == VPrediction(snr_shift_scale=3.0, rescale_zero_snr=False)
    for key, value in (("prediction_type", "epsilon"), ("beta_schedule", "linear"), ("trained_betas", [0.1])):
        with pytest.raises(UserError, match=key):
            VPrediction.from_config({**config, key: value})
