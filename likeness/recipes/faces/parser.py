"""Trains the tiny face parser: transformers' Segformer with the labels of jonathandinu/face-parsing.

    python -m likeness.recipes.faces.parser --output DIR --cache DIR --minutes 4 --seed 0

Writes DIR/parser/ as `save_pretrained` does, in half precision. The parser sees crops aligned to the ArcFace template.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from likeness.faces.align import arcface_template, estimate_similarity, warp
from likeness.faces.canvas import REFERENCE_CROP_PX
from likeness.faces.parse import PARSING_LABELS, FaceParser
from likeness.media import atomic_write
from likeness.recipes.faces import augment
from likeness.recipes.faces.common import Arguments, Clock, prefetched, recipe_arguments, record_figures, start
from likeness.recipes.faces.data import Portraits, training_clips, training_photos, validation_photos
from likeness.recipes.faces.verification import bootstrap
from likeness.train.optimiser import MovingAverage, Optimiser

INPUT_PX = 128
FOLDER = "parser"
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 255
_STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 255
_VALIDATION_PICTURES = 300


@dataclass(frozen=True)
class ParserRecipe:
    """Everything that decides the outcome besides seed and minutes."""

    num_people: int = 8000
    photos_per_batch: int = 20
    frames_per_batch: int = 12
    rate: float = 3e-3
    rare_weight: float = 3.0  # of labels that cover little: brows, eyes, lips, mouth


def parser_config() -> SegformerConfig:
    """A Segformer of about 0.5 M parameters, a seventh of the smallest published one (B0)."""
    return SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[32, 64, 96, 128],
        num_attention_heads=[1, 2, 3, 4],
        mlp_ratios=[2, 2, 2, 2],
        sr_ratios=[4, 2, 1, 1],
        decoder_hidden_size=64,
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
        id2label=dict(enumerate(PARSING_LABELS)),
        label2id={name: label for label, name in enumerate(PARSING_LABELS)},
    )


def crops_for_training(portraits: Portraits, index: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augmented aligned crops [B, 3, 128, 128], normalised as the parser takes them, and labels int64 [B, 128, 128]."""
    pixels = torch.from_numpy(portraits.pixels[index]).permute(0, 3, 1, 2).float()
    labels = torch.from_numpy(portraits.labels[index])[:, None].float()
    keypoints = torch.from_numpy(portraits.keypoints[index])
    pixels = augment.recolour(augment.degrade(pixels, generator), generator)
    template = augment.ARCFACE_TEMPLATE * (INPUT_PX / 112)
    jitter = augment.random_similarities(len(index), INPUT_PX, generator, scale=0.12, degrees=10, shift_px=5)
    matrices = augment.compose(jitter, augment.similarities(keypoints, template))
    crops = augment.warp(pixels, matrices, INPUT_PX, INPUT_PX)
    # Outside the picture crops are black and labels 0: background, as they should be.
    labels = augment.warp(labels, matrices, INPUT_PX, INPUT_PX, mode="nearest")[:, 0].round().long()
    return (crops - _MEAN) / _STD, labels


def batches(
    sets: tuple[Portraits, Portraits], recipe: ParserRecipe, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (crops, labels) from (frames, photographs)."""
    while True:
        parts = []
        for portraits, count in zip(sets, (recipe.frames_per_batch, recipe.photos_per_batch), strict=True):
            index = torch.randint(len(portraits), (count,), generator=generator).numpy()
            parts.append(crops_for_training(portraits, index, generator))
        yield torch.cat([crops for crops, _ in parts]), torch.cat([labels for _, labels in parts])


def _label_weights(portraits: Portraits, rare_weight: float) -> Tensor:
    share = np.bincount(portraits.labels[::50].ravel(), minlength=len(PARSING_LABELS)) / portraits.labels[::50].size
    return torch.tensor(np.where(share < 0.015, rare_weight, 1.0), dtype=torch.float32)


def train(sets: tuple[Portraits, Portraits], recipe: ParserRecipe, arguments: Arguments) -> nn.Module:
    """Trains on (frames, photographs) for `arguments.minutes` and returns the averaged network in eval mode."""
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    model = SegformerForSemanticSegmentation(parser_config())
    optimiser = Optimiser(model, rate=recipe.rate)
    average = MovingAverage(model)
    weights = _label_weights(sets[1], recipe.rare_weight)
    clock = Clock(arguments, "parser")
    for crops, labels in prefetched(batches(sets, recipe, generator)):
        if clock.progress >= 1:
            break
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixel_values=crops).logits
        logits = F.interpolate(logits.float(), (INPUT_PX, INPUT_PX), mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, labels, weight=weights)
        loss.backward()
        optimiser.step(clock.progress)
        average.update(model)
        clock.tick(len(crops), loss=float(loss.detach()))
    average.copy_to(model)
    return model.eval()


def save(model: nn.Module, folder: Path) -> None:
    """Writes config.json, model.safetensors (half precision) and preprocessor_config.json."""
    assert isinstance(model, SegformerForSemanticSegmentation)
    model.half().save_pretrained(folder)
    preparation = {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": True,
        "size": {"height": INPUT_PX, "width": INPUT_PX},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_reduce_labels": False,
    }
    with atomic_write(folder / "preprocessor_config.json") as temporary:
        temporary.write_text(json.dumps(preparation, indent=2) + "\n")


def evaluate(folder: Path, photos: Portraits) -> dict[str, object]:
    """Intersection over union on 448 px crops of validation photographs, through the parser that the package uses."""
    import cv2

    parser = FaceParser.load(folder)
    count, kinds = min(len(photos), _VALIDATION_PICTURES), len(PARSING_LABELS)
    common, union = np.zeros((2, count, kinds))
    for i in range(count):
        matrix = estimate_similarity(photos.keypoints[i], arcface_template(REFERENCE_CROP_PX))
        found = parser.labels(warp(photos.pixels[i], matrix, REFERENCE_CROP_PX))
        true = cv2.warpAffine(photos.labels[i], matrix, (REFERENCE_CROP_PX, REFERENCE_CROP_PX), flags=cv2.INTER_NEAREST)
        for label in np.union1d(found, true):
            common[i, label] = ((found == label) & (true == label)).sum()
            union[i, label] = ((found == label) | (true == label)).sum()
    present = union.sum(0) > 0

    def mean_iou(weights: np.ndarray) -> float:
        return float((weights @ common / np.maximum(weights @ union, 1))[present].mean())

    each = common.sum(0) / np.maximum(union.sum(0), 1)
    told = ", ".join(f"{PARSING_LABELS[k]} {each[k]:.2f}" for k in np.flatnonzero(present))
    return {"mean IoU of the labels that occur": str(bootstrap(mean_iou, count)), "IoU by label": told}


def main() -> None:
    """Trains, writes, measures."""
    arguments = recipe_arguments(__doc__, minutes=4)
    start(arguments)
    recipe = ParserRecipe()
    cache = arguments.cache
    sets = training_clips(cache, recipe.num_people).portraits(), training_photos(cache, recipe.num_people).portraits()
    model = train(sets, recipe, arguments)
    folder = arguments.output / FOLDER
    save(model, folder)
    photos = validation_photos(cache, num_people=300, size=256).portraits()
    record_figures(arguments, "parser", model, evaluate(folder, photos))


if __name__ == "__main__":
    main()
