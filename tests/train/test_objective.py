"""The objective: what reaches the model is what the method says."""

import itertools
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from likeness.conditioning.sequence import Sequence
from likeness.method import CONCAT_ID, ST_DRC
from likeness.train.config import LogitNormal
from likeness.train.objective import Batch, Objective, face_weights, sample_generators, weighted_mean


class Spy:
    """A backbone that records what it is asked, over the process and the VAE of a real one."""

    def __init__(self, backbone) -> None:
        self.spec, self.encode_reference = backbone.spec, backbone.encode_reference
        self.transformer = torch.nn.Identity()
        self.sequences: list[Sequence] = []
        self.texts: list[torch.Tensor] = []
        self.sigmas: list[torch.Tensor] = []
        self.answer = None

    def predict(self, sequence, sigma, prompt_embeds):
        self.sequences.append(sequence)
        self.texts.append(prompt_embeds)
        self.sigmas.append(sigma)
        return torch.zeros_like(sequence.video) if self.answer is None else self.answer


EMPTY = torch.zeros(1, 3, 4)


@pytest.fixture
def spy(random_wan_backbone) -> Spy:
    return Spy(random_wan_backbone)


def _batch(backbone, size: int = 64) -> Batch:
    channels, frames, height, width = backbone.spec.latent_shape(5, 32, 32)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((size, channels, frames, height, width), generator=generator)
    pixels = torch.rand((size, 3, 1, 32, 32), generator=generator) * 2 - 1
    return Batch(latents, (pixels,), torch.ones(size, 3, 4))


def _loss(backbone, method, batch: Batch, seed: int = 0, step: int = 0, **settings) -> dict[str, torch.Tensor]:
    objective = Objective(backbone, method, EMPTY, **settings)
    return objective(batch, sample_generators(seed, step, 0, len(batch.latents)))


def test_noise_levels_are_those_asked_for(spy) -> None:
    batch = _batch(spy, 400)
    _loss(spy, CONCAT_ID, batch)
    _loss(spy, CONCAT_ID, batch, noise_levels=LogitNormal(mean=-1.0, std=0.5))
    own, asked = spy.sigmas
    logits = torch.logit(asked)
    assert abs(logits.mean() + 1.0) < 0.1 and abs(logits.std() - 0.5) < 0.06
    assert own.mean() > asked.mean() + 0.2  # shifted towards noise, as Wan is


def test_text_and_reference_are_dropped_independently(spy) -> None:
    method = replace(CONCAT_ID, text_dropout=0.5, reference_dropout=0.5, reference_noise=None)
    _loss(spy, method, _batch(spy, 400))
    no_text = (spy.texts[0] == 0).all(dim=(1, 2))
    no_reference = (spy.sequences[0].references[0] == 0).all(dim=(1, 2, 3, 4))
    assert 0.4 < no_text.float().mean() < 0.6 and 0.4 < no_reference.float().mean() < 0.6
    assert 0.17 < (no_text & no_reference).float().mean() < 0.33


@pytest.mark.parametrize("dropped_reference", ["zeros", "absent"])
def test_only_references_that_stay_are_encoded(spy, dropped_reference) -> None:
    encode, encoded = spy.encode_reference, []
    spy.encode_reference = lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    method = replace(CONCAT_ID, reference_dropout=0.5, dropped_reference=dropped_reference)
    batch = _batch(spy, 40)
    _loss(spy, method, batch)
    shown = [s for s in spy.sequences if s.references]
    stayed = sum(int(s.references[0].flatten(1).any(1).sum()) for s in shown)
    assert encoded == [stayed] and 8 < stayed < 32
    _loss(spy, replace(method, reference_dropout=1.0), batch)
    assert len(encoded) == 1


def test_a_method_that_drops_by_absence_runs_samples_with_and_without_references_apart(random_wan_backbone) -> None:
    """The mixed batch's predictions are those of each sample alone, in their places."""
    method = replace(ST_DRC, reference_dropout=0.5, augment=None, identity_loss=None)
    batch = _batch(random_wan_backbone, 4)
    embeds = random_wan_backbone.encode_text(["a man"]).detach()
    batch = replace(batch, prompt_embeds=embeds.expand(4, -1, -1))
    objective = Objective(random_wan_backbone, method, torch.zeros_like(embeds))
    references = [random_wan_backbone.encode_reference(item) for item in batch.references]
    sigma, dropped = torch.tensor([0.2, 0.4, 0.6, 0.8]), torch.tensor([True, False, True, False])
    with torch.no_grad():
        mixed = objective._predict(batch.latents, references, sigma, batch.prompt_embeds, dropped)
        for row in range(4):
            one = slice(row, row + 1)
            alone = objective._predict(
                batch.latents[one], [references[0][one]], sigma[one], batch.prompt_embeds[one], dropped[one]
            )
            torch.testing.assert_close(mixed[one], alone, atol=2e-6, rtol=1e-5)
        every = objective._predict(batch.latents, references, sigma, batch.prompt_embeds, ~torch.ones_like(dropped))
        assert (every[0] - mixed[0]).abs().max() > 1e-3  # a dropped reference is seen to be gone


def test_absent_references_keep_the_number_of_runs_that_processes_agreed_on(spy) -> None:
    method = replace(ST_DRC, reference_dropout=0.0, augment=None, identity_loss=None)
    plain = _loss(spy, method, _batch(spy, 2))["loss"]
    assert len(spy.sequences) == 1
    even = _loss(spy, method, _batch(spy, 2), even_calls=lambda count: 2)["loss"]
    assert len(spy.sequences) == 3 and even == plain


