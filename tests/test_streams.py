"""Transformer passes and tokens that a step costs, counted in the layers of each family's model."""

from dataclasses import replace

import pytest
import torch

from likeness.method import METHODS, Method
from likeness.sampling import denoise

# Family -> frames, height and width of a video, in px.
FAMILIES = {"wan": (5, 32, 32), "cogvideox": (9, 32, 32), "ltx2": (9, 64, 64)}
STEPS = 2
EXPRESSED = [
    (family, name)
    for family in FAMILIES
    for name in METHODS
    if name in ("concat-id", "st-drc") or (family == "wan") or (family == "ltx2" and name == "concat-id-wan")
]


@pytest.fixture
def counted(request, random_wan_components):
    """Run a method on a family with a number of references and scales; gives the tokens of each pass of a step."""

    def run(family: str, method: Method, num_references: int = 1, scales: tuple = (None, None)) -> list[int]:
        backbone = request.getfixturevalue(f"random_{family}_backbone")
        if method.reference_modulation == "separate":
            from likeness.backbones.wan import ConcatWanTransformer3DModel, WanBackbone

            parts = dict(random_wan_components)
            parts["transformer"] = ConcatWanTransformer3DModel.from_base(parts["transformer"], "separate")
            backbone = WanBackbone(**parts)
        shape = backbone.spec.latent_shape(*FAMILIES[family])
        with torch.no_grad():
            text = backbone.encode_text(["a man"])
        seen: list[int] = []
        blocks = getattr(backbone.transformer, "blocks", None) or backbone.transformer.transformer_blocks
        handle = blocks[0].register_forward_pre_hook(
            lambda module, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).shape[1]),
            with_kwargs=True,
        )
        try:
            denoise(
                backbone,
                method,
                latents=torch.randn(1, *shape),
                references=[torch.randn(1, shape[0], 1, *shape[2:]) for _ in range(num_references)],
                prompt_embeds=text,
                negative_embeds=text,
                num_inference_steps=STEPS,
                streams=method.guidance.streams(*scales),
            )
        finally:
            handle.remove()
        assert seen == seen[: len(seen) // STEPS] * STEPS, "steps differ"
        return seen[: len(seen) // STEPS]

    return run


def sizes(family: str) -> tuple[int, int]:
    """Tokens of the video and of one reference, from the sizes alone."""
    frames, height, width = FAMILIES[family]
    stride_t, stride = (8, 32) if family == "ltx2" else (4, 16)
    area = (height // stride) * (width // stride)
    return ((frames - 1) // stride_t + 1) * area, area


@pytest.mark.parametrize(("family", "name"), EXPRESSED)
def test_defaults_run_the_published_streams(counted, family: str, name: str) -> None:
    video, reference = sizes(family)
    method = METHODS[name]
    if method.guidance.kind == "joint":
        # The reference is in both.
        assert counted(family, method) == [video + reference] * 2
    else:
        # ST-DRC: nothing, text, text and reference; the first two carry none of its tokens.
        assert counted(family, method) == [video, video, video + reference]


@pytest.mark.parametrize(("family", "name"), EXPRESSED)
@pytest.mark.parametrize("dropped", ["absent", "zeros"])
def test_scales_apart_for_every_method(counted, family: str, name: str, dropped: str) -> None:
    video, reference = sizes(family)
    method = replace(METHODS[name], dropped_reference=dropped)
    plain = video + (reference if dropped == "zeros" else 0)
    expected = {
        (5.0, 7.5): [plain, plain, video + reference],
        (5.0, 5.0): [plain, video + reference],  # the text's own stream weighs nothing
        (1.0, 7.5): [plain, video + reference],  # and so does the stream without anything
        (5.0, 0.0): [plain, plain],  # and the reference's
        (1.0, 1.0): [video + reference],
        (1.0, 0.0): [plain],
        (0.0, 0.0): [plain],
    }
    for scales, tokens in expected.items():
        assert counted(family, method, scales=scales) == tokens, scales


@pytest.mark.parametrize("family", FAMILIES)
def test_each_reference_costs_its_tokens_only_where_it_is_seen(counted, family: str) -> None:
    video, reference = sizes(family)
    method = replace(METHODS["st-drc"], max_references=3)
    for number in (1, 2, 3):
        assert counted(family, method, number) == [video, video, video + number * reference]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_references_equal_streams_are_merged(counted, family: str) -> None:
    video, _ = sizes(family)
    for name in ("concat-id", "st-drc"):
        assert counted(family, METHODS[name], 0) == [video, video]
        assert counted(family, METHODS[name], 0, (1.0, None)) == [video]
    # Text and reference streams of a decoupled method are one and the same without a reference.
    assert counted(family, METHODS["st-drc"], 0, (5.0, 7.5)) == [video, video]
