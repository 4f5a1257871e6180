"""Pictures to train the detector on: scenes scaled, cut, tiled and padded as people's pictures and letterboxes are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from likeness.recipes.faces import augment
from likeness.recipes.faces.data import DrawnSet

PIXELS_A_BATCH = 32 * 160 * 160
# The sides that a detector is run at, in px, and how often each is trained.
SIDES = {128: 0.20, 160: 0.22, 192: 0.10, 256: 0.12, 320: 0.20, 448: 0.06, 640: 0.10}
_MOST_PEOPLE = 3
_SMALLEST_FACE_PX = 9
_LEAST_SHOWN = 0.45  # a face less of which lies inside the canvas is neither right nor wrong


@dataclass(frozen=True)
class Canvases:
    """B pictures with up to G faces each."""

    pixels: Tensor  # float [B, 3, S, S] in 0..255
    boxes: Tensor  # float [B, G, 4] px
    keypoints: Tensor  # float [B, G, 5, 2] px
    wanted: Tensor  # bool [B, G]: faces to find
    ignored: Tensor  # bool [B, G]: faces too small or too hidden to ask for


def random_side(generator: torch.Generator) -> int:
    """A side from SIDES, by their shares."""
    chosen = torch.multinomial(torch.tensor(list(SIDES.values())), 1, generator=generator)
    return list(SIDES)[int(chosen)]


def make_canvases(sets: tuple[tuple[DrawnSet, float], ...], side: int, generator: torch.Generator) -> Canvases:
    """A batch of square canvases with `side` px from (set, share) pairs; their number follows from PIXELS_A_BATCH."""
    count = max(2, PIXELS_A_BATCH // side**2)
    chance = float(torch.rand((), generator=generator))
    cells = 1 if chance < 0.65 or side < 160 else 2 if chance < 0.85 or side < 256 else 4
    num_scenes = count * cells * cells
    shares = torch.tensor([share for _, share in sets])
    counts = torch.bincount(
        torch.multinomial(shares, num_scenes, replacement=True, generator=generator), minlength=len(sets)
    )
    parts = [
        _scenes(drawn_set, int(n), side // cells, generator)
        for (drawn_set, _), n in zip(sets, counts, strict=True)
        if n
    ]
    order = torch.randperm(num_scenes, generator=generator)
    scenes = Canvases(*(torch.cat([getattr(p, name) for p in parts])[order] for name in Canvases.__dataclass_fields__))
    return _tiled(scenes, cells)


def _scenes(drawn_set: DrawnSet, count: int, side: int, generator: torch.Generator) -> Canvases:
    """`count` random frames of a set, each placed on a canvas of its own."""
    clip = torch.randint(len(drawn_set), (count,), generator=generator).numpy()
    frame = torch.randint(drawn_set.pixels.shape[1], (count,), generator=generator).numpy()
    pixels = torch.from_numpy(drawn_set.pixels[clip, frame]).permute(0, 3, 1, 2).float()
    boxes = torch.from_numpy(drawn_set.boxes[clip, frame])
    keypoints = torch.from_numpy(drawn_set.keypoints[clip, frame])
    visible = torch.from_numpy(drawn_set.visible[clip, frame])
    pixels, visible = _erase_some(pixels, boxes, visible, generator)
    pixels = augment.recolour(augment.degrade(pixels, generator), generator)
    matrices = _placements(count, pixels.shape[-1], side, generator)
    # Truth has its origin at the corner of the picture, warp at the first pixel's centre.
    half = torch.full((count, 2, 1), 0.5)
    centred = torch.cat([matrices[:, :, :2], matrices[:, :, 2:] + matrices[:, :, :2] @ half - half], 2)
    canvas = _padded(
        augment.warp(torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1), centred, side, side), generator
    )
    corners = augment.transform(boxes.reshape(count, -1, 2), matrices)
    points = augment.transform(keypoints.reshape(count, -1, 2), matrices)
    people = boxes.shape[1]
    missing = _MOST_PEOPLE - people
    boxes = torch.nn.functional.pad(corners.view(count, people, 4), (0, 0, 0, missing))
    points = torch.nn.functional.pad(points.view(count, people, 5, 2), (0, 0, 0, 0, 0, missing))
    visible = torch.nn.functional.pad(visible, (0, missing))
    size = boxes[..., 2:] - boxes[..., :2]
    inside = (boxes[..., 2:].clamp(0, side) - boxes[..., :2].clamp(0, side)).prod(-1) / size.prod(-1).clamp(min=1e-6)
    clear = (inside >= _LEAST_SHOWN) & (size.amin(-1) >= _SMALLEST_FACE_PX)
    return Canvases(canvas, boxes, points, visible & clear, visible & ~clear & (inside > 0))


def _placements(count: int, source: int, side: int, generator: torch.Generator) -> Tensor:
    """Maps [count, 2, 3] of a scene onto its canvas: half fill it, as a letterboxed frame does, half are moved and scaled."""
    scale = torch.exp(augment.uniform((count,), np.log(0.4), np.log(1.5), generator))
    centre = augment.uniform((count, 2), 0.2, 0.8, generator) * side
    fills = torch.rand(count, generator=generator) < 0.5
    scale = torch.where(fills, torch.ones(()), scale)
    centre = torch.where(fills[:, None], torch.full((2,), side / 2), centre)
    factor = scale * side / source
    offset = centre - factor[:, None] * source / 2
    linear = factor.view(-1, 1, 1) * torch.eye(2)
    return torch.cat([linear, offset[:, :, None]], 2)


def _padded(warped: Tensor, generator: torch.Generator) -> Tensor:
    """Fills what lies outside the scene (its alpha, the last channel) with black, grey or any colour."""
    count = len(warped)
    colour = torch.rand((count, 3, 1, 1), generator=generator) * 255
    kind = torch.rand((count, 1, 1, 1), generator=generator)
    colour = torch.where(kind < 0.5, torch.zeros(()), torch.where(kind < 0.75, torch.tensor(128.0), colour))
    return warped[:, :3] + (1 - warped[:, 3:]) * colour


def _erase_some(pixels: Tensor, boxes: Tensor, visible: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Wipes the faces of a tenth of the scenes: hair and shirts alone are not a face."""
    wiped = torch.nonzero(torch.rand(len(pixels), generator=generator) < 0.1)[:, 0]
    visible = visible.clone()
    for i in wiped.tolist():
        visible[i] = False
        for x0, y0, x1, y1 in boxes[i].round().int().tolist():
            area = pixels[i, :, max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1]
            if area.numel():
                area.copy_(area.mean((1, 2), keepdim=True).expand_as(area))
    return pixels, visible


def _tiled(scenes: Canvases, cells: int) -> Canvases:
    """Joins cells x cells scenes into one canvas each."""
    if cells == 1:
        return scenes
    side = scenes.pixels.shape[-1]
    count = len(scenes.pixels) // cells**2
    pixels = scenes.pixels.view(count, cells, cells, 3, side, side).permute(0, 3, 1, 4, 2, 5)
    at = torch.arange(cells) * float(side)
    offset = torch.stack([at.repeat(cells), at.repeat_interleave(cells)], 1)  # [cells^2, 2] x, y
    boxes = scenes.boxes.view(count, cells**2, -1, 4) + offset.repeat(1, 2)[None, :, None]
    keypoints = scenes.keypoints.view(count, cells**2, -1, 5, 2) + offset[None, :, None, None]
    return Canvases(
        pixels.reshape(count, 3, cells * side, cells * side),
        boxes.view(count, -1, 4),
        keypoints.view(count, -1, 5, 2),
        scenes.wanted.view(count, -1),
        scenes.ignored.view(count, -1),
    )
