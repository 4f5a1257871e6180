"""`likeness study`: people judge blinded pairs of videos, and their votes are counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from likeness.cli._group import RunGroup, print_line
from likeness.errors import UserError

if TYPE_CHECKING:
    from likeness.evaluate.tally import Tally, WinRate
    from likeness.evaluate.types import Item

app = typer.Typer(
    cls=RunGroup,
    help="A page on which people compare videos without knowing whose they are; `study RUN RUN` writes it.",
    no_args_is_help=True,
)


@app.callback()
def study() -> None:
    """A page on which people compare videos without knowing whose they are; `study RUN RUN` writes it."""


@app.command()
def run(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more folders of videos that `likeness generate` wrote, or reports of `likeness evaluate`."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder for the study.")] = Path("study"),
    benchmark: Annotated[
        Path | None,
        typer.Option("--benchmark", "-b", help="What the videos show, for folders that others have made."),
    ] = None,
    num: Annotated[int | None, typer.Option(help="Items of every two runs (default: all that both have).")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the sides and the order (default: drawn anew, and kept in the key).")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the path of the page alone.")] = False,
) -> None:
    """Write a page with pairs of videos and three questions for each: identity, motion, naturalness.

    Give voters the folder STUDY/page; STUDY/key.json says which video is whose, so keep it. The page needs no server and no network.

    likeness study concat-id baseline --output study
    """
    import secrets

    from likeness.cli._progress import Bar
    from likeness.evaluate.study import KEY_NAME, write_study

    rows = {name: _items(run, benchmark) for name, run in zip(_names(runs), runs, strict=True)}
    with Bar("writing the page", quiet=quiet) as bar:
        drawn = secrets.randbits(63) if seed is None else seed
        key = write_study(rows, output, seed=drawn, num=num, progress=bar.update)
    if not quiet:
        if key.left_out:
            id, reason = next(iter(key.left_out.items()))
            print_line(
                "left out", f"{len(key.left_out)} items, such as {id} ({reason}); all are in {output / KEY_NAME}"
            )
        print_line("study", f"{len(key.pairs)} pairs; give voters {output / 'page'} and keep {output / KEY_NAME}")
    typer.echo(output / "page" / "index.html")


@app.command()
def tally(
    folder: Annotated[Path, typer.Argument(help="The folder of the study, with its key.")],
    votes: Annotated[list[Path], typer.Argument(help="Files that voters have sent back, or folders of them.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the numbers to this .json as well.")
    ] = None,
) -> None:
    """Count votes: how often each run is preferred, with 95 % intervals, and how far voters agree.

    likeness study tally study votes/*.json
    """
    from dataclasses import asdict

    from likeness.evaluate.tally import tally as count
    from likeness.sidecar import write_json

    result = count(folder, votes)
    if output is not None:
        write_json(output, asdict(result))
    _print_table(result)
    for voter, given in result.voters.items():
        if given < result.num_answers:
            print_line("unfinished", f"{voter} has answered {given} of {result.num_answers} questions")


def _items(run: Path, benchmark: Path | None) -> Sequence[Item]:
    from likeness.evaluate.readers import read_benchmark
    from likeness.evaluate.record import RUN, load_report

    if (run / RUN).is_file():
        if benchmark is not None:
            raise UserError(
                f"{run} is a report, which knows its benchmark. Leave --benchmark out, or give folders of videos."
            )
        return list(load_report(run).items.values())
    return read_benchmark(benchmark, run)


def _names(runs: Sequence[Path]) -> list[str]:
    """The folders' own names, or their paths where these are the same."""
    paths = [run.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise UserError("A run was given twice. Give each run once.")
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [path.as_posix() for path in paths]


def _print_table(result: Tally) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ("question", "run", "against", "preferred [95 % over items]", "items", "votes", "kappa", "left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for rate in result.win_rates:
        table.add_row(*map(Text, _cells(rate)))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file has no width to fold lines at
    console.print(table)


def _cells(rate: WinRate) -> tuple[str, ...]:
    share = rate.rate
    interval = "" if share.low is None or share.high is None else f" [{share.low:.0%}, {share.high:.0%}]"
    kappa = "" if rate.kappa is None else f"{rate.kappa:.2f}"
    counts = (str(share.num_groups), str(share.num))
    return (rate.question, rate.run, rate.other, f"{share.mean:.0%}{interval}", *counts, kappa, f"{rate.left_rate:.0%}")
