"""Rotary positions of video and reference tokens, in latent tokens, as ``int64 [N, 3]`` of (t, h, w)."""

from __future__ import annotations

import torch
from torch import Tensor

from likeness.method import Placement
from likeness.types import LatentGrid


def video_positions(grid: LatentGrid) -> Tensor:
    """Positions ``[T*H*W, 3]`` of the video's tokens, the last axis of the grid fastest (ST-DRC Eq. 3)."""
    axes = torch.meshgrid(torch.arange(grid.frames), torch.arange(grid.height), torch.arange(grid.width), indexing="ij")
    return torch.stack(axes, dim=-1).reshape(-1, 3)


def reference_positions(placement: Placement, grid: LatentGrid, index: int) -> Tensor:
    """Positions ``[H*W, 3]`` of reference ``index``, counted from 0 (Concat-ID Eq. 2, ST-DRC Eq. 4)."""
    frame = video_positions(LatentGrid(1, grid.height, grid.width))
    offset = (grid.frames + placement.gap + index, placement.rows * grid.height, placement.cols * grid.width)
    return frame + torch.tensor(offset)


def positions(placement: Placement, grid: LatentGrid, num_references: int) -> Tensor:
    """Positions ``[T*H*W + M*H*W, 3]`` of the whole sequence [video | reference 0 | reference 1 ...]."""
    references = [reference_positions(placement, grid, index) for index in range(num_references)]
    return torch.cat([video_positions(grid), *references])
