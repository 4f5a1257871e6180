"""Golden comparisons of the CogVideoX adapter: with diffusers where there is no reference, with a transcription of the
published (SAT) block mathematics where there are two."""

import math

import pytest
import torch
import torch.nn.functional as F
from cogvideox_parts import cogvideox_parts
from diffusers import CogVideoXDPMScheduler, CogVideoXPipeline
from diffusers.schedulers import scheduling_dpm_cogvideox

from likeness.backbones.cogvideox import CogVideoXBackbone, rotary_table
from likeness.conditioning.sequence import join
from likeness.diffusion import vprediction
from likeness.method import CONCAT_ID, ST_DRC, Method, Placement
from likeness.sampling import denoise
from likeness.types import LatentGrid

TEXT_LENGTH = 12


@pytest.fixture(scope="module")
def parts(tiny_tokenizer) -> dict:
    return cogvideox_parts(tiny_tokenizer)


@pytest.fixture(scope="module")
def backbone(parts) -> CogVideoXBackbone:
    return CogVideoXBackbone(**parts)


class Inputs:
    """Two videos of 3 latent frames of the trained size, unless given another."""

    def __init__(self, height: int = 4, width: int = 6) -> None:
        generator = torch.Generator().manual_seed(1)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        self.video = draw(2, 4, 3, height, width)
        self.references = (draw(2, 4, 1, height, width), draw(2, 4, 1, height, width))
        self.text = draw(2, TEXT_LENGTH, 16)
        self.timestep = torch.tensor([979.0, 19.0])


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@torch.no_grad()
def run(backbone: CogVideoXBackbone, inputs: Inputs, method: Method = CONCAT_ID, count: int = 2) -> torch.Tensor:
    sigma = (1.0 - backbone.spec.process.alphas_bar[inputs.timestep.long()]).sqrt().float()
    return backbone.predict(join(method, inputs.video, inputs.references[:count]), sigma, inputs.text)


