"""Golden comparisons of the Wan adapter: with diffusers where there is no reference, with a transcription of the
published block mathematics where there is one."""

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel

from likeness.backbones.wan import ConcatWanTransformer3DModel
from likeness.backbones.wan_transformer import ConcatWanRotaryPosEmbed
from likeness.method import Placement
from likeness.types import LatentGrid

BESIDE = Placement(cols=1)


@dataclass
class Inputs:
    latents: torch.Tensor
    timestep: torch.Tensor
    text: torch.Tensor
    references: tuple[torch.Tensor, ...]


@pytest.fixture
def inputs() -> Inputs:
    torch.manual_seed(1)
    return Inputs(
        torch.randn(2, 4, 3, 4, 6),
        torch.tensor([723.0, 31.0]),
        torch.randn(2, 5, 16),
        (torch.randn(2, 4, 1, 4, 6), torch.randn(2, 4, 1, 4, 6)),
    )


@pytest.fixture
def base(tiny_transformer_config) -> WanTransformer3DModel:
    torch.manual_seed(2)
    return WanTransformer3DModel(**tiny_transformer_config).eval()


def randomised(model: ConcatWanTransformer3DModel) -> ConcatWanTransformer3DModel:
    """Modulation tables of the references that are not those of the video."""
    for name, parameter in model.named_parameters():
        if "_ref" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
def run(model: ConcatWanTransformer3DModel, inputs: Inputs, **kwargs) -> torch.Tensor:
    kwargs = {"placement": BESIDE, "references": inputs.references, **kwargs}
    return model(inputs.latents, inputs.timestep, inputs.text, return_dict=False, **kwargs)[0]


@torch.no_grad()
def test_without_references_it_is_diffusers(base, inputs) -> None:
    model = ConcatWanTransformer3DModel.from_base(base)
    expected = base(inputs.latents, inputs.timestep, inputs.text).sample
    assert model.state_dict().keys() == base.state_dict().keys()
    for references in ((), None):
        assert (run(model, inputs, references=references) - expected).abs().max() == 0.0
    separate = ConcatWanTransformer3DModel.from_base(base, "separate")
    assert (run(separate, inputs, references=()) - expected).abs().max() == 0.0
    # Negative control: references do reach the video.
    assert (run(model, inputs) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("head_dim", [24, 64, 128])
def test_rotary_table_of_the_video_is_diffusers(head_dim: int) -> None:
    rope = ConcatWanRotaryPosEmbed(head_dim, (1, 2, 2), 1024)
    latents = torch.zeros(1, 4, 5, 6, 8)
    for ours, theirs in zip(rope(latents, Placement(rows=1, cols=1), 2), rope(latents), strict=True):
        tokens = theirs.shape[1]
        assert ours.shape == (1, tokens + 2 * 12, 1, head_dim)
        assert (ours[:, :tokens] - theirs).abs().max() == 0.0


def test_rotary_table_of_a_reference_is_that_of_its_place_in_a_larger_video() -> None:
    rope = ConcatWanRotaryPosEmbed(24, (1, 2, 2), 1024)
    cos, sin = rope(torch.zeros(1, 4, 3, 4, 6), Placement(gap=1, rows=1, cols=1), 1)
    # A video of 6 x 4 x 6 tokens holds the reference of a 3 x 2 x 3 one at (4, 2:4, 3:6).
    for ours, large in zip((cos, sin), rope(torch.zeros(1, 4, 6, 8, 12)), strict=True):
        window = large.view(6, 4, 6, -1)[4, 2:4, 3:6].reshape(6, -1)
        assert (ours[0, 18:, 0] - window).abs().max() == 0.0


def test_rotary_table_reaches_beyond_a_fixed_length() -> None:
    rope = ConcatWanRotaryPosEmbed(24, (1, 1, 1), 4)
    cos, _ = rope(torch.zeros(1, 4, 2, 3, 4), BESIDE, 1)
    assert cos.shape[1] == 36  # columns 4..7 are not in a table of 4 entries


# The published block, written out from the official code's mathematics for one sequence [video | references], in plain
# tensor operations and complex rotations, sharing no function with the adapter.


def rotate(x: torch.Tensor, points: torch.Tensor, head_dim: int) -> torch.Tensor:
    """x: [B, N, heads, head_dim]; points: [N, 3]."""
    spatial = 2 * (head_dim // 6)
    angles = []
    for axis, dim in enumerate((head_dim - 2 * spatial, spatial, spatial)):
        frequencies = 10000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles.append(points[:, axis, None].double() * frequencies)
    phase = torch.polar(torch.ones(()).double(), torch.cat(angles, dim=1))
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * phase[None, :, None]).flatten(-2).float()


def attention(w: dict, prefix: str, x: torch.Tensor, context: torch.Tensor, heads: int, points=None) -> torch.Tensor:
    def project(name: str, value: torch.Tensor) -> torch.Tensor:
        return value @ w[f"{prefix}.{name}.weight"].T + w[f"{prefix}.{name}.bias"]

    def rms(name: str, value: torch.Tensor) -> torch.Tensor:
        return value * torch.rsqrt(value.square().mean(-1, keepdim=True) + 1e-6) * w[f"{prefix}.{name}.weight"]

    q = rms("norm_q", project("to_q", x)).unflatten(-1, (heads, -1))
    k = rms("norm_k", project("to_k", context)).unflatten(-1, (heads, -1))
    v = project("to_v", context).unflatten(-1, (heads, -1))
    if points is not None:
        q, k = rotate(q, points, q.shape[-1]), rotate(k, points, k.shape[-1])
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
    return project("to_out.0", torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v).flatten(2))


