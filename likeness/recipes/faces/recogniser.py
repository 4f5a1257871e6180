"""Trains the tiny face recogniser with the ArcFace loss and writes it in InsightFace's format.

    python -m likeness.recipes.faces.recogniser --output DIR --cache DIR --minutes 10 --seed 0

DIR/arcface.onnx: input [N, 3, 112, 112] RGB, (x - 127.5) / 127.5; output [N, 512], not normalised.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from likeness.recipes.faces import augment
from likeness.recipes.faces.common import (
    Arguments,
    Clock,
    export_onnx,
    prefetched,
    recipe_arguments,
    record_figures,
    start,
)
from likeness.recipes.faces.data import Portraits, training_portraits, validation_portraits
from likeness.recipes.faces.networks import FaceEncoder
from likeness.recipes.faces.verification import Verification, verify
from likeness.train.optimiser import MovingAverage, Optimiser

if TYPE_CHECKING:
    from collections.abc import Iterator

INPUT_PX = 112
FILE_NAME = "arcface.onnx"


@dataclass(frozen=True)
class RecogniserRecipe:
    """Everything that decides the outcome besides seed and minutes."""

    num_people: int = 8000
    frames_per_batch: int = 96
    photos_per_batch: int = 96
    rate: float = 3e-3
    scale: float = 32.0
    margin: float = 0.4
    margin_ramp: float = 0.35  # share of the run over which the margin grows from 0
    keypoint_noise_px: float = 0.6  # at a face of the usual size in a 64 px frame


class ArcMargin(nn.Module):
    """Additive angular margin (Deng et al. 2019, eq. 3): logits s * cos(theta + m) for the true class."""

    def __init__(self, num_classes: int, dim: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, dim) * 0.05)
        self.scale = scale

    def forward(self, embeddings: Tensor, classes: Tensor, margin: float) -> Tensor:
        """embeddings [B, D], classes int64 [B] -> the mean cross-entropy."""
        cosines = F.linear(F.normalize(embeddings), F.normalize(self.weight)).float()
        true = cosines.gather(1, classes[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)
        # Beyond pi - m the cosine would rise again: a straight line keeps the loss monotonic there.
        angle = true.acos()
        moved = torch.where(angle + margin < torch.pi, (angle + margin).cos(), true - margin * np.sin(margin))
        return F.cross_entropy(self.scale * cosines.scatter(1, classes[:, None], moved), classes)


def crops_for_training(
    portraits: Portraits, index: Tensor, recipe: RecogniserRecipe, generator: torch.Generator
) -> Tensor:
    """Augmented aligned crops [B, 3, 112, 112] in [-1, 1] of the portraits at `index`."""
    pixels = torch.from_numpy(portraits.pixels[index.numpy()]).permute(0, 3, 1, 2).float()
    keypoints = torch.from_numpy(portraits.keypoints[index.numpy()])
    pixels = augment.recolour(augment.degrade(pixels, generator), generator)
    noise = torch.randn(keypoints.shape, generator=generator) * recipe.keypoint_noise_px * pixels.shape[-1] / 64
    aligned = augment.similarities(keypoints + noise * torch.rand((len(index), 1, 1), generator=generator))
    matrices = augment.compose(augment.random_similarities(len(index), INPUT_PX, generator), aligned)
    return augment.warp(pixels, matrices, INPUT_PX, INPUT_PX).div_(127.5).sub_(1)


def batches(
    sets: tuple[Portraits, ...], recipe: RecogniserRecipe, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (crops, classes); each set is gone through in its own random order."""
    sizes = (recipe.frames_per_batch, recipe.photos_per_batch)
    orders = [torch.randperm(len(s), generator=generator) for s in sets]
    at = [0] * len(sets)
    while True:
        crops, classes = [], []
        for i, (portraits, size) in enumerate(zip(sets, sizes, strict=True)):
            if at[i] + size > len(orders[i]):
                orders[i], at[i] = torch.randperm(len(portraits), generator=generator), 0
            chosen = orders[i][at[i] : at[i] + size].sort().values  # in order, for the disk's sake
            crops.append(crops_for_training(portraits, chosen, recipe, generator))
            classes.append(torch.from_numpy(portraits.person[chosen.numpy()]))
            at[i] += size
        yield torch.cat(crops), torch.cat(classes)


def train(sets: tuple[Portraits, Portraits], recipe: RecogniserRecipe, arguments: Arguments) -> FaceEncoder:
    """Trains on (frames, photographs) for `arguments.minutes` and returns the averaged network in eval mode."""
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    encoder = FaceEncoder()
    loss_head = ArcMargin(recipe.num_people, encoder.normalise.num_features, recipe.scale)
    both = nn.ModuleList([encoder, loss_head])
    # Class weights see a gradient from few pictures: AdamW's per-entry steps suit them, Muon's whole-matrix steps do not.
    optimiser = Optimiser(both, rate=recipe.rate, plain=[loss_head.weight])
    average = MovingAverage(encoder)
    clock = Clock(arguments, "recogniser")
    for crops, classes in prefetched(batches(sets, recipe, generator)):
        if clock.progress >= 1:
            break
        margin = recipe.margin * min(1.0, clock.progress / recipe.margin_ramp)
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = encoder(crops.contiguous(memory_format=torch.channels_last))
            loss = loss_head(embeddings, classes, margin)
        loss.backward()
        optimiser.step(clock.progress)
        average.update(encoder)
        clock.tick(len(crops), loss=float(loss.detach()))
    average.copy_to(encoder)
    return encoder.eval()


def embed_portraits(model, portraits: Portraits) -> np.ndarray:
    """L2-normalised embeddings [N, D] by InsightFace's own recogniser on crops from the true keypoints."""
    out = []
    for start_at in range(0, len(portraits), 256):
        part = slice(start_at, start_at + 256)
        pixels = torch.from_numpy(np.array(portraits.pixels[part])).permute(0, 3, 1, 2).float()
        matrices = augment.similarities(torch.from_numpy(np.array(portraits.keypoints[part])))
        crops = augment.warp(pixels, matrices, INPUT_PX, INPUT_PX).round().byte().permute(0, 2, 3, 1).numpy()
        out.append(model.get_feat([np.ascontiguousarray(crop[..., ::-1]) for crop in crops]))  # it takes BGR
    embeddings = np.concatenate(out)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def evaluate(path: Path, cache: Path) -> Verification:
    """Verification between one photograph and the video of each validation person, through InsightFace."""
    from insightface.model_zoo import get_model

    model = get_model(str(path), providers=["CPUExecutionProvider"])
    frames, photos = validation_portraits(cache)
    return verify(embed_portraits(model, photos), photos.person, embed_portraits(model, frames), frames.person)


def main() -> None:
    """Trains, writes, measures."""
    arguments = recipe_arguments(__doc__, minutes=10)
    start(arguments)
    recipe = RecogniserRecipe()
    sets = training_portraits(arguments.cache, recipe.num_people)
    encoder = train(sets, recipe, arguments)
    path = arguments.output / FILE_NAME
    export_onnx(
        encoder, torch.zeros(1, 3, INPUT_PX, INPUT_PX), path, outputs=["embedding"], dynamic={"input": {0: "batch"}}
    )
    result = evaluate(path, arguments.cache)
    record_figures(arguments, "recogniser", encoder, result.figures())


if __name__ == "__main__":
    main()
