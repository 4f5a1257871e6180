"""`likeness compare`: evaluated runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from likeness.cli._group import print_line

if TYPE_CHECKING:
    from likeness.evaluate.compare import Comparison, Paired


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of reports; the first is what the others are held against.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the numbers to this .json as well.")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="Write an .html page with the table and the videos in which the runs differ most."),
    ] = None,
    any_size: Annotated[
        bool, typer.Option("--any-size", help="Compare videos of different sizes and lengths all the same.")
    ] = False,
) -> None:
    """Compare runs of one benchmark by pairs: the difference with its interval, and how often a run is better.

    Numbers of different protocols, weights, sizes or lengths are refused.

    likeness compare report-a report-b
    """
    from likeness.evaluate.compare import compare as against
    from likeness.evaluate.comparison_page import write_comparison
    from likeness.evaluate.record import load_report
    from likeness.sidecar import write_json

    reports = [load_report(run) for run in runs]
    comparison = against(reports, any_size=any_size)
    if output is not None:
        write_json(output, comparison.to_json())
    if page is not None:
        write_comparison(comparison, reports, page)
    _print_table(comparison)
    for report, name in zip(reports, comparison.names, strict=True):
        if report.num_unmeasured:
            told = f"{name} has not measured {report.num_unmeasured} of {len(report.items)} videos; `likeness evaluate` goes on"
            print_line("incomplete", told)
    if comparison.num_unshared:
        print_line("left out", f"{comparison.num_unshared} rows that are not in every run")
    for metric, having in comparison.left_out.items():
        print_line("left out", f"{metric}, which only {', '.join(having)} has")


def _print_table(comparison: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    first, *others = comparison.names
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("metric", "protocol", "value", "", first):
        table.add_column(column, overflow="fold")
    for name in others:
        table.add_column(name, overflow="fold")
        table.add_column("difference [95 %]", overflow="fold")
        table.add_column("better in", overflow="fold")
    table.add_column("pairs", overflow="fold")
    arrows = {"higher": "↑", "lower": "↓", "": ""}
    for line in comparison.lines:
        cells = [line.metric, line.protocol, line.value, arrows[line.direction], f"{line.means[0].mean:.4f}"]
        for mean, paired in zip(line.means[1:], line.against_first, strict=True):
            cells += [f"{mean.mean:.4f}", _difference(paired), _wins(paired)]
        table.add_row(*map(Text, [*cells, str(line.means[0].num)]))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def _difference(paired: Paired) -> str:
    """The difference, with a mark where its interval leaves 0 out."""
    return f"{paired.difference}{' *' if paired.verdict else ''}"


def _wins(paired: Paired) -> str:
    rate = paired.win_rate
    if rate is None:
        return ""
    if rate.low is None or rate.high is None:
        return f"{rate.mean:.0%}"
    return f"{rate.mean:.0%} [{rate.low:.0%}, {rate.high:.0%}]"