def stock_table(parts: dict, height: int, width: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """diffusers' own rotary table of a video of so many latents."""
    pipeline = CogVideoXPipeline(**parts)
    return pipeline._prepare_rotary_positional_embeddings(8 * height, 8 * width, frames, torch.device("cpu"))


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(4, 6), (4, 4), (8, 6), (2, 12)])
def test_without_references_it_is_diffusers(parts, backbone, height: int, width: int) -> None:
    inputs = Inputs(height, width)
    expected = parts["transformer"](
        inputs.video.transpose(1, 2), inputs.text, inputs.timestep.long(),
        image_rotary_emb=stock_table(parts, height, width, 3),
    ).sample.transpose(1, 2)  # fmt: skip
    assert difference(run(backbone, inputs, count=0), expected) == 0.0
    # Negative control: references do reach the video.
    assert difference(run(backbone, inputs, count=1), expected) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_without_references_a_whole_run_is_that_of_diffusers(monkeypatch, parts, sampler: str) -> None:
    generator = torch.Generator().manual_seed(3)
    start, *noises = (torch.randn(1, 4, 3, 4, 6, generator=generator) for _ in range(6))
    if sampler == "dpm":
        config = dict(parts["scheduler"].config)
        parts = {**parts, "scheduler": CogVideoXDPMScheduler.from_config(config)}
        # diffusers draws once in the first step and twice in those between, and uses the last; ours draws once.
        theirs = iter(noise.transpose(1, 2) for noise in [noises[0], *(noises[i // 2] for i in range(2, 10))])
        ours = iter(noises)
        monkeypatch.setattr(scheduling_dpm_cogvideox, "randn_tensor", lambda *args, **kwargs: next(theirs))
        monkeypatch.setattr(vprediction, "gaussian", lambda *args: next(ours))
    pipeline = CogVideoXPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt="a man in the park", negative_prompt="city", height=32, width=48, num_frames=9, guidance_scale=3.0,
        num_inference_steps=4, latents=start.transpose(1, 2), max_sequence_length=TEXT_LENGTH, output_type="latent",
    ).frames.transpose(1, 2)  # fmt: skip
    backbone = CogVideoXBackbone(**parts)
    latents = denoise(
        backbone, CONCAT_ID, latents=start, references=(), prompt_embeds=backbone.encode_text(["a man in the park"]),
        negative_embeds=backbone.encode_text(["city"]), num_inference_steps=4,
        streams=CONCAT_ID.guidance.streams(3.0),
    )  # fmt: skip
    assert expected.std() > 0.1
    assert difference(latents, expected) < 5e-6


def test_references_are_placed_as_in_a_larger_video(parts) -> None:
    """At the trained size a table is whole numbers, so a reference's rows are those of a longer and larger video."""
    trained = (2, 3)
    cos, sin = rotary_table(16, trained, LatentGrid(3, 2, 3), Placement(gap=1), 2, torch.device("cpu"))
    for ours, longer in zip((cos, sin), stock_table(parts, 4, 6, 6), strict=True):
        assert ours[: 3 * 6].equal(longer[: 3 * 6])
        assert ours[3 * 6 :].equal(longer[4 * 6 :])
    cos, sin = rotary_table(16, trained, LatentGrid(3, 2, 3), Placement(rows=1, cols=1), 1, torch.device("cpu"))
    large = cogvideox_parts(parts["tokenizer"], sample_height=8, sample_width=12)
    for ours, larger in zip((cos, sin), stock_table(large, 8, 12, 4), strict=True):
        assert ours[3 * 6 :].equal(larger.view(4, 4, 6, -1)[3, 2:, 3:].flatten(0, 1))


@pytest.mark.parametrize("grid", [LatentGrid(3, 2, 2), LatentGrid(3, 4, 3), LatentGrid(2, 1, 6), LatentGrid(1, 5, 7)])
def test_elsewhere_references_go_through_the_map_of_the_video(parts, grid: LatentGrid) -> None:
    """A reference on the video's own places has the video's spatial phases, whatever the size."""
    tokens = grid.height * grid.width
    for ours in rotary_table(16, (2, 3), grid, Placement(), 1, torch.device("cpu")):
        torch.testing.assert_close(ours[-tokens:, 4:], ours[:tokens, 4:], atol=1e-5, rtol=0)
        assert difference(ours[-tokens:, :4], ours[:tokens, :4]) > 0.1  # but its own time
    if grid.height > 1:  # one grid below is as far as the map's step says: the phase of row H is linear in the row
        beyond = rotary_table(16, (2, 3), grid, Placement(rows=1), 1, torch.device("cpu"))
        angle = [torch.atan2(beyond[1][:, 4], beyond[0][:, 4])[-tokens + row * grid.width] for row in (0, 1)]
        video = [torch.atan2(beyond[1][:, 4], beyond[0][:, 4])[row * grid.width] for row in (0, 1)]
        turn = (angle[1] - angle[0] - video[1] + video[0]).item() % (2 * math.pi)
        assert min(turn, 2 * math.pi - turn) < 1e-5


# The published transformer, written out from the SAT code's mathematics for one sequence [text | video | references],
# in plain tensor operations, with weights under their diffusers names and sharing no function with the adapter.


def norm(x: torch.Tensor, w: dict, name: str) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    unit = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
    return unit * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: torch.Tensor, w: dict, name: str) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def turned(x: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """x: [B, heads, N, head_dim], a quarter of which turns with time, three eighths each with the row and column."""
    head_dim = x.shape[-1]
    angles = []
    for axis, dim in enumerate((head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)):
        frequencies = 10000.0 ** -(torch.arange(0, dim, 2).double() / dim)
        angles.append(points[:, axis, None].double() * frequencies)
    phase = torch.polar(torch.ones(()).double(), torch.cat(angles, dim=1))
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * phase).flatten(-2).float()


@torch.no_grad()
def published(
    transformer,
    inputs: Inputs,
    *,
    offset: tuple[int, int, int] = (0, 0, 0),
    reads_text: bool = True,
    own_modulation: bool = True,
) -> torch.Tensor:
    """offset: (gap, rows, cols), the first in frames past the video and the others in grids. own_modulation: whether
    image tokens have other modulation than text tokens."""
    w, config = transformer.state_dict(), transformer.config
    heads, width = config.num_attention_heads, config.num_attention_heads * config.attention_head_dim
    _, channels, frames, height, breadth = inputs.video.shape
    rows, cols = height // 2, breadth // 2
    latents = torch.cat([inputs.video, *inputs.references], dim=2)
    cells = latents.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
    image = cells @ w["patch_embed.proj.weight"].flatten(1).T + w["patch_embed.proj.bias"]
    text = linear(inputs.text, w, "patch_embed.text_proj")

    half = width // 2
    waves = inputs.timestep[:, None].double() * 10000.0 ** -(torch.arange(half).double() / half)
    waves = torch.cat([waves.cos(), waves.sin()], dim=1).float()
    emb = linear(F.silu(linear(waves, w, "time_embedding.linear_1")), w, "time_embedding.linear_2")

    gap, down, right = offset
    places = [(t, h, x) for t in range(frames) for h in range(rows) for x in range(cols)]
    for index in range(len(inputs.references)):
        places += [(frames + gap + index, down * rows + h, right * cols + x) for h in range(rows) for x in range(cols)]
    points, length, tokens = torch.tensor(places), text.shape[1], frames * rows * cols
    blocked = torch.zeros(length + len(places), length + len(places), dtype=torch.bool)
    if not reads_text:
        blocked[length + tokens :, :length] = True

    for index in range(config.num_layers):
        block = f"transformer_blocks.{index}"
        # SAT keeps twelve chunks in one projection, the image's six before the text's; here they are in two.
        attention_six = linear(F.silu(emb), w, f"{block}.norm1.linear").chunk(6, dim=1)
        mlp_six = linear(F.silu(emb), w, f"{block}.norm2.linear").chunk(6, dim=1)
        chunks = [chunk[:, None] for six in (attention_six, mlp_six) for chunk in six]
        image_six, text_six = (*chunks[:3], *chunks[6:9]), (*chunks[3:6], *chunks[9:12])
        if not own_modulation:
            image_six = text_six

        joint = torch.cat([
            norm(text, w, f"{block}.norm1.norm") * (1 + text_six[1]) + text_six[0],
            norm(image, w, f"{block}.norm1.norm") * (1 + image_six[1]) + image_six[0],
        ], dim=1)  # fmt: skip
        q, k, v = (
            linear(joint, w, f"{block}.attn1.to_{name}").unflatten(-1, (heads, -1)).transpose(1, 2) for name in "qkv"
        )
        q, k = norm(q, w, f"{block}.attn1.norm_q"), norm(k, w, f"{block}.attn1.norm_k")
        q = torch.cat([q[:, :, :length], turned(q[:, :, length:], points)], dim=2)
        k = torch.cat([k[:, :, :length], turned(k[:, :, length:], points)], dim=2)
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(blocked, -math.inf)
        joint = linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), w, f"{block}.attn1.to_out.0")
        text, image = text + text_six[2] * joint[:, :length], image + image_six[2] * joint[:, length:]

        joint = torch.cat([
            norm(text, w, f"{block}.norm2.norm") * (1 + text_six[4]) + text_six[3],
            norm(image, w, f"{block}.norm2.norm") * (1 + image_six[4]) + image_six[3],
        ], dim=1)  # fmt: skip
        joint = linear(F.gelu(linear(joint, w, f"{block}.ff.net.0.proj"), approximate="tanh"), w, f"{block}.ff.net.2")
        text, image = text + text_six[5] * joint[:, :length], image + image_six[5] * joint[:, length:]

    # SAT's trunk ends in a layer norm of its own, before the final layer's.
    image = norm(image, w, "norm_final")
    shift, scale = linear(F.silu(emb), w, "norm_out.linear")[:, None].chunk(2, dim=2)
    out = linear(norm(image, w, "norm_out.norm") * (1 + scale) + shift, w, "proj_out")[:, :tokens]
    out = out.unflatten(2, (channels, 2, 2)).unflatten(1, (frames, rows, cols))  # [B, T, h, w, C, 2, 2]
    return out.permute(0, 4, 1, 2, 5, 3, 6).reshape(inputs.video.shape)