def test_the_loss_is_zero_for_the_right_velocity_and_one_noise_variance_apart_for_none(spy) -> None:
    method = replace(CONCAT_ID, text_dropout=0.0, reference_dropout=0.0)
    batch = _batch(spy)
    loss = _loss(spy, method, batch, seed=1)["loss"]
    # z_t = (1 - s) z0 + s noise, so the velocity noise - z0 follows from what the model was given.
    noisy, s = spy.sequences[0].video, spy.sigmas[0].view(-1, 1, 1, 1, 1)
    spy.answer = (noisy - batch.latents) / s
    assert loss == pytest.approx(2.0, rel=0.1)  # var(noise) + var(z0)
    assert _loss(spy, method, batch, seed=1)["loss"] < 1e-8


def test_reference_noise_is_new_at_each_step_and_absent_without_it(spy) -> None:
    batch = _batch(spy, 2)
    method = replace(CONCAT_ID, reference_dropout=0.0)
    for step in range(2):
        _loss(spy, method, batch, step=step)
    assert not torch.equal(spy.sequences[0].references[0], spy.sequences[1].references[0])
    _loss(spy, replace(method, reference_noise=None), batch)
    assert torch.equal(spy.sequences[2].references[0], spy.encode_reference(batch.references[0]))


def test_every_reference_has_noise_of_its_own(spy) -> None:
    """Concat-ID section 4.3 and, for clothing and backgrounds, appendix B.2."""
    batch = _batch(spy, 2)
    batch = replace(batch, references=batch.references * 3)
    _loss(spy, replace(CONCAT_ID, reference_dropout=0.0), batch)
    seen = [spy.encode_reference(batch.references[0]), *spy.sequences[0].references]
    for one, other in itertools.combinations(seen, 2):
        assert (one != other).flatten(1).any(1).all()


def test_what_a_sample_draws_depends_on_its_number_alone(spy) -> None:
    """Two halves of a batch, on two processes, draw what the whole batch draws on one."""
    batch = _batch(spy, 4)
    Objective(spy, CONCAT_ID, EMPTY)(batch, sample_generators(5, 7, 0, 4))
    second = Batch(batch.latents[2:], (batch.references[0][2:],), batch.prompt_embeds[2:])
    Objective(spy, CONCAT_ID, EMPTY)(second, sample_generators(5, 7, 2, 2))
    whole, half = spy.sequences
    assert torch.equal(whole.video[2:], half.video)
    torch.testing.assert_close(whole.references[0][2:], half.references[0], atol=1e-6, rtol=1e-5)
    assert torch.equal(spy.sigmas[0][2:], spy.sigmas[1])


def test_gradients_reach_the_transformer_alone(random_wan_backbone) -> None:
    transformer = deepcopy(random_wan_backbone.transformer).requires_grad_(True)
    backbone = replace(random_wan_backbone, transformer=transformer)
    batch = replace(_batch(backbone, 2), prompt_embeds=backbone.encode_text(["a", "b"]).detach())
    objective = Objective(backbone, CONCAT_ID, backbone.encode_text([""]).detach())
    objective(batch, sample_generators(0, 0, 0, 2))["loss"].backward()
    assert all(p.grad is not None for p in backbone.transformer.parameters())
    assert all(p.grad is None for p in backbone.vae.parameters())
    assert {name for name, _ in objective.named_parameters()} == {
        f"transformer.{name}" for name, _ in transformer.named_parameters()
    }


def test_masks_count_errors_where_they_are(spy) -> None:
    batch = _batch(spy, 2)

    def loss(masks: torch.Tensor | None) -> float:
        return _loss(spy, CONCAT_ID, replace(batch, masks=masks), seed=1)["loss"].item()

    ones = torch.ones(2, 1, *batch.latents.shape[2:])
    assert loss(None) == pytest.approx(loss(ones)) == pytest.approx(loss(7 * ones))
    half = ones.clone()
    half[..., :2] = 0
    assert loss(half) != pytest.approx(loss(ones))
    assert weighted_mean(ones, torch.zeros_like(ones)).tolist() == [0.0, 0.0]


def test_an_auxiliary_loss_is_told_who_has_a_reference_and_is_added(spy) -> None:
    seen = {}

    def auxiliary(backbone, z_t, prediction, sigma, batch, generator, *, conditioned):
        seen["conditioned"] = conditioned
        return torch.tensor(3.0), {"identity": 0.5}

    method = replace(CONCAT_ID, reference_dropout=1.0)
    losses = _loss(spy, method, _batch(spy, 2), auxiliary=auxiliary)
    assert losses["loss"] == losses["flow"] + 3.0 and losses["identity"] == 0.5
    assert seen["conditioned"].tolist() == [False, False]
    objective = Objective(spy, method, EMPTY, auxiliary=auxiliary)
    assert "identity" not in objective(_batch(spy, 2), sample_generators(0, 0, 0, 2), False)


def test_face_weights_cover_the_face_in_every_frame_that_a_latent_sees() -> None:
    keypoints = torch.full((1, 2, 5, 5, 2), torch.nan)
    keypoints[0, 0, 3] = torch.tensor([[10.0, 10.0], [14.0, 10.0], [12.0, 12.0], [10.0, 15.0], [14.0, 15.0]])
    weights = face_weights(keypoints, (2, 4, 4), spatial_stride=8, temporal_stride=4)
    assert weights.shape == (1, 1, 2, 4, 4)
    assert weights[0, 0, 0].sum() == 0  # frame 3 belongs to the second latent
    inside = weights[0, 0, 1]
    assert inside[1, 1] == inside[2, 1] == 1 and inside.sum() == 2  # x 10 - 1.75 .. 14 + 1.75 px, y to 15 + 1.75 px
