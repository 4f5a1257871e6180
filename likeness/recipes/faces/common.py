"""What the recipes of the face pack share: arguments, the clock, export and the record of figures."""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from likeness.media import atomic_write
from likeness.recipes.faces.card import PACK_INTRODUCTION, card

PACK_FILE = "pack.json"


@dataclass(frozen=True)
class Arguments:
    """Of every recipe of the pack."""

    output: Path
    cache: Path
    minutes: float
    seed: int
    threads: int


def recipe_arguments(description: str | None, *, minutes: float, argv: list[str] | None = None) -> Arguments:
    """Parses the command line that all recipes of the pack share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the trained files")
    parser.add_argument("--cache", type=Path, required=True, help="folder for drawn pictures; drawn once, about 5 GB")
    parser.add_argument("--minutes", type=float, default=minutes, help="computing time to train, drawing excluded")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return Arguments(**vars(parser.parse_args(argv)))


def start(arguments: Arguments) -> None:
    """Sets seeds and threads and makes the output folder."""
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(max(1, arguments.threads - 1))  # the last one prepares batches, see prefetched
    arguments.output.mkdir(parents=True, exist_ok=True)


T = TypeVar("T")


def prefetched(batches: Iterator[T], depth: int = 3) -> Iterator[T]:
    """The same batches in the same order, prepared ahead by a thread of their own.

    On a shared machine a thread for preparing and one for training go further than two that wait for each other in every
    operation. The thread ends with the program; an error in it is raised here.
    """
    ready: queue.Queue[T | BaseException] = queue.Queue(maxsize=depth)

    def prepare() -> None:
        try:
            for batch in batches:
                ready.put(batch)
        except BaseException as error:  # whatever it is belongs to the reader of the batches
            ready.put(error)

    threading.Thread(target=prepare, daemon=True).start()
    while True:
        batch = ready.get()
        if isinstance(batch, BaseException):
            raise batch
        yield batch


class Clock:
    """A run's share of its minutes, and a line of progress every ten seconds.

    The minutes are of computing time: what the process has used, shared out over its threads. On a quiet machine that is
    the time of the clock on the wall; on a busy one a run takes longer but learns as much.
    """

    def __init__(self, arguments: Arguments, name: str) -> None:
        self._seconds, self._name = arguments.minutes * 60 * arguments.threads, name
        self._start = time.process_time()
        self._told = time.monotonic()
        self._samples = self._told_samples = self._steps = 0
        self._averages: dict[str, float] = {}

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the minutes are over."""
        return (time.process_time() - self._start) / self._seconds

    def tick(self, samples: int, **values: float) -> None:
        """Counts a step of `samples` samples and follows the running averages of its values."""
        self._steps += 1
        self._samples += samples
        for name, value in values.items():
            self._averages[name] = 0.95 * self._averages.get(name, value) + 0.05 * value
        now = time.monotonic()
        if now - self._told < 10:
            return
        speed = (self._samples - self._told_samples) / (now - self._told)
        told = "  ".join(f"{name} {value:.4f}" for name, value in self._averages.items())
        print(
            f"{self._name}  {self.progress:4.0%}  step {self._steps}  {speed:.0f}/s  {told}",
            file=sys.stderr,
            flush=True,
        )
        self._told, self._told_samples = now, self._samples


def export_onnx(
    module: nn.Module, example: torch.Tensor, path: Path, *, outputs: list[str], dynamic: dict[str, dict[int, str]]
) -> None:
    """Writes one self-contained ONNX file (opset 13, weights inside), atomically."""
    import warnings

    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer exporter splits the weights into a second file
        torch.onnx.export(
            module,
            (example,),
            str(temporary),
            dynamo=False,
            opset_version=13,
            input_names=["input"],
            output_names=outputs,
            dynamic_axes=dynamic,
        )


def write_json(path: Path, value: object) -> None:
    """Writes a readable JSON file, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> dict:
    """What a JSON file holds; nothing if there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def record_figures(
    arguments: Arguments,
    part: str,
    module: nn.Module,
    figures: dict[str, object],
    *,
    settings: dict[str, object] | None = None,
    introduction: str = PACK_INTRODUCTION,
    record: str = PACK_FILE,
) -> None:
    """Prints a recipe's figures and keeps them, with how they came about, in the folder's JSON record and model card.

    `settings` join the record at its top level, where those who load the folder look for them.
    """
    for name, value in figures.items():
        print(f"{name}: {value}")
    path = arguments.output / record
    kept: dict[str, Any] = read_json(path) | (settings or {})
    training: dict[str, Any] = kept.pop("training", {})
    training[part] = {
        "recipe": f"likeness.recipes.faces.{part}",
        "seed": arguments.seed,
        "minutes": arguments.minutes,
        "threads": arguments.threads,
        "machine": f"{os.cpu_count()} CPU cores",
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "figures": figures,
    }
    write_json(path, {**kept, "training": training})
    with atomic_write(arguments.output / "README.md") as temporary:
        temporary.write_text(card(introduction, training))
