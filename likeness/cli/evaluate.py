"""`likeness evaluate`: videos and what they should show in, a report out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from likeness.cli._group import print_line
from likeness.errors import UserError

if TYPE_CHECKING:
    from likeness.evaluate.record import Report
    from likeness.evaluate.run import Progress
    from likeness.evaluate.statistics import Line
    from likeness.evaluate.types import Backends, Item

_ROWS, _WEIGHTS, _RUN = "Benchmark", "Weights (a metric without its weights is left out, and said so)", "Run"
DRAWN = "drawn"  # the face models that come with the package, by name


def evaluate(
    videos: Annotated[
        Path | None,
        typer.Argument(help="Folder of the videos; one that `likeness generate` wrote needs no --benchmark."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the report; one that is there goes on.")
    ] = None,
    benchmark: Annotated[
        Path | None,
        typer.Option(
            "--benchmark",
            "-b",
            help="What the videos should show: ConsisID-Benchmark, Concat-ID's text or JSON, OpenS2V-Eval, VIP-200K's tests, "
            "JSON lines.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    same_person: Annotated[
        bool,
        typer.Option(
            "--same-person", help="Several photographs of a row show one person, not several.", rich_help_panel=_ROWS
        ),
    ] = False,
    one_a_category: Annotated[
        bool,
        typer.Option(
            "--one-a-category", help="Of each picture one prompt a category, as in Concat-ID.", rich_help_panel=_ROWS
        ),
    ] = False,
    write_batch: Annotated[
        Path | None,
        typer.Option(
            help="Write the benchmark's rows to this .jsonl for `likeness generate --batch`, and end.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these metrics; repeat it, or join names by commas (default: all there are weights for)."
        ),
    ] = None,
    faces: Annotated[
        str | None,
        typer.Option(
            help=f"Folder of face models, or '{DRAWN}' for the package's own, for drawn people (default: LIKENESS_FACES; "
            "for results of `likeness generate`, its default).",
            rich_help_panel=_WEIGHTS,
        ),
    ] = None,
    curricular: Annotated[
        Path | None, typer.Option(help="CurricularFace's IR-101 (FaceSim-Cur).", rich_help_panel=_WEIGHTS)
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="CLIP ViT-B/32: folder or Hub name.", rich_help_panel=_WEIGHTS)
    ] = None,
    clip_large: Annotated[
        str | None, typer.Option(help="CLIP ViT-L/14: folder or Hub name.", rich_help_panel=_WEIGHTS)
    ] = None,
    aesthetic: Annotated[
        Path | None, typer.Option(help="LAION's linear head for ViT-L/14.", rich_help_panel=_WEIGHTS)
    ] = None,
    musiq: Annotated[Path | None, typer.Option(help="MUSIQ trained on SPAQ.", rich_help_panel=_WEIGHTS)] = None,
    raft: Annotated[Path | None, typer.Option(help="RAFT, raft-things.", rich_help_panel=_WEIGHTS)] = None,
    amt: Annotated[Path | None, typer.Option(help="AMT-S.", rich_help_panel=_WEIGHTS)] = None,
    viclip: Annotated[Path | None, typer.Option(help="ViCLIP, InternVid-10M-FLT.", rich_help_panel=_WEIGHTS)] = None,
    device: Annotated[str, typer.Option(help="Where networks run: cpu, cuda, cuda:1.", rich_help_panel=_RUN)] = "cpu",
    batch: Annotated[
        int, typer.Option(min=1, help="Videos at a time; no number depends on it.", rich_help_panel=_RUN)
    ] = 4,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Write results.parquet beside results.csv.", rich_help_panel=_RUN)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress bar and no notes.", rich_help_panel=_RUN)
    ] = False,
) -> None:
    """Measure videos: identity, text, editability, quality, each under the name and protocol it was published with.

    A report that was stopped goes on by the same command; a video that is missing or damaged is a row with a reason.

    likeness evaluate outputs --output report
    """
    from likeness.evaluate import readers

    if benchmark is None and (one_a_category or write_batch):
        raise UserError("--one-a-category and --write-batch need a --benchmark to choose from.")
    if benchmark is not None and (one_a_category or write_batch):
        rows = readers.read_rows(benchmark, same_person=same_person)
        rows = readers.one_a_category(rows) if one_a_category else rows
        if write_batch is not None:
            readers.write_batch(rows, write_batch)
            typer.echo(write_batch)
            return
        items = readers.locate(rows, _needed(videos, "videos", "VIDEOS"))
    else:
        items = readers.read_benchmark(benchmark, _needed(videos, "videos", "VIDEOS"), same_person=same_person)
    if videos is not None and benchmark is not None and not quiet:
        _tell_unasked(videos, items)
    from likeness.evaluate.export import check_parquet, write_tables
    from likeness.evaluate.report import write_report
    from likeness.evaluate.statistics import table
    from likeness.evaluate.types import Backends

    if parquet:
        check_parquet()
    output = _needed(output, "report", "--output")
    backends = Backends(
        faces=_faces(faces, is_own=benchmark is None, quiet=quiet),
        curricular=curricular,
        clip=clip,
        clip_large=clip_large,
        aesthetic=aesthetic,
        musiq=musiq,
        raft=raft,
        amt=amt,
        viclip=viclip,
        device=device,
    )
    names = [name for given in metrics for name in given.replace(",", " ").split()] if metrics is not None else None
    report = _run(items, backends, names, output, batch=batch, quiet=quiet)
    lines = table(report)
    write_tables(report, lines, parquet=parquet)
    write_report(report, lines)
    _print_table(report, lines)
    _tell(report)
    typer.echo(report.folder)


def _needed(path: Path | None, noun: str, option: str) -> Path:
    if path is None:
        raise UserError(f"No folder of the {noun} was given. Name one as {option}.")
    return path


def _faces(given: str | None, *, is_own: bool, quiet: bool) -> Path | None:
    """The face models. For other people's benchmarks none are taken by default: the package's own know drawn people only."""
    from likeness.faces import DRAWN_FACES, FACES_VARIABLE

    if given is not None:
        return DRAWN_FACES if given == DRAWN else Path(given)
    if from_environment := os.environ.get(FACES_VARIABLE):
        return Path(from_environment)
    if not is_own:
        return None
    if not quiet:
        print_line(
            "note",
            "faces are compared by the models that come with the package, which know drawn people only; --faces names others",
        )
    return DRAWN_FACES


def _run(
    items: list[Item], backends: Backends, names: list[str] | None, output: Path, *, batch: int, quiet: bool
) -> Report:
    from likeness.cli._progress import Bar
    from likeness.evaluate.metrics import build
    from likeness.evaluate.run import evaluate as measure

    seen = [0, len(items)]
    with _ended_like_interrupted(), Bar("loading the metrics", quiet=quiet) as bar:
        try:
            built, absent = build(backends, names)
            with bar.aside():
                for line in [] if quiet else _absent_lines(absent):
                    print_line("backend absent", line)

            def show(progress: Progress) -> None:
                seen[0] = progress.done
                without = f"  {progress.without} without a number" if progress.without else ""
                bar.update(progress.done, progress.total, text=f"measuring{without}")

            bar.update(0, len(items), text="measuring")
            return measure(items, built, output, absent=absent, batch=batch, progress=show)
        except KeyboardInterrupt:
            told = f"{seen[0]} of {seen[1]} videos are measured; the same command goes on from there"
            print_line("interrupted", told)
            raise


@contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """SIGTERM, by which clusters end a job, says the same as Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _absent_lines(absent: dict[str, str]) -> list[str]:
    """One line an option, with every metric that waits for it."""
    waiting: dict[str, list[str]] = {}
    for name, option in absent.items():
        waiting.setdefault(option, []).append(name)
    return [f"give {option} PATH for {', '.join(names)}" for option, names in waiting.items()]


