"""Golden comparisons of the LTX-2 video branch: with diffusers where there is no reference, with a transcription of the
published block mathematics, in plain tensor algebra with a timestep a token, where there are some."""

import math

import pytest
import torch
import torch.nn.functional as F
from ltx2_parts import LTX20, LTX23, stock_transformer

from likeness.backbones.ltx2_transformer import ConcatLTX2Transformer3DModel, token_bounds
from likeness.method import ST_DRC, Placement
from likeness.types import LatentGrid

FPS = 25.0
HEADS = 2
VERSIONS = {
    "2.3": {},
    "2.3 interleaved": {"rope_type": "interleaved"},
    "2.0": {**dict.fromkeys(LTX23, False), **LTX20, "use_prompt_embeddings": True},
    "2.5": {"ff_bias": False},
    "static text modulation": {"use_prompt_adaln_single": False},
}


class Inputs:
    """Two videos of 3 latent frames, 2 x 3 latents large."""

    def __init__(self, text_width: int = 32) -> None:
        generator = torch.Generator().manual_seed(1)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        self.video = draw(2, 4, 3, 2, 3)
        self.references = (draw(2, 4, 1, 2, 3), draw(2, 4, 1, 2, 3))
        self.text = draw(2, 5, text_width)
        self.timestep = torch.tensor([951.0, 212.0])


@pytest.fixture(scope="module")
def transformer() -> ConcatLTX2Transformer3DModel:
    return ConcatLTX2Transformer3DModel.from_base(stock_transformer())


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@torch.no_grad()
def run(transformer, inputs: Inputs, count: int, placement: Placement = ST_DRC.placement, **settings) -> torch.Tensor:
    return transformer(
        inputs.video, inputs.timestep, inputs.text, return_dict=False, references=inputs.references[:count],
        placement=placement, fps=FPS, **settings,
    )[0]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("version", VERSIONS)
def test_without_references_it_is_diffusers(version: str) -> None:
    stock = stock_transformer(**VERSIONS[version])
    inputs = Inputs(16 if stock.config.use_prompt_embeddings else 32)
    transformer = ConcatLTX2Transformer3DModel.from_base(stock)
    expected = stock(
        inputs.video.flatten(2).transpose(1, 2), torch.randn(2, 1, 4), inputs.text, torch.randn(2, 5, 16),
        inputs.timestep, sigma=inputs.timestep, num_frames=3, height=2, width=3, fps=FPS, audio_num_frames=1,
        isolate_modalities=True, return_dict=False,
    )[0].transpose(1, 2).unflatten(2, (3, 2, 3))  # fmt: skip
    assert expected.std() > 0.1
    assert difference(run(transformer, inputs, 0), expected) <= 1e-6
    # Negative controls: references reach the video, and the frame rate is part of its positions.
    assert difference(run(transformer, inputs, 1), expected) > 1e-3
    slower = transformer(inputs.video, inputs.timestep, inputs.text, return_dict=False, fps=FPS / 4)[0]
    assert difference(slower, expected) > 1e-4


