"""ViCLIP against its published mathematics: torch's own attention, frames innermost, sentences filled up with zeros."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from likeness.evaluate.networks.viclip import NUM_FRAMES, Block, ViclipNetwork

WIDTH, LAYERS, LONGEST, END = 128, 2, 12, 29  # two heads


@pytest.fixture(scope="module")
def network() -> ViclipNetwork:
    torch.manual_seed(0)
    network = ViclipNetwork((WIDTH, LAYERS), (WIDTH, LAYERS), patch=56, vocabulary=30, longest=LONGEST, out=10)
    for value in network.parameters():
        nn.init.normal_(value, std=0.1)
    return network.double().eval().requires_grad_(False)


def through(block: Block, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """x: [N, B, width], as torch's attention has it."""
    attention = nn.MultiheadAttention(WIDTH, WIDTH // 64, dtype=torch.float64)
    attention.load_state_dict(block.attn.state_dict())
    y = functional.layer_norm(x, (WIDTH,), block.ln_1.weight, block.ln_1.bias)
    x = x + attention(y, y, y, need_weights=False, attn_mask=mask)[0]
    y = functional.layer_norm(x, (WIDTH,), block.ln_2.weight, block.ln_2.bias)
    y = y @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
    return x + (y / (1 + torch.exp(-1.702 * y))) @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias


@torch.no_grad()
def test_vision_tower_is_the_published_mathematics(network: ViclipNetwork) -> None:
    tower = network.vision_encoder
    videos = torch.randn(2, 3, NUM_FRAMES, 224, 224, dtype=torch.float64)
    filters = tower.conv1.weight.flatten(1)  # [width, 3 * 56 * 56]
    tokens = []
    for row in range(4):
        for col in range(4):
            patch = videos[..., 56 * row : 56 * row + 56, 56 * col : 56 * col + 56]
            embedded = patch.transpose(1, 2).flatten(2) @ filters.T  # [B, T, width]
            place = tower.positional_embedding[1 + 4 * row + col]
            tokens.append(embedded + place + tower.temporal_positional_embedding)
    whole = (tower.class_embedding + tower.positional_embedding[0]).expand(2, 1, WIDTH)
    x = functional.layer_norm(torch.cat([whole, *tokens], 1), (WIDTH,), tower.ln_pre.weight, tower.ln_pre.bias)
    x = x.transpose(0, 1)
    for block in tower.transformer.resblocks:
        x = through(block, x)
    expected = functional.layer_norm(x[0], (WIDTH,), tower.ln_post.weight, tower.ln_post.bias) @ tower.proj
    ours = tower(videos)
    assert ours.shape == (2, 10) and (ours - expected).abs().max() < 1e-10
    # Negative control: the order of the frames matters.
    assert (tower(videos.flip(2)) - ours).abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("length", [3, LONGEST])
def test_text_tower_is_the_published_mathematics(network: ViclipNetwork, length: int) -> None:
    tower = network.text_encoder
    tokens = torch.cat([torch.randint(1, END - 1, (length - 1,)), torch.tensor([END])])
    filled = functional.pad(tokens, (0, LONGEST - length))
    mask = torch.full((LONGEST, LONGEST), -torch.inf, dtype=torch.float64).triu(1)
    x = (tower.token_embedding.weight[filled] + tower.positional_embedding)[:, None]
    for block in tower.transformer.resblocks:
        x = through(block, x, mask)
    x = functional.layer_norm(x[filled.argmax(), 0], (WIDTH,), tower.ln_final.weight, tower.ln_final.bias)
    assert (tower(tokens[None])[0] - x @ tower.text_projection).abs().max() < 1e-10
