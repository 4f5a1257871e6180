"""What the ablations and the tiny family's training start from: drawn pairs, an untrained model, a store of latents."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from likeness.backbones.load import resolve_model
from likeness.backbones.wan import ConcatWanTransformer3DModel
from likeness.pipeline import LikenessPipeline
from likeness.recipes.training import TINY_CONCAT_ID
from likeness.recipes.transformer import TRANSFORMER


def prepare(arguments: argparse.Namespace) -> None:
    """Make what is missing, and name it in the arguments: ``pairs``, ``base``, ``store``."""
    arguments.pairs = arguments.pairs or arguments.output / "pairs"
    arguments.base = arguments.base or arguments.output / "untrained"
    arguments.store = arguments.store or arguments.output / "store"
    if not (arguments.pairs / "tradeoff.json").exists():
        _run(
            "likeness.recipes.pairs", "--output", arguments.pairs, "--people", arguments.train_people,
            "--processes", arguments.processes,
        )  # fmt: skip
    if not (arguments.base / "model_index.json").exists():
        untrained(arguments.base, arguments.seed)
    done = arguments.store / ".complete"
    if not done.exists():
        lists = [arguments.pairs / f"{kind}.json" for kind in ("pretraining", "cross", "tradeoff")]
        _run(
            "likeness", "precompute", *lists, "--model", arguments.base, "--output", arguments.store, "--faces",
            "--processes", arguments.processes,
        )  # fmt: skip
        done.touch()


def untrained(folder: Path, seed: int) -> Path:
    """The tiny model's VAE, text encoder and scheduler with a transformer of random weights, as a model folder."""
    torch.manual_seed(seed)
    pipeline = LikenessPipeline.from_pretrained(resolve_model("tiny"), method=TINY_CONCAT_ID)
    pipeline.register_modules(transformer=ConcatWanTransformer3DModel(**TRANSFORMER))
    pipeline.save_pretrained(folder)
    return folder


def _run(module: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)
