"""Wan with a reference as the published script computes it, in our own words and on our weights.

Same mathematics as the first-stage weights, other means: one timestep a token, so that float32 modulation
``[B, N, 6, D]`` is made for every layer; rotations as complex float64 numbers, made anew in each call; the products
under autocast where the weights are bfloat16. That it is the same mathematics a test holds to; how close its speed comes
to that of the script is our reading of it, for the script itself is not part of this package.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from likeness.backbones.wan_transformer import ConcatWanTransformer3DModel


def rotations(head_dim: int, grid: tuple[int, int, int], device: torch.device) -> Tensor:
    """Unit complex numbers ``[N + one frame, 1, head_dim / 2]`` of the video and of a reference beside it."""
    frames, height, width = grid
    spatial = 2 * (head_dim // 6)
    t, h, w = torch.meshgrid(*(torch.arange(size, device=device) for size in grid), indexing="ij")
    points = torch.stack([t, h, w], dim=-1).view(-1, 3)
    beside = points[: height * width] + torch.tensor([frames, 0, width], device=device)
    points = torch.cat([points, beside]).double()
    angles = []
    for axis, dim in enumerate((head_dim - 2 * spatial, spatial, spatial)):
        frequencies = 10000.0 ** -(torch.arange(0, dim, 2, device=device, dtype=torch.float64) / dim)
        angles.append(points[:, axis, None] * frequencies)
    angle = torch.cat(angles, dim=1)
    return torch.polar(torch.ones_like(angle), angle)[:, None]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """x: ``[B, N, heads, head_dim]``."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def attend(attention: Any, x: Tensor, context: Tensor, rotation: Tensor | None) -> Tensor:
    heads = attention.heads
    q = attention.norm_q(attention.to_q(x)).unflatten(-1, (heads, -1))
    k = attention.norm_k(attention.to_k(context)).unflatten(-1, (heads, -1))
    v = attention.to_v(context).unflatten(-1, (heads, -1))
    if rotation is not None:
        q, k = rotate(q, rotation), rotate(k, rotation)
    q, k, v = (item.to(v.dtype).transpose(1, 2) for item in (q, k, v))
    return attention.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def published_forward(
    model: ConcatWanTransformer3DModel, latents: Tensor, reference: Tensor, timestep: Tensor, text: Tensor
) -> Tensor:
    """The prediction ``[B, C, T, H, W]`` for latents of that shape, a reference ``[B, C, 1, H, W]`` and ``timestep`` ``[B]``."""
    config = model.config
    patch = tuple(config.patch_size)
    frames, height, width = (size // step for size, step in zip(latents.shape[2:], patch, strict=True))
    count = frames * height * width
    enabled = model.dtype == torch.bfloat16
    with torch.autocast(latents.device.type, dtype=torch.bfloat16, enabled=enabled):
        parts = [model.patch_embedding(item).flatten(2).transpose(1, 2) for item in (latents, reference)]
        tokens = torch.cat(parts, dim=1)
        rotation = rotations(config.attention_head_dim, (frames, height, width), latents.device)
        temb, projection, text, _ = model.condition_embedder(timestep, text)
        # One timestep a token: the same six parameters for each, in float32.
        a_token = projection.float().unflatten(1, (6, -1))[:, None].repeat(1, tokens.shape[1], 1, 1)  # [B, N, 6, D]
        for block in model.blocks:
            parameters = (block.scale_shift_table.float()[:, None] + a_token).unbind(2)
            x = block.norm1(tokens.float()) * (1 + parameters[1]) + parameters[0]
            x = x.to(tokens.dtype)
            tokens = (tokens.float() + attend(block.attn1, x, x, rotation) * parameters[2]).to(tokens.dtype)
            video, beside = tokens[:, :count], tokens[:, count:]
            x = block.norm2(video.float()).to(tokens.dtype)
            tokens = torch.cat([video + attend(block.attn2, x, text, None), beside], dim=1)
            x = block.norm3(tokens.float()) * (1 + parameters[4]) + parameters[3]
            tokens = (tokens.float() + block.ffn(x.to(tokens.dtype)) * parameters[5]).to(tokens.dtype)
        return model._unembed(tokens, temb, latents.shape)
