"""`likeness models`: which models can be used by name, and which of them are on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from likeness.backbones.known import KnownModel


def models() -> None:
    """List the models known by name, where they come from, their licence and size, and whether they are here."""
    from rich.console import Console
    from rich.table import Table

    from likeness.backbones.known import MODELS, WEIGHTS

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "source", "licence", "parameters", "size", "here", "what it is"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for name, model in MODELS.items():
        folder = _folder(model)
        table.add_row(
            name,
            model.repo or "this package",
            model.licence,
            model.parameters or "-",
            _size(folder),
            "no" if folder is None else "yes",
            model.description,
        )
    Console().print(table)
    for item in WEIGHTS:
        typer.echo(
            f"Published weights: --model {item.base} --method {item.method} ({item.description}; {item.repo}, "
            f"{item.file}; licence: {item.licence})",
            err=True,
        )
    typer.echo("Any folder in diffusers' layout works as well: likeness generate --model FOLDER", err=True)


def _folder(model: KnownModel) -> Path | None:
    """Where the model is on this machine; None if it would have to be downloaded first."""
    if model.folder is not None:
        return model.folder if (model.folder / "model_index.json").is_file() else None
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(str(model.repo), "model_index.json")
    return Path(index).parent if isinstance(index, str) else None


def _size(folder: Path | None) -> str:
    """Bytes of the files that are here; what a download would take is for the Hub to say."""
    if folder is None:
        return "-"
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"