def norm(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-6)


@torch.no_grad()
def published(
    model: ConcatWanTransformer3DModel,
    inputs: Inputs,
    *,
    offset: tuple[int, int, int],
    separate: bool = False,
    reads_text: bool = False,
    clean: bool = False,
) -> torch.Tensor:
    """offset: (gap, rows, cols), the first in frames past the video and the others in grids."""
    w, config = model.state_dict(), model.config
    heads = config.num_attention_heads
    batch, _, frames, height, width = inputs.latents.shape
    grid = LatentGrid(frames, height // 2, width // 2)

    def patches(latents: torch.Tensor) -> torch.Tensor:
        cells = latents.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 2, 3, 5, 1, 4, 6)
        return cells.flatten(4).flatten(1, 3) @ w["patch_embedding.weight"].flatten(1).T + w["patch_embedding.bias"]

    def linear(name: str, value: torch.Tensor) -> torch.Tensor:
        return value @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def time(timestep: torch.Tensor) -> torch.Tensor:
        half = config.freq_dim // 2
        angles = timestep[:, None].double() * 10000.0 ** -(torch.arange(half).double() / half)
        wave = torch.cat([angles.cos(), angles.sin()], dim=1).float()
        hidden = F.silu(linear("condition_embedder.time_embedder.linear_1", wave))
        return linear("condition_embedder.time_embedder.linear_2", hidden)

    def at(t: int, rows: int, cols: int) -> list[tuple[int, int, int]]:
        return [(t, rows + h, cols + x) for h in range(grid.height) for x in range(grid.width)]

    gap, rows, cols = offset
    places = [point for t in range(frames) for point in at(t, 0, 0)]
    for index in range(len(inputs.references)):
        places += at(frames + gap + index, rows * grid.height, cols * grid.width)
    points, n = torch.tensor(places), grid.num_tokens

    tokens = torch.cat([patches(item) for item in (inputs.latents, *inputs.references)], dim=1)
    temb = time(inputs.timestep)
    temb_ref = time(torch.zeros(batch)) if clean else temb
    e_video = linear("condition_embedder.time_proj", F.silu(temb)).view(batch, 6, -1)
    e_ref = linear(f"condition_embedder.time_proj{'_ref' if separate else ''}", F.silu(temb_ref)).view(batch, 6, -1)
    text = F.gelu(linear("condition_embedder.text_embedder.linear_1", inputs.text), approximate="tanh")
    text = linear("condition_embedder.text_embedder.linear_2", text)

    for index in range(config.num_layers):
        name = f"blocks.{index}"
        block = {key.removeprefix(f"{name}."): value for key, value in w.items() if key.startswith(f"{name}.")}
        table = block["scale_shift_table"]
        table_ref = block["scale_shift_table_ref"] if separate else table
        video, ref = (table + e_video).unbind(1), (table_ref + e_ref).unbind(1)
        # Which of (shift, scale, gate) x (attention, feed-forward) each token sees, [B, N, D].
        count = tokens.shape[1] - n
        choose = [
            torch.cat([a[:, None].expand(-1, n, -1), b[:, None].expand(-1, count, -1)], dim=1)
            for a, b in zip(video, (*ref[:3], ref[0], ref[1], ref[5]) if separate else ref, strict=True)
        ]
        x = norm(tokens) * (1 + choose[1]) + choose[0]
        tokens = tokens + attention(block, "attn1", x, x, heads, points) * choose[2]
        x = norm(tokens) * block["norm2.weight"] + block["norm2.bias"]
        reads = torch.ones(tokens.shape[1]) if reads_text else (torch.arange(tokens.shape[1]) < n).float()
        tokens = tokens + attention(block, "attn2", x, text, heads) * reads[None, :, None]
        x = norm(tokens) * (1 + choose[4]) + choose[3]
        x = F.gelu(x @ block["ffn.net.0.proj.weight"].T + block["ffn.net.0.proj.bias"], approximate="tanh")
        tokens = tokens + (x @ block["ffn.net.2.weight"].T + block["ffn.net.2.bias"]) * choose[5]

    shift, scale = (w["scale_shift_table"] + temb[:, None]).unbind(1)
    out = linear("proj_out", norm(tokens[:, :n]) * (1 + scale[:, None]) + shift[:, None])
    out = out.view(batch, frames, grid.height, grid.width, 2, 2, -1).permute(0, 6, 1, 2, 4, 3, 5)
    return out.reshape(inputs.latents.shape)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def test_first_stage_weights(base, inputs) -> None:
    model = ConcatWanTransformer3DModel.from_base(base)
    ours = run(model, inputs)
    assert difference(ours, published(model, inputs, offset=(0, 0, 1))) <= 1e-5
    # Negative controls: each of these must be told apart.
    for wrong in ({"offset": (0, 0, 0)}, {"offset": (1, 0, 1)}, {"offset": (0, 0, 1), "reads_text": True}):
        assert difference(ours, published(model, inputs, **wrong)) > 1e-4


