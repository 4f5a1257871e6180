"""`likeness curate`: raw clips in, a data set of faces and pairs out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from likeness.cli._group import RunGroup

if TYPE_CHECKING:
    from likeness.curate.run import Runner, Summary

_DATASET = typer.Argument(help="Folder that `likeness curate` made.")
_SET = typer.Option("--set", help="A value of the configuration, e.g. thresholds.max_breaks=0.2; repeat for more.")
_WORKERS = typer.Option("--workers", min=1, help="Processes (default: one a core).")
_QUIET = typer.Option("--quiet", "-q", help="Print the result's path and errors only.")

app = typer.Typer(
    cls=RunGroup,
    help="Raw clips in, pairs of clips and faces out. `likeness curate INPUT... --output DATASET` is short for `likeness curate run`.",
    no_args_is_help=True,
)


@app.callback()
def curate() -> None:
    """Raw clips in, pairs of clips and faces out. `likeness curate INPUT... --output DATASET` is short for `likeness curate run`."""


@app.command()
def run(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Folders, videos, patterns, or JSON, JSONL, CSV and Parquet lists of video_path and caption."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the data set; one that was stopped goes on.")
    ] = None,
    faces: Annotated[
        Path | None, typer.Option(help="Folder of the face models (default: those for drawn people).")
    ] = None,
    workers: Annotated[int | None, _WORKERS] = None,
    deadline_s: Annotated[float, typer.Option("--deadline-s", help="Seconds after which a clip is given up.")] = 120.0,
    shots: Annotated[bool, typer.Option("--shots", help="Cut long videos where the picture changes.")] = False,
    settings: Annotated[list[str] | None, _SET] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Measure again what failed before.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Run the workers as Ray actors.")] = False,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to join, e.g. auto; implies --ray.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration and stop.")] = False,
    quiet: Annotated[bool, _QUIET] = False,
) -> None:
    """Measure clips, drop those that do not fit, each with its reason, and pair the faces of the others.

    Nothing is decoded twice: what was measured is kept, so a run that was stopped goes on and limits can be changed.
    """
    import json

    from likeness.curate.config import CurationConfig
    from likeness.errors import UserError

    config = CurationConfig().override(settings or [])
    if show:
        typer.echo(json.dumps(config.to_dict(), indent=2))
        return
    if output is None:
        raise UserError("--output is missing; name the folder of the data set, which may be new.")
    from likeness.cli._funnel import FunnelBar
    from likeness.cli._group import print_line
    from likeness.cli._progress import Bar
    from likeness.curate.run import Stopped
    from likeness.curate.run import curate as run_curation
    from likeness.curate.sources import read_sources
    from likeness.faces import faces_folder

    runner = _runner(ray, ray_address)
    with Bar("looking for shots" if shots else "listing", quiet=quiet) as listing:
        sources = read_sources(inputs, shots=shots, workers=workers or _cores(), progress=listing.update)
    try:
        with FunnelBar("curating", quiet=quiet) as bar:
            summary = run_curation(
                sources,
                output,
                config,
                faces=faces_folder(faces),
                workers=workers or _cores(),
                deadline_s=deadline_s,
                runner=runner,
                retry=retry,
                progress=bar.update,
                pairing=lambda done, total: bar.stage("pairing", done, total),
            )
    except Stopped as stopped:
        print_line("stopped", str(stopped).removeprefix("stopped "))
        raise typer.Exit(130) from stopped
    _conclude(summary, quiet=quiet)


def _cores() -> int:
    """Cores that this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _runner(ray: bool, address: str | None) -> Runner:
    if not ray and address is None:
        from likeness.curate.local import run_local

        return run_local
    from functools import partial

    from likeness.curate.ray_runner import run_ray

    return partial(run_ray, address=address)


@app.command()
def decide(
    dataset: Annotated[Path, _DATASET],
    settings: Annotated[list[str] | None, _SET] = None,
    workers: Annotated[int | None, _WORKERS] = None,
    quiet: Annotated[bool, _QUIET] = False,
) -> None:
    """Decide again with other limits, from what was measured; nothing is decoded."""
    from likeness.cli._group import print_line
    from likeness.cli._progress import Bar
    from likeness.curate.run import decide_again

    try:
        with Bar("pairing", quiet=quiet) as bar:
            summary = decide_again(dataset, settings or [], workers=workers or _cores(), pairing=bar.update)
    except KeyboardInterrupt:
        print_line("stopped", "no table is half written; the same command goes on")
        raise typer.Exit(130) from None
    _conclude(summary, quiet=quiet)


