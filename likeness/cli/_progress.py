"""A progress bar on stderr; results go to stdout, so that a pipe gets the paths and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from likeness.cli._group import print_line


class _ProgressWithLine(Progress):
    line: str = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.line:
            yield Text(self.line, style="dim")


class TerminalBar:
    """One bar that is redrawn in place on a terminal and silent elsewhere (a log file wants lines, not bars); a context manager.

    Args:
        text: before the bar.
        quiet: silent on a terminal too.
        console: in place of stderr's.
        columns: further ones, between the counts and the times.
        fields: what these columns read of the task.
    """

    def __init__(
        self,
        text: str,
        *,
        quiet: bool = False,
        console: Console | None = None,
        columns: Sequence[ProgressColumn] = (),
        **fields: Any,
    ) -> None:
        console = console or Console(stderr=True)
        self.is_shown = console.is_terminal and not quiet
        self._progress = _ProgressWithLine(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,
            disable=not self.is_shown,
        )
        self._task = self._progress.add_task(text, total=None, **fields)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class Bar(TerminalBar):
    """The usual bar: `update` moves it, `restart` begins the next item, `aside` makes room for lines."""

    def restart(self, text: str) -> None:
        """Begins anew under another text, its length not known yet."""
        self._progress.reset(self._task, description=text, total=None)

    def update(self, done: int, total: int, text: str | None = None) -> None:
        """Moves to `done` of `total`, under another text if one is given."""
        self._progress.update(self._task, completed=done, total=total, description=text)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The bar is off the screen meanwhile, so that lines can be printed."""
        if self.is_shown:
            self._progress.stop()
        yield
        if self.is_shown:
            self._progress.start()


class Preparing:
    """Tells what a model that is asked for by name takes before it can be loaded, on the bar and in lines for a log."""

    def __init__(self, bar: Bar, *, quiet: bool) -> None:
        self._bar, self._quiet = bar, quiet

    @contextmanager
    def fetching(self, what: str) -> Iterator[None]:
        """Around a download. On a terminal the Hub's client shows how far it is, which needs the room of the bar."""
        from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

        if self._quiet:
            yield
            return
        with self._bar.aside():
            print_line("fetching", what)
            enable_progress_bars()  # off otherwise, since transformers' bars are switched off with them
            try:
                yield
            finally:
                disable_progress_bars()

    def converted(self, done: int, total: int) -> None:
        """So many tensors of published weights are converted."""
        if done == 0 and not self._quiet:
            with self._bar.aside():
                print_line("converting", "the published weights, which is done once")
        if done < total:
            self._bar.update(done, total, "converting")
        else:
            self._bar.restart("loading the model")
