"""What `likeness generate` tells of its videos: paths on stdout as they are finished, the rest on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from likeness.cli._group import print_line

if TYPE_CHECKING:
    from likeness.cli._progress import Bar
    from likeness.generate import Job
    from likeness.generate.one import Outcome
    from likeness.generate.studio import Studio


class Teller:
    """Tells of each outcome as it comes: paths on stdout, the rest on stderr, each warning once."""

    def __init__(self, bar: Bar, *, is_batch: bool, quiet: bool) -> None:
        self.outcomes: list[Outcome] = []
        self._bar, self._is_batch, self._quiet = bar, is_batch, quiet
        self._told: set[str] = set()

    def __call__(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        with self._bar.aside():
            if not self._quiet:
                for warning in outcome.warnings:
                    if warning not in self._told:
                        print_line("warning", warning)
                self._told.update(outcome.warnings)
            if outcome.status != "failed":
                typer.echo(outcome.job.output)
                if not self._quiet:
                    print_line(outcome.status, _summary(outcome))
            elif self._is_batch:
                print_line(f"failed ({outcome.job.where})", str(outcome.error))


def tell_changes(record: dict[str, Any], studio: Studio, job: Job) -> None:
    """Warns of what is not as it was when a sidecar was written."""
    from likeness.sidecar import changes

    recipe = studio.recipe(replace(job, settings=studio.resolve(job.settings)))
    if changed := changes(record, recipe):
        told = f"Not as it was when the sidecar was written, so the bytes may differ: {', '.join(changed)}."
        print_line("warning", told)


def title(index: int, count: int, job: Job) -> str:
    """What the progress bar says of a job."""
    return job.output.stem if count == 1 else f"{index + 1}/{count} {job.output.stem}"


def _summary(outcome: Outcome) -> str:
    words = [f"{outcome.job.output.name}: {'finished before' if outcome.status == 'kept' else 'new'}"]
    if outcome.told:
        words.append(outcome.told)
    if outcome.similarity is not None:
        told = f"face similarity to the photograph {outcome.similarity:.2f} (1 is the same picture, 0 a stranger)"
        words.append(told)
    return ", ".join(words)


def conclude(outcomes: Sequence[Outcome], output: Path, *, is_batch: bool) -> None:
    """The end of a run: for a single video its error as it is, for a batch a table and a file of what failed."""
    from likeness.generate.run import failures_of
    from likeness.sidecar import write_json

    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if not is_batch:
        for outcome in failed:
            assert outcome.error is not None
            raise outcome.error
        return
    folder = output if output.suffix.lower() != ".mp4" else output.parent
    report = folder / "failures.json"
    if not failed:
        report.unlink(missing_ok=True)
        return
    write_json(report, failures_of(outcomes))
    _print_table(outcomes)
    print_line(
        "error",
        f"{len(failed)} of {len(outcomes)} videos failed. See {report}, mend them and run the same command again.",
    )
    raise typer.Exit(2)


def _print_table(outcomes: Sequence[Outcome]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("where", "video", "outcome"):
        table.add_column(column, overflow="fold")
    for outcome in outcomes:
        told = f"failed: {outcome.error}" if outcome.status == "failed" else outcome.status
        table.add_row(Text(outcome.job.where), Text(outcome.job.output.name), Text(" ".join(told.split())))
    Console(stderr=True).print(table)
