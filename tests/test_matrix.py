"""Every method on every backbone with one, two and three references, at random weights: runs and trains, or is refused."""

from dataclasses import replace

import pytest
import torch

from likeness.errors import UserError
from likeness.method import METHODS
from likeness.sampling import denoise
from likeness.train.objective import Batch, Objective

# What a backbone cannot express, and the field that says so.
REFUSED = {
    ("cogvideox", "concat-id-wan"): "text",  # its attention is joint: the text reaches every token
    ("cogvideox", "concat-id-wan-adaln"): "text",
    ("ltx2", "concat-id-wan-adaln"): "modulation",  # one modulation for all tokens, and no weights of another
}
BACKBONES = ("wan", "cogvideox", "ltx2")
CASES = [(backbone, name) for backbone in BACKBONES for name in METHODS]


@pytest.fixture
def make_backbone(request, random_wan_components):
    """A backbone with random weights by its family's name, fitted to a method."""

    def make(family, method):
        if family != "wan":
            return request.getfixturevalue(f"random_{family}_backbone")
        from likeness.backbones.wan import ConcatWanTransformer3DModel, WanBackbone

        parts = dict(random_wan_components)
        if method.reference_modulation == "separate":
            parts["transformer"] = ConcatWanTransformer3DModel.from_base(parts["transformer"], "separate")
        return WanBackbone(**parts)

    return make


@pytest.mark.parametrize(("family", "name"), [case for case in CASES if case not in REFUSED])
@pytest.mark.parametrize("num_references", [1, 2, 3])
def test_runs_and_trains(make_backbone, family, name, num_references) -> None:
    # Reference augmentation needs pictures; here references are given as noise, which it takes as well.
    method = replace(METHODS[name], max_references=3)
    backbone = make_backbone(family, method)
    size = {"wan": (5, 32, 32), "cogvideox": (9, 32, 32), "ltx2": (9, 64, 64)}[family]
    shape = backbone.spec.latent_shape(*size)
    generator = torch.Generator().manual_seed(num_references)
    noise = torch.randn(1, *shape, generator=generator)
    references = [torch.randn(1, shape[0], 1, *shape[2:], generator=generator) for _ in range(num_references)]
    with torch.no_grad():
        text, empty = backbone.encode_text(["a man in the park"]), backbone.encode_text([""])

    def video(given):
        return denoise(
            backbone,
            method,
            latents=noise,
            references=given,
            prompt_embeds=text,
            negative_embeds=empty,
            num_inference_steps=2,
            streams=method.guidance.streams(),
            generator=torch.Generator().manual_seed(0),
        )

    made = video(references)
    assert made.shape == noise.shape and made.isfinite().all()
    for index in range(num_references):
        changed = [item.neg() if index == other else item for other, item in enumerate(references)]
        assert not torch.equal(video(changed), made), f"reference {index} is not read"
    if num_references > 1:
        # Each has a place of its own, so their order matters.
        assert not torch.equal(video([*references[1:], references[0]]), made)

    pictures = tuple(torch.rand(1, 3, 1, *size[1:], generator=generator) * 2 - 1 for _ in references)
    for parameter in backbone.transformer.parameters():
        parameter.requires_grad_(True)
    loss = Objective(backbone, method, empty)(Batch(noise, pictures, text), [generator])["loss"]
    loss.backward()
    gradients = [parameter.grad for parameter in backbone.transformer.parameters() if parameter.grad is not None]
    backbone.transformer.requires_grad_(False).zero_grad()
    assert loss.isfinite()
    assert any(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize(("family", "name"), sorted(REFUSED))
def test_what_cannot_be_expressed_is_refused_by_name(make_backbone, family, name) -> None:
    method = METHODS[name]
    backbone = make_backbone(family, method)
    with pytest.raises(UserError, match=REFUSED[family, name]) as caught:
        backbone.check_method(method)
    assert name in str(caught.value) and backbone.spec.name in str(caught.value)
