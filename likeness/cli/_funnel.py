"""The progress of a curation on stderr: how far, how fast, how long still, and what has become of the clips so far."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import ProgressColumn, Task
from rich.text import Text

from likeness.cli._group import print_line
from likeness.cli._progress import TerminalBar

_LINES = 20  # in a log file, over a whole run


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = f"{task.speed or 0:.1f} clips/s" if task.fields["counts_clips"] else ""
        return Text(rate, style="progress.data.speed")


class FunnelBar(TerminalBar):
    """A bar with a line below it on a terminal; elsewhere a line now and then. Use as a context manager."""

    def __init__(self, text: str, *, quiet: bool = False, console: Console | None = None) -> None:
        super().__init__(text, quiet=quiet, console=console, columns=(_Rate(),), counts_clips=True)
        self._text, self._quiet = text, quiet
        self._began_s, self._first, self._told = 0.0, -1, -1

    def update(self, done: int, total: int, funnel: Mapping[str, int]) -> None:
        """So many of `total` clips are through; `funnel` counts them by what became of them, "kept" or a reason."""
        self._progress.line = told(funnel)
        if self._first < 0 or done == self._first:
            # What an earlier run did, and the time until the models are loaded, say nothing about the speed of this one.
            self._first, self._began_s = done, time.monotonic()
            self._progress.reset(self._task, completed=done, total=total)
        self._progress.update(self._task, completed=done, total=total)
        part = done * _LINES // max(total, 1)
        if not self.is_shown and not self._quiet and part > self._told:
            self._told = part
            seconds = time.monotonic() - self._began_s
            rate = (done - self._first) / seconds if seconds > 0 else 0.0
            speed = f", {f'{rate:,.1f}' if rate >= 0.1 else f'{rate:.2g}'} a second" if rate > 0 else ""
            left = f", {_duration((total - done) / rate)} left" if rate > 0 and done < total else ""
            counts = f"; {self._progress.line}" if self._progress.line else ""
            print_line(self._text, f"{done:,} of {total:,} clips{speed}{left}{counts}")

    def stage(self, text: str, done: int, total: int) -> None:
        """Another part of the work, counted in something else than clips."""
        self._progress.update(self._task, description=text, completed=done, total=total, counts_clips=False)


def told(funnel: Mapping[str, int]) -> str:
    """Counts in one line, the kept first, then by size."""
    order = sorted(funnel.items(), key=lambda item: (item[0] != "kept", -item[1], item[0]))
    return ", ".join(f"{name} {count:,}" for name, count in order if count)


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"
