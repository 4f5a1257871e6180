"""The figures of a run: `log.jsonl`, which two runs of one configuration share to the byte, and what depends on the machine."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

LOG_FILE, _SPEED = "log.jsonl", "speed.jsonl"


class Log:
    """Means of the updates since the last line.

    Attributes:
        sums: of each figure since the last line, and over how many updates, which a checkpoint keeps: identity losses, for
            one, are not there at every update.
    """

    def __init__(self, folder: Path, *, is_main: bool) -> None:
        self.sums: dict[str, tuple[float, int]] = {}
        self._folder, self._is_main = folder, is_main
        self._updates, self._seconds, self._waited = 0, 0.0, 0.0
        self._board: Any = None

    def restart(self, step: int, sums: Mapping[str, tuple[float, int]]) -> None:
        """Go on after ``step``: lines from after it, of a run that was killed, are taken back."""
        self.sums = dict(sums)
        if not self._is_main:
            return
        for name in (LOG_FILE, _SPEED):
            file = self._folder / name
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            file.write_text("".join(kept), encoding="utf-8")
        from torch.utils.tensorboard import SummaryWriter  # a second to import

        self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=step + 1)

    def add(self, values: Mapping[str, float], seconds: float, waited: float) -> None:
        """Take in an update: its figures, how long it took, and how long of that the data kept it waiting."""
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value, count + 1)
        self._updates += 1
        self._seconds += seconds
        self._waited += waited

    def write(self, step: int, *, samples: int) -> None:
        """A line of means. ``samples`` is the number of pairs an update."""
        means = {name: total / count for name, (total, count) in sorted(self.sums.items())}
        seconds = self._seconds / self._updates
        speed = {
            "seconds_a_step": seconds,
            "samples_a_second": samples / seconds if seconds else 0.0,
            "waited_share": self._waited / self._seconds if self._seconds else 0.0,
            "memory_gb": _memory_gb(),
        }
        self.sums, self._updates, self._seconds, self._waited = {}, 0, 0.0, 0.0
        if not self._is_main:
            return
        for name, values in ((LOG_FILE, means), (_SPEED, speed)):
            rounded = {key: float(f"{value:.6g}") for key, value in values.items()}
            with (self._folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **rounded}) + "\n")
            for key, value in values.items():
                self._board.add_scalar(f"{name.split('.')[0]}/{key}", value, step)

    def close(self) -> None:
        """Flush the curves."""
        if self._board is not None:
            self._board.close()


def _memory_gb() -> float:
    """Peak memory of the device; of the process where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)
