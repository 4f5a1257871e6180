"""The objective: what reaches the model is what the method says."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from likeness.conditioning.sequence import Sequence
from likeness.method import CONCAT_ID, ST_DRC
from likeness.train.objective import Batch, flow_loss


class Spy:
    """A backbone that records what it is asked, over the process and the VAE of a real one."""

    def __init__(self, backbone) -> None:
        self.spec, self.encode_reference = backbone.spec, backbone.encode_reference
        self.sequences: list[Sequence] = []
        self.texts: list[torch.Tensor] = []
        self.sigmas: list[torch.Tensor] = []
        self.answer = None

    def predict(self, sequence, sigma, prompt_embeds):
        self.sequences.append(sequence)
        self.texts.append(prompt_embeds)
        self.sigmas.append(sigma)
        return torch.zeros_like(sequence.video) if self.answer is None else self.answer


@pytest.fixture
def spy(random_wan_backbone) -> Spy:
    return Spy(random_wan_backbone)


def _batch(backbone, size: int = 64) -> Batch:
    channels, frames, height, width = backbone.spec.latent_shape(5, 32, 32)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((size, channels, frames, height, width), generator=generator)
    pixels = torch.rand((size, 3, 1, 32, 32), generator=generator) * 2 - 1
    return Batch(latents, (pixels,), torch.ones(size, 3, 4))


def test_text_and_reference_are_dropped_independently(spy) -> None:
    method = replace(CONCAT_ID, text_dropout=0.5, reference_dropout=0.5, reference_noise=None)
    batch = _batch(spy, 400)
    flow_loss(spy, method, batch, torch.zeros(1, 3, 4), torch.Generator().manual_seed(3))
    no_text = (spy.texts[0] == 0).all(dim=(1, 2))
    no_reference = (spy.sequences[0].references[0] == 0).all(dim=(1, 2, 3, 4))
    assert 0.4 < no_text.float().mean() < 0.6 and 0.4 < no_reference.float().mean() < 0.6
    assert 0.17 < (no_text & no_reference).float().mean() < 0.33


def test_a_method_that_drops_by_absence_drops_for_the_whole_batch(spy) -> None:
    method = replace(ST_DRC, reference_dropout=0.5, augment=None)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        flow_loss(spy, method, _batch(spy, 2), torch.zeros(1, 3, 4), generator)
    counts = [sequence.num_references for sequence in spy.sequences]
    assert set(counts) == {0, 1} and 5 < sum(counts) < 25


def test_the_loss_is_zero_for_the_right_velocity_and_one_noise_variance_apart_for_none(spy) -> None:
    method = replace(CONCAT_ID, text_dropout=0.0, reference_dropout=0.0)
    batch = _batch(spy)
    loss, sigma = flow_loss(spy, method, batch, torch.zeros(1, 3, 4), torch.Generator().manual_seed(1))
    # z_t = (1 - s) z0 + s noise, so the velocity noise - z0 follows from what the model was given.
    noisy, s = spy.sequences[0].video, sigma.view(-1, 1, 1, 1, 1)
    spy.answer = (noisy - batch.latents) / s
    again, _ = flow_loss(spy, method, batch, torch.zeros(1, 3, 4), torch.Generator().manual_seed(1))
    assert loss == pytest.approx(2.0, rel=0.1)  # var(noise) + var(z0)
    assert again < 1e-8


def test_reference_noise_is_new_at_each_step_and_absent_without_it(spy) -> None:
    batch = _batch(spy, 2)
    generator = torch.Generator().manual_seed(0)
    method = replace(CONCAT_ID, reference_dropout=0.0)
    for _ in range(2):
        flow_loss(spy, method, batch, torch.zeros(1, 3, 4), generator)
    assert not torch.equal(spy.sequences[0].references[0], spy.sequences[1].references[0])
    clean = replace(method, reference_noise=None)
    flow_loss(spy, clean, batch, torch.zeros(1, 3, 4), generator)
    assert torch.equal(spy.sequences[2].references[0], spy.encode_reference(batch.references[0]))


def test_gradients_reach_the_transformer_alone(random_wan_backbone) -> None:
    transformer = deepcopy(random_wan_backbone.transformer).requires_grad_(True)
    backbone = replace(random_wan_backbone, transformer=transformer)
    batch = replace(_batch(backbone, 2), prompt_embeds=backbone.encode_text(["a", "b"]).detach())
    loss, _ = flow_loss(
        backbone, CONCAT_ID, batch, backbone.encode_text([""]).detach(), torch.Generator().manual_seed(0)
    )
    loss.backward()
    assert all(p.grad is not None for p in backbone.transformer.parameters())
    assert all(p.grad is None for p in backbone.vae.parameters())


def test_weights_count_errors_where_they_are(spy) -> None:
    batch = _batch(spy, 2)
    empty = torch.zeros(1, 3, 4)

    def loss(weights: torch.Tensor | None) -> float:
        weighted = replace(batch, weights=weights)
        return flow_loss(spy, CONCAT_ID, weighted, empty, torch.Generator().manual_seed(1))[0].item()

    ones = torch.ones(2, 1, *batch.latents.shape[2:])
    assert loss(None) == pytest.approx(loss(ones)) == pytest.approx(loss(7 * ones))
    first, second = ones.clone(), ones.clone()
    first[1], second[0] = 0, 0
    assert loss(first) != loss(second)
    assert (loss(first) + loss(second)) / 2 == pytest.approx(loss(None))
