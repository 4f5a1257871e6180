"""Trains the tiny face detector in SCRFD's form and writes it in InsightFace's format.

    python -m likeness.recipes.faces.detector --output DIR --cache DIR --minutes 6 --seed 0

DIR/scrfd.onnx: input [1, 3, H, W] RGB, (x - 127.5) / 128, H and W multiples of 32; nine outputs: scores, boxes and
keypoints at strides 8, 16 and 32, [K, 1], [K, 4], [K, 10] with K = H/s * W/s * 2, in units of the stride.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from likeness.recipes.faces.canvases import Canvases, make_canvases, random_side
from likeness.recipes.faces.common import (
    Arguments,
    Clock,
    export_onnx,
    prefetched,
    recipe_arguments,
    record_figures,
    start,
)
from likeness.recipes.faces.data import DrawnSet, training_clips, training_groups, training_photos
from likeness.recipes.faces.detection import evaluate
from likeness.recipes.faces.networks import ANCHOR_SIZES, ANCHORS_PER_CELL, STRIDES, FaceDetector
from likeness.train.optimiser import MovingAverage, Optimiser

FILE_NAME = "scrfd.onnx"
DET_SIZE = 160  # finds what 640 finds, in a tenth of the time
DET_THRESHOLD = 0.5
OUTPUTS = [f"{kind}_{stride}" for kind in ("score", "bbox", "kps") for stride in STRIDES]


@dataclass(frozen=True)
class DetectorRecipe:
    """Everything that decides the outcome besides seed and minutes."""

    num_people: int = 8000
    rate: float = 3e-3
    # An anchor answers for faces from 2^-octaves to 2^octaves times its size, within a part of the face's size of its centre.
    octaves: float = 0.75
    centre_radius: float = 0.2
    box_weight: float = 2.0
    keypoint_weight: float = 12.0


@dataclass(frozen=True)
class Anchors:
    """The K anchors of a square canvas, level by level, in the order of the network's outputs."""

    centres: Tensor  # float [K, 2] px
    sizes: Tensor  # float [K] px
    strides: Tensor  # float [K] px

    @classmethod
    def of(cls, side: int) -> Anchors:
        centres, sizes, strides = [], [], []
        for stride, level_sizes in zip(STRIDES, ANCHOR_SIZES, strict=True):
            at = torch.arange(side // stride) * float(stride)
            y, x = torch.meshgrid(at, at, indexing="ij")
            cells = torch.stack([x, y], -1).view(-1, 2)
            centres.append(cells.repeat_interleave(ANCHORS_PER_CELL, 0))
            sizes.append(torch.tensor(level_sizes, dtype=torch.float32).repeat(len(cells)))
            strides.append(torch.full((len(cells) * ANCHORS_PER_CELL,), float(stride)))
        return cls(torch.cat(centres), torch.cat(sizes), torch.cat(strides))


def assign(anchors: Anchors, canvases: Canvases, recipe: DetectorRecipe) -> tuple[Tensor, Tensor]:
    """Which face each anchor answers for: int64 [B, K], -1 for none; and bool [B, K], anchors that are asked nothing."""
    boxes = canvases.boxes[:, None]  # [B, 1, G, 4]
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp(min=1)
    size = size.prod(-1).sqrt()  # [B, 1, G]
    away = (anchors.centres[:, None] - centre).abs().amax(-1)  # [B, K, G]
    low, high = ANCHOR_SIZES[0][0], ANCHOR_SIZES[-1][-1]
    octave = (size.clamp(low, high) / anchors.sizes[:, None]).log2().abs()
    near = away <= torch.maximum(recipe.centre_radius * size, 0.75 * anchors.strides[:, None])
    inside = away <= 0.5 * size
    wanted, ignored = canvases.wanted[:, None], canvases.ignored[:, None]
    fits = near & wanted & (octave <= recipe.octaves)
    nearest = torch.where(fits, away, torch.inf).min(-1)
    matched = torch.where(nearest.values < torch.inf, nearest.indices, -1)
    close = (inside & wanted & (octave <= recipe.octaves + 0.5)) | (inside & ignored)
    return matched, close.any(-1) & (matched < 0)


def _overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al. 2019) of boxes [M, 4]."""
    common = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - common
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    iou = common / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def loss_of(
    levels: tuple[tuple[Tensor, Tensor, Tensor], ...], canvases: Canvases, recipe: DetectorRecipe
) -> dict[str, Tensor]:
    """Quality focal loss (Li et al. 2020), generalised IoU, and keypoints in units of the face's size."""
    anchors = Anchors.of(canvases.pixels.shape[-1])
    logits, boxes, keypoints = (torch.cat(parts, 1) for parts in zip(*levels, strict=True))
    logits = logits[..., 0]
    matched, unasked = assign(anchors, canvases, recipe)
    picture, anchor = torch.nonzero(matched >= 0, as_tuple=True)
    face = matched[picture, anchor]
    stride, centre = anchors.strides[anchor, None], anchors.centres[anchor]
    distance = boxes[picture, anchor] * stride
    found = torch.cat([centre - distance[:, :2], centre + distance[:, 2:]], 1)
    true = canvases.boxes[picture, face]
    iou, giou = _overlaps(found, true)
    size = (true[:, 2:] - true[:, :2]).prod(1).sqrt()
    points = centre[:, None] + keypoints[picture, anchor].view(-1, 5, 2) * stride[:, None]
    astray = (points - canvases.keypoints[picture, face]).abs().mean((1, 2)) / size
    target = torch.zeros_like(logits)
    target[picture, anchor] = iou.detach().clamp(min=0.05)
    focal = (logits.sigmoid() - target).square() * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    count = max(1, len(face))
    return {
        "score": (focal * ~unasked).sum() / count,
        "box": recipe.box_weight * (1 - giou).sum() / count,
        "points": recipe.keypoint_weight * astray.sum() / count,
    }


