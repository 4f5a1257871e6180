"""`likeness precompute`: pairs in, a store of latents and prompt embeddings out, for training to read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from likeness.train.precompute import Report


def precompute(
    pairs: Annotated[list[Path], typer.Argument(help="Pairs: Concat-ID's JSON, JSONL, Parquet or a folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the store; one that is there grows.")],
    model: Annotated[str, typer.Option(help="Model whose encoders are used: a name or a folder.")] = "tiny",
    height: Annotated[int | None, typer.Option(help="Height in px (default: the model's).")] = None,
    width: Annotated[int | None, typer.Option(help="Width in px (default: the model's).")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Frames of a video (default: the model's).")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second (default: the model's).")] = None,
    bucket: Annotated[
        list[str] | None,
        typer.Option(help="A further HEIGHTxWIDTH; each clip goes to the nearest in shape; repeat for more."),
    ] = None,
    faces: Annotated[
        bool,
        typer.Option(
            "--faces", help="Embed the references' faces, and find them in every frame of clips that come without."
        ),
    ] = False,
    face_models: Annotated[
        Path | None, typer.Option(help="Folder of face models (default: LIKENESS_FACES, or the package's).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 (default: the best there is).")] = None,
    processes: Annotated[int, typer.Option(min=1, help="CPU processes that share the work.")] = 1,
    max_skipped: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of broken pairs beyond which to stop.")
    ] = 0.05,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Encode the clips and captions of training pairs once, so that training reads them instead.

    What the store holds already is kept: a run that was stopped goes on, and new pairs are added.
    """
    from likeness.cli._group import print_line
    from likeness.cli._progress import Bar
    from likeness.faces import faces_folder
    from likeness.generate.studio import quieten_libraries
    from likeness.train.clips import FrameRule
    from likeness.train.pairs import read_pairs
    from likeness.train.precompute import Settings, default_size, pick_device
    from likeness.train.precompute import precompute as fill

    quieten_libraries()
    own = default_size(model)
    sizes = (
        (own.height if height is None else height, own.width if width is None else width),
        *map(_size, bucket or ()),
    )
    settings = Settings(
        model=model,
        output=output,
        rule=FrameRule(own.num_frames if num_frames is None else num_frames, own.fps if fps is None else fps),
        sizes=tuple(dict.fromkeys(sizes)),
        faces=faces_folder(face_models) if faces else None,
        device=pick_device(device, processes),
        processes=processes,
        max_skipped=max_skipped,
    )
    with Bar("encoding", quiet=quiet) as bar:

        def show(report: Report) -> None:
            skipped = f"  {report.skipped} skipped" if report.skipped else ""
            bar.update(report.done, report.total, text=f"encoding{skipped}")

        try:
            report = fill(read_pairs(pairs), settings, show)
        except KeyboardInterrupt:
            with bar.aside():
                print_line("stopped", "what was encoded is kept; the same command goes on from there")
            raise typer.Exit(130) from None
    if report.skipped:
        print_line("skipped", f"{report.skipped} of {report.total} pairs; {output / 'skipped.jsonl'} names them")
    if report.faceless:
        print_line(
            "note",
            f"{report.faceless} of {report.encoded} pairs have a reference whose face was not found in it or in the clip; "
            "identity losses leave it out",
        )
    typer.echo(output)


def _size(text: str) -> tuple[int, int]:
    from likeness.errors import UserError

    match = re.fullmatch(r"(\d+)x(\d+)", text.strip().lower())
    if match is None:
        raise UserError(f"--bucket was given {text!r}; it takes HEIGHTxWIDTH in px, e.g. 832x480.")
    return int(match[1]), int(match[2])