def test_other_placements_and_text_access(base, inputs) -> None:
    model = ConcatWanTransformer3DModel.from_base(base)
    ours = run(model, inputs, placement=Placement(rows=1, cols=1), reference_reads_text=True)
    assert difference(ours, published(model, inputs, offset=(0, 1, 1), reads_text=True)) <= 1e-5


def test_adaln_weights(base, inputs) -> None:
    model = randomised(ConcatWanTransformer3DModel.from_base(base, "separate"))
    ours = run(model, inputs)
    assert difference(ours, published(model, inputs, offset=(0, 0, 1), separate=True)) <= 1e-5
    assert difference(ours, published(model, inputs, offset=(0, 0, 1), separate=False)) > 1e-4


def test_clean_references(base, inputs) -> None:
    model = ConcatWanTransformer3DModel.from_base(base)
    ours = run(model, inputs, reference_timestep="clean")
    assert difference(ours, published(model, inputs, offset=(0, 0, 1), clean=True)) <= 1e-5
    assert difference(ours, published(model, inputs, offset=(0, 0, 1))) > 1e-4
    separate = randomised(ConcatWanTransformer3DModel.from_base(base, "separate"))
    ours = run(separate, inputs, reference_timestep="clean")
    assert difference(ours, published(separate, inputs, offset=(0, 0, 1), clean=True, separate=True)) <= 1e-5
