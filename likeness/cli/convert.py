"""`likeness convert`: a published checkpoint or a base model in, a model folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[
        str, typer.Argument(help="A .pt or .safetensors file, a CogVideoX training folder, or a model to train from.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    base: Annotated[
        str | None, typer.Option(help="Model that the checkpoint was trained from: a name or a folder.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="Method that it was trained with, e.g. concat-id-wan (default: as its names say)."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the folder and errors only.")] = False,
) -> None:
    """Convert published weights, or prepare a base model for training with a method."""
    from likeness.cli._progress import Bar, Preparing
    from likeness.convert.base import convert as convert_weights

    with Bar("converting", quiet=quiet) as bar:
        fetching = Preparing(bar, quiet=quiet).fetching
        folder = convert_weights(
            source, output, base=base, method=method, overwrite=overwrite, progress=bar.update, announce=fetching
        )
    typer.echo(folder)
