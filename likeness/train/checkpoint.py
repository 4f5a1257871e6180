"""The full state of a run, written whole or not at all: what a killed run goes on from, to the same bits."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from likeness.errors import CheckpointError, UserError
from likeness.media import share_weights
from likeness.train.updates import Updates

_WEIGHTS, _AVERAGE, _OPTIMIZER, _PROGRESS = (
    "weights.safetensors",
    "average.safetensors",
    "optimizer.pt",
    "progress.json",
)


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step: updates done.
        sums: of each figure since the last line of the log, and the updates that they are over.
        average_updates: of the moving average.
    """

    step: int
    sums: Mapping[str, tuple[float, int]]
    average_updates: int


def latest(folder: Path) -> Path | None:
    """The last complete checkpoint of a run's folder, or None."""
    found = sorted(folder.glob("checkpoints/step-*[0-9]"))
    return found[-1] if found else None


def save(
    folder: Path,
    updates: Updates,
    average: Mapping[str, Tensor] | None,
    progress: Progress,
    *,
    keep: int,
    is_main: bool,
) -> None:
    """Write a checkpoint and remove those before the last ``keep``. Every process calls it, the main one writes.

    Args:
        folder: of the run.
        updates: of the module in training.
        average: the moving average of its trained parameters, gathered, by name; None where there is none.
        progress: see there.
        keep: checkpoints that stay.
        is_main: whether this process writes.

    Raises:
        UserError: for a full disk; the checkpoints before it are whole.
    """
    weights, optimizer_state = updates.state()
    if not is_main:
        return
    trained = {bare_name(name) for name, parameter in updates.module.named_parameters() if parameter.requires_grad}
    final = folder / "checkpoints" / f"step-{progress.step:08d}"
    work = final.with_name(f".{final.name}.tmp")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in weights.items() if name in trained}, work / _WEIGHTS)
        if average is not None:
            save_file({name: value.contiguous() for name, value in average.items()}, work / _AVERAGE)
        torch.save(optimizer_state, work / _OPTIMIZER)
        values = {
            "step": progress.step,
            "sums": dict(progress.sums),
            "average_updates": progress.average_updates,
        }
        (work / _PROGRESS).write_text(json.dumps(values), encoding="utf-8")
        share_weights(work, work / _PROGRESS)
        for path in work.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.rename(work, final)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk comes in any of these
        shutil.rmtree(work, ignore_errors=True)
        raise UserError(
            f"The checkpoint of step {progress.step} could not be written to {folder}: {error}. Make room and start the "
            "same command again: it goes on from the last checkpoint."
        ) from error
    for old in sorted(folder.glob("checkpoints/step-*[0-9]"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def load(path: Path, updates: Updates) -> tuple[Progress, dict[str, Tensor] | None]:
    """Put a checkpoint into a module in training; returns the progress and the moving average, if it has one.

    Raises:
        CheckpointError: for a checkpoint that is broken or of another model.
    """
    try:
        weights = load_file(path / _WEIGHTS)
        state = torch.load(path / _OPTIMIZER, weights_only=True, map_location="cpu")
        values = json.loads((path / _PROGRESS).read_text(encoding="utf-8"))
        average = load_file(path / _AVERAGE) if (path / _AVERAGE).exists() else None
        shapes = {bare_name(name): parameter.shape for name, parameter in updates.module.named_parameters()}
        foreign = sorted(name for name, value in weights.items() if shapes.get(name) != value.shape)
        if foreign:
            raise CheckpointError(
                f"{path} is of another model: {foreign[0]} does not fit. Give another output folder, or the model that the "
                "run was started with."
            )
        updates.load(weights, state)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} cannot be read: {error}. Remove this folder to go on from the checkpoint before it."
        ) from error
    sums = {name: (total, count) for name, (total, count) in values["sums"].items()}
    return Progress(values["step"], sums, values["average_updates"]), average


def bare_name(name: str) -> str:
    """A parameter's name without what wrappers (DDP, compilation, activation checkpointing) put into it."""
    return name.removeprefix("module.").replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")
