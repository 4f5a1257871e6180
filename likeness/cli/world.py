"""`likeness world draw`: people who do not exist, to try and to train with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Drawn people: photographs and clips of people who do not exist.", no_args_is_help=True)


@app.callback()
def world() -> None:
    """Drawn people: photographs and clips of people who do not exist."""


@app.command()
def draw(
    output: Annotated[
        Path, typer.Option(help="Folder for DIR/<person>/reference_0.png, clip_0.mp4 ... and DIR/metadata.json.")
    ],
    first: Annotated[
        int, typer.Option(help="Number of the first person. 0-799999 are for training, 800000-899999 for validation.")
    ] = 0,
    num: Annotated[int, typer.Option(help="How many people.")] = 1,
    clips: Annotated[int, typer.Option(help="Clips of each person, or of each group of people.")] = 1,
    people: Annotated[int, typer.Option(help="People in a clip, 1 to 3.")] = 1,
    height: Annotated[int, typer.Option(help="Height in px.")] = 64,
    width: Annotated[int, typer.Option(help="Width in px.")] = 64,
    num_frames: Annotated[int, typer.Option(help="Frames of a clip, 8 a second.")] = 17,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Draw photographs and clips of people, with captions, in Concat-ID's metadata format.

    The same person and clip always look the same. What the folder already holds is kept, so a stopped run goes on.
    """
    from likeness.cli._progress import Bar
    from likeness.world.folder import DrawingSettings, draw_people

    settings = DrawingSettings(height=height, width=width, num_frames=num_frames)
    with Bar("drawing", quiet=quiet) as bar:
        metadata = draw_people(
            output,
            first=first,
            num=num,
            clips=clips,
            people=people,
            settings=settings,
            progress=lambda progress: bar.update(progress.done, progress.total),
        )
    typer.echo(metadata)