def _print_table(report: Report, lines: list[Line]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    for column in ("metric", "protocol", "value", "", "mean [95 % over people]", "videos", "people", "size"):
        table.add_column(column, overflow="fold")
    arrows = {"higher": "↑", "lower": "↓", "": ""}
    for line in lines:
        cells = (
            line.what.metric,
            line.what.protocol,
            line.value,
            arrows[line.direction],
            str(line.interval),
            f"{line.interval.num} of {line.interval.num + line.num_without}",
            str(line.interval.num_groups),
            line.what.size,
        )
        table.add_row(*map(Text, cells))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file has no width to fold lines at
    console.print(table)


def _tell_unasked(videos: Path, items: list[Item]) -> None:
    from likeness.evaluate.locate import find_videos

    asked = {item.video for item in items}
    if unasked := [path for path in find_videos(videos) if path not in asked]:
        print_line("left out", f"{len(unasked)} videos that no row of the benchmark asks for, such as {unasked[0]}")


def _tell(report: Report) -> None:
    """Videos without numbers, by status, with a reason as an example."""
    found: dict[str, dict[str, str]] = {}
    for row in report.rows:
        if row.status != "ok":
            found.setdefault(row.status, {}).setdefault(row.id, row.reason)
    for status, reasons in found.items():
        id, reason = next(iter(reasons.items()))
        told = f"{len(reasons)} of {len(report.items)} videos, such as {id} ({reason}); all are in results.csv"
        print_line(status, told)
