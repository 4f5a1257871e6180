"""The loop: batches in, averaged weights out; as long as the clock or a number of steps says, safe to kill."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from likeness.errors import UserError
from likeness.train.objective import Batch, Objective, sample_generators
from likeness.train.optimiser import MovingAverage, Optimiser
from likeness.train.parallel import agreed, average_gradients

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from likeness.backbones.wan import WanBackbone
    from likeness.method import Method


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        minutes, steps: length of the run, one of the two; the learning rate follows it.
        rate: peak learning rate of the matrices (Muon).
        plain_rate: peak learning rate of embeddings, tables and biases (AdamW).
        average_decay: of the exponential moving average that is kept.
        save_every_s: seconds between checkpoints.
        seed: of noise and dropout.
    """

    minutes: float | None = None
    steps: int | None = None
    rate: float = 2e-3
    plain_rate: float = 1e-3
    average_decay: float = 0.9985
    save_every_s: float = 180.0
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise UserError(
                f"Give a run's minutes or its steps, one of the two; given were {self.minutes}, {self.steps}."
            )

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run that is over, 0..1 and beyond."""
        if self.steps is not None:
            return step / self.steps
        assert self.minutes is not None  # checked above
        return seconds / (60 * self.minutes)


def train(
    backbone: WanBackbone,
    method: Method,
    next_batch: Callable[[float], Batch],
    empty_embeds: Tensor,
    schedule: Schedule,
    folder: Path,
) -> MovingAverage:
    """Train the backbone's transformer in bfloat16 autocast; returns the averaged weights.

    Args:
        backbone: its transformer in float32, in training mode.
        next_batch: called with the share of the run that is over, 0..1; so a recipe can change pairs from stage to stage.
        empty_embeds: ``[1, L, D]``.
        folder: gets `state.pt` (everything needed to go on) and `log.jsonl`. A run that finds a `state.pt` goes on from it.
    """
    transformer = backbone.transformer
    rank = dist.get_rank() if dist.is_initialized() else 0
    objective = Objective(backbone, method, empty_embeds)
    plain = [
        p for name, p in transformer.named_parameters() if not name.startswith("blocks.") or "scale_shift_table" in name
    ]
    optimiser = Optimiser(transformer, rate=schedule.rate, plain_rate=schedule.plain_rate, plain=plain, warmup=0.02)
    average = MovingAverage(transformer, schedule.average_decay)
    state_file = folder / "state.pt"
    step, before = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        transformer.load_state_dict(state["transformer"])
        optimiser.load_state_dict(state["optimiser"])
        average.load_state_dict(state["average"])
        step, before = state["step"], state["seconds"]
    started = saved = time.time()
    losses: list[float] = []
    while True:
        seconds = agreed(before + time.time() - started)
        progress = schedule.progress(step, seconds)
        if progress >= 1:
            break
        with torch.autocast("cpu", dtype=torch.bfloat16):
            batch = next_batch(progress)
            loss = objective(batch, sample_generators(schedule.seed * 1000 + rank, step, 0, len(batch.latents)))["loss"]
        loss.backward()
        average_gradients(transformer.parameters())
        optimiser.step(progress)
        average.update(transformer)
        step += 1
        losses.append(float(loss.detach()))
        if rank == 0 and step % 50 == 0:
            row = {"step": step, "minutes": round(seconds / 60, 2), "loss": round(sum(losses) / len(losses), 5)}
            losses.clear()
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
        if rank == 0 and time.time() - saved > schedule.save_every_s:
            saved = time.time()
            _save(state_file, transformer, optimiser, average, step, seconds)
    if rank == 0:
        _save(state_file, transformer, optimiser, average, step, seconds)
    return average


def _save(
    file: Path, transformer: torch.nn.Module, optimiser: Optimiser, average: MovingAverage, step: int, seconds: float
) -> None:
    state = {
        "transformer": transformer.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": average.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    temporary = file.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, file)