def test_two_references(backbone) -> None:
    inputs = Inputs()
    ours = run(backbone, inputs)
    assert ours.std() > 0.1
    assert difference(ours, published(backbone.transformer, inputs)) <= 1e-5
    # Negative controls: each of these must be told apart.
    for wrong in (
        {"offset": (1, 0, 0)},
        {"offset": (0, 0, 1)},
        {"offset": (0, 1, 1)},
        {"reads_text": False},
        {"own_modulation": False},
    ):
        assert difference(ours, published(backbone.transformer, inputs, **wrong)) > 1e-3, wrong


def test_beside_and_beyond_the_video(backbone) -> None:
    inputs = Inputs()
    ours = run(backbone, inputs, method=Method(**{**vars(ST_DRC), "max_references": 2}))
    assert difference(ours, published(backbone.transformer, inputs, offset=(0, 1, 1))) <= 1e-5


def test_epsilon_of_the_norms_is_that_of_the_config(parts) -> None:
    """diffusers' default of 1e-5 is not what the weights were trained with; a folder must say 1e-6."""
    default = cogvideox_parts(parts["tokenizer"], norm_eps=1e-5)
    inputs = Inputs()
    off = difference(run(CogVideoXBackbone(**default), inputs), published(default["transformer"], inputs))
    assert 1e-6 < off < 1e-3