@app.command()
def leaks(
    dataset: Annotated[Path, _DATASET],
    benchmark: Annotated[Path, typer.Argument(help="Folder with the benchmark's photographs.")],
    drop: Annotated[
        str,
        typer.Option(help="Who gives way: benchmark (its people are not to be measured with) or training (its clips)."),
    ] = "benchmark",
    also: Annotated[
        list[str] | None,
        typer.Option(help="A person of the benchmark whom you recognised on the sheets; repeat for more."),
    ] = None,
    quiet: Annotated[bool, _QUIET] = False,
) -> None:
    """Find the people of a benchmark among the data set's faces, and show both side by side, for you to look at."""
    from likeness.cli._group import print_line
    from likeness.cli._progress import Bar
    from likeness.curate.leak_check import check_leaks

    with Bar("comparing", quiet=quiet) as bar:
        found = check_leaks(dataset, benchmark, drop, also=also or (), workers=_cores(), on_progress=bar.update)  # pyright: ignore[reportArgumentType]
    for name in found.without_face:
        print_line("note", f"no face was found in {name}; look at it yourself")
    if not quiet:
        way = "are not to be measured with" if found.direction == "benchmark" else f"cost {found.clips:,} clips"
        print_line(
            "leaks",
            f"{len(found.leaked)} of {found.identities} people in {found.pictures} pictures are among the training faces and {way}: "
            f"{', '.join(found.leaked) or 'nobody'}",
        )
        for sheet in found.sheets:
            print_line("look at", str(sheet))
    if found.decided:
        _report(found.decided, quiet=quiet)
    typer.echo(found.table)


@app.command()
def report(dataset: Annotated[Path, _DATASET]) -> None:
    """Write report.html anew: one page that needs nothing else."""
    from likeness.curate.report import write_report

    typer.echo(write_report(dataset))


@app.command()
def show(
    dataset: Annotated[Path, _DATASET],
    key: Annotated[str, typer.Argument(help="Key of a clip: the report and clips.parquet have it.")],
) -> None:
    """Measure one clip again, here and now, and say what is found; the data set is left alone."""
    import json

    from likeness.curate.inspect_clip import inspect_clip

    typer.echo(json.dumps(inspect_clip(dataset, key), indent=2))


@app.command()
def export(
    dataset: Annotated[Path, _DATASET],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder (default: DATASET/export).")] = None,
    caption: Annotated[
        str | None, typer.Option(help="Text for clips without a caption, which are left out otherwise.")
    ] = None,
    quiet: Annotated[bool, _QUIET] = False,
) -> None:
    """Write the pairs as Concat-ID's JSON lists, which `likeness train --data` reads. Shots are cut out as files of their own."""
    from likeness.cli._group import print_line
    from likeness.cli._progress import Bar
    from likeness.curate.export import export_pairs

    with Bar("exporting", quiet=quiet) as bar:
        exported = export_pairs(dataset, output, caption=caption, progress=bar.update)
    if exported.uncaptioned:
        print_line(
            "note", f"{exported.uncaptioned} pairs were left out for want of a caption; --caption TEXT gives them one"
        )
    for path, count in exported.lists.items():
        typer.echo(path)
        if not quiet:
            print_line("exported", f"{count} pairs in {path.name}")


def _conclude(summary: Summary, *, quiet: bool) -> None:
    """What came of it, and where everything is."""
    _report(summary, quiet=quiet)
    typer.echo(summary.folder)


def _report(summary: Summary, *, quiet: bool) -> None:
    """The report, and one line that says what became of the clips."""
    from likeness.cli._funnel import told
    from likeness.cli._group import print_line
    from likeness.curate.leak_table import is_outdated
    from likeness.curate.record import Dataset
    from likeness.curate.report import write_report

    page = write_report(summary.folder)
    if not quiet:
        counts = summary.counts
        statuses = {"kept" if status == "ok" else status: count for status, count in counts.statuses.items()}
        left_out = f" ({told(summary.left_out)} left out)" if summary.left_out else ""
        pairs = f"; pairs: {told(summary.pairs)}{left_out}" if summary.pairs else ""
        print_line(
            "curated",
            f"{counts.clips:,} clips: {told(statuses)}; {summary.measured:,} measured now, {summary.reused:,} before{pairs}; "
            f"why and what: {page}",
        )
    if is_outdated(Dataset.open(summary.folder)):
        print_line(
            "note",
            "other clips are kept than those that were compared with a benchmark; run `likeness curate leaks` again",
        )
