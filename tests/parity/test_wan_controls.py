"""What a careless reading of the published Wan weights would compute, and that the comparison tells it apart by 1e-3.

Each control departs from the published mathematics in one thing. The transcription is that of
test_wan_parity.py.
"""

from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel
from test_wan_parity import Inputs, difference, published, randomised, run

from likeness.backbones import wan_transformer
from likeness.backbones.wan import ConcatWanTransformer3DModel
from likeness.diffusion import RectifiedFlow
from likeness.method import Placement

EXACT, SEEN = 1e-5, 1e-3
BESIDE = (0, 0, 1)


@pytest.fixture
def inputs() -> Inputs:
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Inputs(noise(2, 4, 3, 4, 6), torch.tensor([723.0, 31.0]), noise(2, 5, 16), (noise(2, 4, 1, 4, 6),))


def model_of(config: dict, modulation) -> ConcatWanTransformer3DModel:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        base = WanTransformer3DModel(**config).eval()
        return randomised(ConcatWanTransformer3DModel.from_base(base, modulation))


@pytest.mark.parametrize("modulation", ["shared", "separate"])
def test_wrong_placement_and_text_are_seen(tiny_transformer_config, inputs, modulation) -> None:
    model = model_of(tiny_transformer_config, modulation)
    expected = published(model, inputs, offset=BESIDE, separate=modulation == "separate")
    assert difference(run(model, inputs), expected) <= EXACT
    for wrong in (
        {"placement": Placement()},  # the paper's own, Eq. 2
        {"placement": Placement(gap=1, cols=1)},
        {"placement": Placement(rows=1, cols=1)},
        {"reference_reads_text": True},
        {"reference_timestep": "clean"},
    ):
        assert difference(run(model, inputs, **wrong), expected) > SEEN, wrong


def test_modulation_of_the_feed_forward_is_that_of_the_attention(tiny_transformer_config, inputs, monkeypatch) -> None:
    model = model_of(tiny_transformer_config, "separate")
    expected = published(model, inputs, offset=BESIDE, separate=True)
    assert difference(run(model, inputs), expected) <= EXACT
    # As the table's names would have it: the third and fourth of its rows before the feed-forward.
    monkeypatch.setattr(wan_transformer.Modulation, "_replace", lambda self, **changes: self)
    assert difference(run(model, inputs), expected) > SEEN


def test_shared_modulation_on_separate_weights_is_seen(tiny_transformer_config, inputs) -> None:
    model = model_of(tiny_transformer_config, "separate")
    wrong = published(model, inputs, offset=BESIDE, separate=False)
    assert difference(run(model, inputs), wrong) > SEEN


def test_a_timestep_off_by_ten_is_seen(tiny_transformer_config, inputs) -> None:
    model = model_of(tiny_transformer_config, "shared")
    expected = published(model, inputs, offset=BESIDE)
    assert difference(run(model, replace(inputs, timestep=inputs.timestep + 10)), expected) > SEEN


def test_published_sigmas() -> None:
    # Written out: 50 equal steps from 1 to 0, each shifted by 5, in double precision.
    even = [1 - step / 50 for step in range(51)]
    expected = torch.tensor([5 * s / (1 + 4 * s) for s in even], dtype=torch.float64)
    sigmas = RectifiedFlow(shift=5.0).sampler(50).sigmas
    assert sigmas.shape == (51,) and sigmas[-1] == 0
    assert (sigmas.double() - expected).abs().max() <= 1e-6
    # Negative control: a shift of 3, as other releases have it.
    assert (RectifiedFlow(shift=3.0).sampler(50).sigmas.double() - expected).abs().max() > 0.05