def train(sets: tuple[tuple[DrawnSet, float], ...], recipe: DetectorRecipe, arguments: Arguments) -> FaceDetector:
    """Trains on (set, share) pairs for `arguments.minutes` and returns the averaged network in eval mode."""
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    detector = FaceDetector()
    optimiser = Optimiser(detector, rate=recipe.rate)
    average = MovingAverage(detector)
    clock = Clock(arguments, "detector")
    endless = (make_canvases(sets, random_side(generator), generator) for _ in itertools.count())
    for canvases in prefetched(endless):
        if clock.progress >= 1:
            break
        pixels = ((canvases.pixels - 127.5) / 128).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            levels = detector(pixels)
        losses = loss_of(levels, canvases, recipe)
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step(clock.progress)
        average.update(detector)
        clock.tick(len(pixels), **{name: float(value.detach()) for name, value in losses.items()})
    average.copy_to(detector)
    return detector.eval()


class _ScrfdOutputs(nn.Module):
    """The detector with the nine outputs of an SCRFD file, for a batch of one."""

    def __init__(self, detector: FaceDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixels: Tensor) -> list[Tensor]:
        levels = self.detector(pixels)
        scores = [logits.sigmoid().reshape(-1, 1) for logits, _, _ in levels]
        boxes = [boxes.reshape(-1, 4) for _, boxes, _ in levels]
        return [*scores, *boxes, *(keypoints.reshape(-1, 10) for _, _, keypoints in levels)]


def export(detector: FaceDetector, path: Path) -> None:
    """Writes the nine-output ONNX file; height and width stay free."""
    dynamic = {"input": {2: "height", 3: "width"}} | {name: {0: f"anchors_{name}"} for name in OUTPUTS}
    export_onnx(_ScrfdOutputs(detector).eval(), torch.zeros(1, 3, 160, 160), path, outputs=OUTPUTS, dynamic=dynamic)


def main() -> None:
    """Trains, writes, measures."""
    arguments = recipe_arguments(__doc__, minutes=6)
    start(arguments)
    recipe = DetectorRecipe()
    cache = arguments.cache
    pairs, triples = training_groups(cache)
    singles = ((training_clips(cache, recipe.num_people), 0.45), (training_photos(cache, recipe.num_people), 0.25))
    detector = train((*singles, (pairs, 0.15), (triples, 0.15)), recipe, arguments)
    path = arguments.output / FILE_NAME
    export(detector, path)
    settings: dict[str, object] = {"det_size": DET_SIZE, "det_threshold": DET_THRESHOLD}
    record_figures(arguments, "detector", detector, evaluate(path, cache, DET_SIZE, DET_THRESHOLD), settings=settings)


if __name__ == "__main__":
    main()
