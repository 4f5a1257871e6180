"""Every backbone and method at its published size, on the meta device: parameters, and that a prediction has its shape."""

import math

import pytest
import torch

from likeness.backbones.known import MODELS
from likeness.backbones.published import PUBLISHED, meta_backbone, meta_transformer
from likeness.conditioning.sequence import join
from likeness.errors import UserError
from likeness.method import METHODS

# Model -> parameters of the published transformer, and what a modulation of the references' own adds where there is one.
PARAMETERS = {
    "wan2.1-1.3b": (1_418_996_800, 14_441_472),
    "wan2.1-14b": (14_288_491_584, 158_545_920),
    "cogvideox-5b": (5_570_283_072, None),
    "ltx-2.3": (13_124_316_288, None),
}


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_published_model(name: str) -> None:
    model = meta_transformer(name)
    assert count(model) == PARAMETERS[name][0]
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize("name", [name for name, (_, added) in PARAMETERS.items() if added])
def test_separate_modulation_adds_a_projection_and_a_table_a_block(name: str) -> None:
    model = meta_transformer(name, METHODS["concat-id-wan-adaln"])
    dim = model.config.num_attention_heads * model.config.attention_head_dim
    added = 6 * dim * (dim + 1) + model.config.num_layers * 6 * dim
    assert PARAMETERS[name][1] == added
    assert count(model) == PARAMETERS[name][0] + added


def test_wan_by_hand() -> None:
    # Counted from the architecture, apart from the code: D wide, F in the feed-forward, N blocks.
    for name, dim, ffn, blocks in (("wan2.1-1.3b", 1536, 8960, 30), ("wan2.1-14b", 5120, 13824, 40)):
        attention = 4 * dim * (dim + 1) + 2 * dim  # q, k, v, o with biases, and two norms
        block = 2 * attention + 2 * dim + dim * (ffn + 1) + ffn * (dim + 1) - dim + dim + 6 * dim
        text, time = 4096 * dim + dim * dim + 2 * dim, 256 * dim + dim * dim + 2 * dim
        ends = 16 * 4 * dim + dim + dim * 64 + 64 + 2 * dim  # patches in, patches out, the last modulation
        assert PARAMETERS[name][0] == blocks * block + text + time + 6 * dim * (dim + 1) + ends


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_a_prediction_with_as_many_references_as_the_method_takes(name: str, method) -> None:
    published = PUBLISHED[name]
    try:
        backbone = meta_backbone(name, method)
    except UserError as error:
        assert method.name in str(error) and not name.startswith("wan")
        return
    channels, *sizes = backbone.spec.latent_shape(*published.video)
    video = torch.empty(1, channels, *sizes, device="meta")
    references = [torch.empty(1, channels, 1, *sizes[1:], device="meta")] * method.max_references
    text = torch.empty(1, published.text_tokens, published.text_width, device="meta")
    made = backbone.predict(join(method, video, references), torch.ones(1, device="meta"), text)
    assert made.shape == video.shape
    assert math.prod(sizes) == {"wan": 131040, "cog": 70200, "ltx": 13376}[name[:3]]


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name in MODELS])
def test_the_list_of_models_says_as_many(name: str) -> None:
    said = float(MODELS[name].parameters.removesuffix(" B"))
    # Rounded, or the name that the authors gave: "1.3B" for 1.42 billion, "5B" for 5.57, "14B" for 14.29.
    assert 0.9 <= said / (PARAMETERS[name][0] / 1e9) <= 1.02, said