def linear(x: torch.Tensor, w: dict, name: str) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def rms(x: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


def level_embedding(levels: torch.Tensor, w: dict, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Modulation and embedding of levels in 0..1000, [..., P * D] and [..., D]."""
    angles = levels[..., None] * torch.exp(-math.log(10000.0) * torch.arange(128) / 128)
    waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
    hidden = linear(waves, w, f"{name}.emb.timestep_embedder.linear_1")
    hidden = linear(F.silu(hidden), w, f"{name}.emb.timestep_embedder.linear_2")
    return linear(F.silu(hidden), w, f"{name}.linear"), hidden


def angles_of(places: list[tuple[int, int, int]], width: int) -> torch.Tensor:
    """Rotation of tokens at latent places, [N, width / 2]: low frequencies first, (t, h, w) within a frequency."""
    per_axis = width // 6
    frequencies = (math.pi / 2 * 10000.0 ** torch.linspace(0, 1, per_axis, dtype=torch.float64)).float()
    rows = []
    for t, h, w in places:
        # Latent 0 is frame 0 alone; latent t holds frames 8 t - 7 to 8 t.
        seconds = (max(0, 8 * t - 7) + 8 * t + 1) / 2 / FPS
        parts = torch.tensor([seconds / 20, (h + 0.5) * 32 / 2048, (w + 0.5) * 32 / 2048])
        # In float32 as published: at the highest frequency its rounding turns by up to 5e-4.
        angles = (frequencies[:, None] * (2 * parts - 1)).flatten()
        rows.append(torch.cat([torch.zeros(width // 2 - len(angles)), angles]))
    return torch.stack(rows)


def attention(x: torch.Tensor, context: torch.Tensor, w: dict, name: str, angles: torch.Tensor | None) -> torch.Tensor:
    q, k, v = (linear(y, w, f"{name}.to_{letter}") for letter, y in (("q", x), ("k", context), ("v", context)))
    q, k = rms(q) * w[f"{name}.norm_q.weight"], rms(k) * w[f"{name}.norm_k.weight"]
    q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in (q, k, v))  # [B, heads, N, d]
    if angles is not None:
        own = angles.unflatten(-1, (HEADS, -1)).transpose(0, 1)  # the angles are dealt out over the heads
        cos, sin = own.cos(), own.sin()

        def turned(y: torch.Tensor) -> torch.Tensor:
            first, second = y.chunk(2, dim=-1)
            return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

        q, k = turned(q), turned(k)
    mixed = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
    gates = 2 * torch.sigmoid(linear(x, w, f"{name}.to_gate_logits"))  # [B, N, heads]
    return linear((mixed * gates.transpose(1, 2)[..., None]).transpose(1, 2).flatten(2), w, f"{name}.to_out.0")


@torch.no_grad()
def published(
    transformer,
    inputs: Inputs,
    count: int,
    *,
    offset: tuple[int, int, int] = (0, 1, 1),
    reads_text: bool = True,
    reference_level: float | None = None,
) -> torch.Tensor:
    """LTX-2.3's video branch, written from its description.

    offset: of the references: frames after the video's end, heights and widths aside.
    reference_level: timestep of the references, the video's if None.
    """
    w = transformer.state_dict()
    frames, rows, cols = inputs.video.shape[2:]
    frame = [(row, col) for row in range(rows) for col in range(cols)]
    places = [(time, row, col) for time in range(frames) for row, col in frame]
    for index in range(count):
        gap, down, right = offset
        places += [(frames + gap + index, down * rows + row, right * cols + col) for row, col in frame]
    tokens = torch.cat([inputs.video, *inputs.references[:count]], dim=2).flatten(2).transpose(1, 2)
    x = linear(tokens, w, "proj_in")
    angles = angles_of(places, x.shape[-1])
    number = frames * rows * cols
    is_reference = (torch.arange(len(places)) >= number)[None, :, None]

    levels = inputs.timestep[:, None].repeat(1, len(places))
    if reference_level is not None:
        levels[:, number:] = reference_level
    modulation, embedded = level_embedding(levels, w, "time_embed")
    modulation = modulation.unflatten(-1, (9, -1))  # [B, N, 9, D]
    text_modulation = level_embedding(inputs.timestep, w, "prompt_adaln")[0].unflatten(-1, (2, -1))

    for number_of_block in range(2):
        block = f"transformer_blocks.{number_of_block}"
        shift1, scale1, gate1, shift2, scale2, gate2, shift_q, scale_q, gate_q = (
            w[f"{block}.scale_shift_table"] + modulation
        ).unbind(2)
        shift_kv, scale_kv = (w[f"{block}.prompt_scale_shift_table"] + text_modulation)[:, :, None].unbind(1)
        y = rms(x) * (1 + scale1) + shift1
        x = x + gate1 * attention(y, y, w, f"{block}.attn1", angles)
        read = attention(
            rms(x) * (1 + scale_q) + shift_q, inputs.text * (1 + scale_kv) + shift_kv, w, f"{block}.attn2", None
        )
        read = gate_q * read
        x = x + (read if reads_text else read.masked_fill(is_reference, 0.0))
        y = linear(rms(x) * (1 + scale2) + shift2, w, f"{block}.ff.net.0.proj")
        x = x + gate2 * linear(F.gelu(y, approximate="tanh"), w, f"{block}.ff.net.2")

    shift, scale = (w["scale_shift_table"] + embedded[:, :, None]).unbind(2)
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
    return linear(x[:, :number], w, "proj_out").transpose(1, 2).unflatten(2, (frames, rows, cols))


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("reads_text", [True, False])
@pytest.mark.parametrize("timestep", ["shared", "clean"])
def test_references_beside_and_beyond_the_video(transformer, count: int, reads_text: bool, timestep: str) -> None:
    inputs = Inputs()
    right = {"reads_text": reads_text, "reference_level": 0.0 if timestep == "clean" else None}
    ours = run(transformer, inputs, count, reference_reads_text=reads_text, reference_timestep=timestep)
    assert ours.std() > 0.1
    assert difference(ours, published(transformer, inputs, count, **right)) <= 1e-5
    if count == 0:
        return
    # Negative controls: each of these must be told apart.
    for wrong in (
        {"offset": (0, 0, 0)},
        {"offset": (0, 0, 1)},
        {"offset": (0, 1, 0)},
        {"offset": (1, 1, 1)},
        {"reads_text": not reads_text},
        {"reference_level": None if timestep == "clean" else 0.0},
    ):
        assert difference(ours, published(transformer, inputs, count, **{**right, **wrong})) > 1e-3, wrong


@pytest.mark.parametrize("offset", [(0, 0, 0), (0, 0, 1), (2, 1, 0)])
def test_other_placements(transformer, offset: tuple[int, int, int]) -> None:
    inputs = Inputs()
    placement = Placement(gap=offset[0], rows=offset[1], cols=offset[2])
    assert difference(run(transformer, inputs, 2, placement), published(transformer, inputs, 2, offset=offset)) <= 1e-5


def test_a_reference_sits_where_a_larger_video_has_its_corner() -> None:
    """TASS: extend the video by a latent in time and to twice its size, and take the last corner."""
    settings = {"scale_factors": (8, 32, 32), "causal_offset": 1, "fps": 24.0}
    grid = LatentGrid(16, 22, 38)  # 121 frames of 704 x 1216
    reference = token_bounds(grid, ST_DRC.placement, 1, **settings)[:, 16 * 22 * 38 :]
    larger = token_bounds(LatentGrid(17, 44, 76), ST_DRC.placement, 0, **settings).view(3, 17, 44, 76, 2)
    assert reference.equal(larger[:, 16, 22:, 38:].flatten(1, 2))
    middle = reference.mean(-1)
    assert math.isclose(middle[0, 0].item(), 125 / 24, rel_tol=1e-6)  # 5.208 s
    assert middle[2].max() == 2 * 1216 - 16  # beyond the 2048 px that the positions are fractions of
