"""The identity objective: the right frames, the right weights, and a gradient that is the whole decode's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

import likeness
from likeness.backbones.load import load_backbone
from likeness.errors import UserError
from likeness.faces.align import arcface_template
from likeness.faces.pack import FacePack
from likeness.faces.torch_recogniser import TorchRecogniser, align_faces
from likeness.method import IdentityLoss
from likeness.train.identity import IdentityObjective
from likeness.train.losses import identity_loss, temporal_identity_loss
from likeness.train.objective import Batch, sample_generators
from likeness.world import clip_of, draw

FACES = Path(likeness.__file__).parent / "world/weights/faces"
WEIGHTS = IdentityLoss(weight=0.1, temporal_weight=0.05, gamma=1.0)
FRAMES, SIZE = 17, 64  # 5 latents of 8 x 8 px


@pytest.fixture(scope="module")
def recogniser() -> TorchRecogniser:
    return TorchRecogniser.from_onnx(FACES / "arcface.onnx")


class Whole:
    """A backbone that decodes everything with gradient and cuts the window out."""

    def __init__(self, backbone) -> None:
        self.backbone, self.spec = backbone, backbone.spec

    def decode_window(self, latents, start, length):
        first = max(0, self.spec.temporal_stride * (start - 1) + 1)
        return self.backbone.decode(latents)[:, :, first : self.spec.temporal_stride * (start + length - 1) + 1]


class Windows(Whole):
    """A backbone that notes which windows of how many videos are decoded."""

    def __init__(self, backbone) -> None:
        super().__init__(backbone)
        self.asked: list[tuple[int, int, int]] = []

    def decode_window(self, latents, start, length):
        self.asked.append((len(latents), start, length))
        return self.backbone.decode_window(latents, start, length)


class Blank(Windows):
    """Black frames: for tests of windows alone."""

    def decode_window(self, latents, start, length):
        self.asked.append((len(latents), start, length))
        frames = self.spec.temporal_stride * length - (self.spec.temporal_stride - 1 if start == 0 else 0)
        return torch.full((len(latents), 3, frames, SIZE, SIZE), -1.0)


def _batch(spec, size: int, people: int = 1, frames: int = FRAMES) -> Batch:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((size, *spec.latent_shape(frames, SIZE, SIZE)), generator=generator)
    face = torch.from_numpy(arcface_template(112)).float() * 0.35 + 6
    shifts = 16 * torch.rand((size, people, frames, 1, 2), generator=generator)
    embeddings = normalize(torch.randn((size, people, 512), generator=generator), dim=-1)
    return Batch(latents, (), torch.zeros(size, 1, 1), face + shifts, embeddings)


def _call(
    objective: IdentityObjective,
    backbone,
    batch: Batch,
    *,
    step: int = 0,
    sigma: float = 0.3,
    wrong: float = 0.0,
    **more,
):
    size = len(batch.latents)
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(1))
    sigmas = torch.full((size,), sigma)
    process = backbone.spec.process
    prediction = (process.target(batch.latents, noise, sigmas) + wrong * noise).requires_grad_(True)
    z_t = process.add_noise(batch.latents, noise, sigmas)
    generators = sample_generators(0, step, 0, size)
    loss, figures = objective(backbone, z_t, prediction, sigmas, batch, generators, **more)
    return loss, figures, prediction


def _only(batch: Batch, first: int, end: int) -> Batch:
    """The faces are seen in these frames alone."""
    assert batch.keypoints is not None
    keypoints = torch.full_like(batch.keypoints, torch.nan)
    keypoints[:, :, first:end] = batch.keypoints[:, :, first:end]
    return replace(batch, keypoints=keypoints)


def test_the_loss_is_equations_6_to_12(random_wan_backbone, recogniser) -> None:
    batch = _only(_batch(random_wan_backbone.spec, 1), 6, 8)  # two frames of latent 2, which covers 5 .. 9
    assert batch.keypoints is not None and batch.reference_embeddings is not None
    loss, figures, _ = _call(IdentityObjective(recogniser, WEIGHTS), random_wan_backbone, batch, sigma=0.3)
    # The prediction is the target, so the clean estimate is the clean video.
    frames = random_wan_backbone.decode(batch.latents)[0, :, 6:8].transpose(0, 1)
    embeddings = recogniser(align_faces(frames, batch.keypoints[0, 0, 6:8]))[None]
    seen = torch.ones(1, 2, dtype=torch.bool)
    first = identity_loss(embeddings, batch.reference_embeddings[0], seen)
    second = temporal_identity_loss(embeddings, seen)
    weight = 0.7**2 / (0.7**2 + 0.3**2)
    torch.testing.assert_close(loss, weight * (0.1 * first + 0.05 * second)[0], rtol=1e-3, atol=1e-5)
    assert figures["identity"] == pytest.approx(first.item(), abs=1e-4) and figures["identity_videos"] == 1


@pytest.mark.parametrize("start", [0, 2, 4])
@pytest.mark.parametrize("family", ["wan", "cogvideox"])
def test_gradient_is_the_whole_decodes(request, recogniser, family: str, start: int) -> None:
    """CogVideoX decodes latents in pairs: 2 ends one and 4 ends another."""
    exact = request.getfixturevalue(f"random_{family}_backbone")
    frames = (0, 1) if start == 0 else (4 * start - 3, 4 * start + 1)
    batch = _only(_batch(exact.spec, 2), *frames)
    objective = IdentityObjective(recogniser, WEIGHTS)
    gradients = []
    for backbone in (exact, Whole(exact)):
        loss, _, prediction = _call(objective, backbone, batch)
        gradients.append(torch.autograd.grad(loss, prediction)[0])
    window, whole = gradients
    inside = window[:, :, start]
    assert inside.abs().max() > 0
    torch.testing.assert_close(inside, whole[:, :, start], rtol=0, atol=1e-6 * inside.abs().max().item())
    # What the window leaves out, on purpose: earlier latents reach its frames as well.
    assert (window[:, :, :start] == 0).all() and (window[:, :, start + 1 :] == 0).all()
    assert start == 0 or whole[:, :, :start].abs().max() > 0


def _start(objective: IdentityObjective, backbone, batch: Batch, step: int) -> int:
    spy = Blank(backbone)
    _call(objective, spy, batch, step=step)
    return spy.asked[0][1]


def test_windows_show_a_face_and_come_from_each_samples_own_generator(random_wan_backbone, recogniser) -> None:
    objective, batch = IdentityObjective(recogniser, WEIGHTS), _batch(random_wan_backbone.spec, 1)
    starts = [_start(objective, random_wan_backbone, batch, step) for step in range(25)]
    assert set(starts) == {0, 1, 2, 3, 4}
    assert starts[:5] == [_start(objective, random_wan_backbone, batch, step) for step in range(5)]
    late = _only(batch, 12, FRAMES)
    assert {_start(objective, random_wan_backbone, late, step) for step in range(12)} == {3, 4}


def test_sharing_a_batch_changes_nothing(random_wan_backbone, recogniser) -> None:
    objective, batch = IdentityObjective(recogniser, WEIGHTS), _batch(random_wan_backbone.spec, 4)
    together, _, _ = _call(objective, random_wan_backbone, batch)
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(1))
    sigma, process = torch.full((1,), 0.3), random_wan_backbone.spec.process
    assert batch.keypoints is not None and batch.reference_embeddings is not None
    alone = []
    for row in range(4):
        rows = slice(row, row + 1)
        part = replace(
            batch,
            latents=batch.latents[rows],
            keypoints=batch.keypoints[rows],
            reference_embeddings=batch.reference_embeddings[rows],
        )
        z_t = process.add_noise(part.latents, noise[row : row + 1], sigma)
        target = process.target(part.latents, noise[row : row + 1], sigma)
        generators = sample_generators(0, 0, row, 1)
        alone.append(objective(random_wan_backbone, z_t, target, sigma, part, generators)[0])
    torch.testing.assert_close(together.detach(), torch.stack(alone).mean(), rtol=1e-5, atol=1e-7)


def test_who_was_not_conditioned_or_has_no_face_is_not_decoded(random_wan_backbone, recogniser) -> None:
    batch = _batch(random_wan_backbone.spec, 3)
    assert batch.keypoints is not None and batch.reference_embeddings is not None
    batch.keypoints[1] = torch.nan
    spy = Windows(random_wan_backbone)
    objective = IdentityObjective(recogniser, WEIGHTS)
    loss, figures, prediction = _call(objective, spy, batch, conditioned=torch.tensor([False, True, True]))
    assert sum(count for count, _, _ in spy.asked) == 1 and figures["identity_videos"] == pytest.approx(1 / 3)
    gradient = torch.autograd.grad(loss, prediction)[0].flatten(1).abs().amax(1)
    assert gradient[0] == 0 and gradient[1] == 0 and gradient[2] > 0
    batch.reference_embeddings[2] = torch.nan
    loss, figures, _ = _call(objective, spy, batch, conditioned=torch.tensor([False, True, True]))
    assert loss == 0 and set(figures) == {"identity", "temporal_identity", "identity_videos"}


def test_several_people_count_alike_and_only_those_who_are_seen(random_wan_backbone, recogniser) -> None:
    objective = IdentityObjective(recogniser, WEIGHTS)
    both = _only(_batch(random_wan_backbone.spec, 1, people=3), 5, 9)
    assert both.keypoints is not None and both.reference_embeddings is not None
    both.reference_embeddings[:, 2] = torch.nan
    losses = []
    for rows in ([0], [1], [0, 1, 2]):
        part = replace(both, keypoints=both.keypoints[:, rows], reference_embeddings=both.reference_embeddings[:, rows])
        losses.append(_call(objective, random_wan_backbone, part)[0].detach())
    torch.testing.assert_close(losses[2], (losses[0] + losses[1]) / 2)


def test_faces_outside_the_picture_or_of_no_extent_are_masked(random_wan_backbone, recogniser) -> None:
    batch, objective = _batch(random_wan_backbone.spec, 1), IdentityObjective(recogniser, WEIGHTS)
    assert batch.keypoints is not None
    for keypoints in (batch.keypoints + SIZE, torch.full_like(batch.keypoints, 20.0)):
        loss, figures, _ = _call(objective, random_wan_backbone, replace(batch, keypoints=keypoints))
        assert loss == 0 and figures["identity_videos"] == 0


@pytest.mark.parametrize(("limit", "kept"), [(1, 1), (2, 2), (3, 3), (8, 3)])
def test_max_frames_keeps_so_many_of_those_with_a_face(recogniser, limit: int, kept: int) -> None:
    seen = torch.tensor([[[True, False, True, True], [False, False, False, True]]])
    thinned = IdentityObjective(recogniser, WEIGHTS, max_frames=limit)._thinned(seen)
    assert thinned.sum(2).tolist() == [[kept, 1]] and (seen | ~thinned).all()


def test_unknown_faces_are_refused_with_the_way_out(random_wan_backbone, recogniser) -> None:
    batch = replace(_batch(random_wan_backbone.spec, 1), keypoints=None)
    with pytest.raises(UserError, match="precompute --faces"):
        _call(IdentityObjective(recogniser, WEIGHTS), random_wan_backbone, batch)


def test_windows_must_fit(random_wan_backbone, recogniser) -> None:
    with pytest.raises(UserError, match="window of 6 latents"):
        objective = IdentityObjective(recogniser, WEIGHTS, window=6)
        _call(objective, random_wan_backbone, _batch(random_wan_backbone.spec, 1))
    with pytest.raises(UserError, match="1 or more"):
        IdentityObjective(recogniser, WEIGHTS, window=0)


def test_a_pack_gives_its_recogniser() -> None:
    objective = IdentityObjective.from_pack(FacePack.load(FACES), WEIGHTS, window=2)
    assert objective.window == 2 and not list(objective.recogniser.parameters())


class Local(Whole):
    """A decoder that looks at nothing but the latent of a pixel, and notes how many latents a frame it is given."""

    def __init__(self, backbone) -> None:
        super().__init__(backbone)
        self.areas: list[int] = []

    def decode_window(self, latents, start, length):
        self.areas.append(latents.shape[3:].numel())
        frames = self.spec.temporal_stride * length - (self.spec.temporal_stride - 1 if start == 0 else 0)
        window = latents[:, :3, start : start + length].tanh()
        return torch.nn.functional.interpolate(window, (frames, *(8 * side for side in window.shape[3:])))


@pytest.mark.parametrize("target", ["reference", "video"])
def test_only_faces_need_to_be_decoded(random_wan_backbone, recogniser, target: str) -> None:
    """With a decoder that looks at nothing about a pixel the cut changes neither the losses nor the gradient."""
    weights, spy = replace(WEIGHTS, target=target), Local(random_wan_backbone)
    batch, found = _batch(random_wan_backbone.spec, 5, people=2), []
    for margin in (None, 0):
        objective = IdentityObjective(recogniser, weights, max_frames=1, margin=margin)
        loss, figures, prediction = _call(objective, spy, batch, wrong=1.0)
        found.append((loss.detach(), figures, torch.autograd.grad(loss, prediction)[0]))
    (loss, figures, gradient), (loss_cut, figures_cut, gradient_cut) = found
    torch.testing.assert_close(loss_cut, loss, rtol=1e-5, atol=1e-7)
    assert figures_cut == pytest.approx(figures, abs=1e-5)
    torch.testing.assert_close(gradient_cut, gradient, rtol=1e-4, atol=1e-6 * gradient.abs().max().item())
    assert min(spy.areas) < 64 == max(spy.areas)


@pytest.mark.parametrize("family", ["wan", "cogvideox", "ltx2"])
def test_a_wide_margin_is_the_whole_frame(request, recogniser, family: str) -> None:
    backbone, gradients = request.getfixturevalue(f"random_{family}_backbone"), []
    batch = _batch(backbone.spec, 2)
    for margin in (None, 8, 0):
        objective = IdentityObjective(recogniser, WEIGHTS, max_frames=1, margin=margin)
        loss, _, prediction = _call(objective, backbone, batch)
        gradients.append(torch.autograd.grad(loss, prediction)[0])
    whole, wide, narrow = gradients
    assert torch.equal(wide, whole) and narrow.isfinite().all() and narrow.any()
    assert family == "ltx2" or not torch.equal(narrow, whole)  # its four latents a frame all see a face
    with pytest.raises(UserError, match="0 or more"):
        IdentityObjective(recogniser, WEIGHTS, margin=-1)


def test_a_trained_decoder_needs_little_about_a_face(recogniser) -> None:
    """What lies beyond the cut is missed by the decoder alone; 0.97 over 16 videos when this was written."""
    backbone = load_backbone("tiny", "cpu", torch.float32)
    drawing = draw([clip_of(person, 0) for person in range(4)])
    pixels = torch.as_tensor(drawing.pixels).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    points = torch.as_tensor(drawing.keypoints).permute(0, 2, 1, 3, 4).float()
    with torch.no_grad():
        batch = Batch(backbone.encode_video(pixels), (), torch.zeros(4, 1, 1), points, None)
    weights, gradients = IdentityLoss(temporal_weight=0.0, target="video"), []
    for margin in (None, 0):
        objective = IdentityObjective(recogniser, weights, max_frames=1, margin=margin)
        loss, _, prediction = _call(objective, backbone, batch, wrong=0.3)
        gradients.append(torch.autograd.grad(loss, prediction)[0].flatten())
    assert not torch.equal(*gradients) and torch.cosine_similarity(*gradients, dim=0) > 0.9


def test_the_target_may_be_the_real_video(random_wan_backbone, recogniser) -> None:
    """Where the clean estimate is the clean video nothing is left to lose, whoever the reference shows; elsewhere it is the distance of
    each frame from its own."""
    batch = replace(_only(_batch(random_wan_backbone.spec, 2), 6, 8), reference_embeddings=None)
    assert batch.keypoints is not None
    objective = IdentityObjective(recogniser, replace(WEIGHTS, target="video", temporal_weight=0.0))
    _, figures, _ = _call(objective, random_wan_backbone, batch)
    assert figures["identity"] == pytest.approx(0.0, abs=1e-5) and figures["identity_videos"] == 1

    other = replace(batch, latents=batch.latents.flip(0))
    size, sigmas = len(batch.latents), torch.full((2,), 0.3)
    process = random_wan_backbone.spec.process
    z_t = process.add_noise(batch.latents, torch.zeros_like(batch.latents), sigmas)
    prediction = process.target(batch.latents, torch.zeros_like(batch.latents), sigmas).requires_grad_(True)
    loss, figures = objective(random_wan_backbone, z_t, prediction, sigmas, other, sample_generators(0, 0, 0, size))
    embeddings = []
    for latents in (batch.latents, other.latents):
        frames = random_wan_backbone.decode(latents)[:, :, 6:8].transpose(1, 2).flatten(0, 1)
        embeddings.append(recogniser(align_faces(frames, batch.keypoints[:, 0, 6:8].flatten(0, 1))))
    expected = 1 - torch.cosine_similarity(*embeddings, dim=1)
    assert figures["identity"] == pytest.approx(expected.mean().item(), abs=1e-4) and figures["identity"] > 1e-3
    gradient = torch.autograd.grad(loss, prediction)[0]
    assert gradient[:, :, 2].abs().max() > 0
