"""`likeness models`: what can be used by name, and which of it is on this machine."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from likeness.backbones.known import KnownModel, KnownWeights

_WIDTH = 79  # columns, so that a terminal of 80 does not break a line


def models() -> None:
    """List the models and published weights known by name: what they are, where they come from, their licence and size,
    and whether they are here."""
    from likeness.backbones.known import HUGGING_FACE, MODELS, WEIGHTS

    for name, model in MODELS.items():
        folder = _folder(model)
        parameters = f"{model.parameters} parameters, " if model.parameters else ""
        _entry(f"--model {name}", model.description, model.repo or "this package", model.licence,
               parameters + _here(folder), _methods(name, model))  # fmt: skip
    for item in WEIGHTS:
        fetched = item.hub == HUGGING_FACE
        title = (
            f"--model {item.base} --method {item.method}" if fetched else f"likeness convert FOLDER --base {item.base}"
        )
        source = f"{item.repo}, {item.file}" if fetched else f"{item.repo} on {item.hub}, to be fetched by hand"
        size = _here(_weights(item)) if fetched else "see its page"
        _entry(title, item.description, source, item.licence, size, item.method)
    typer.echo("Any folder in diffusers' layout works as well: --model FOLDER")


def _entry(title: str, what: str, source: str, licence: str, size: str, methods: str) -> None:
    typer.echo(title)
    rows = {"what": what, "from": source, "licence": licence, "size": size, "methods": methods}
    for label, text in rows.items():
        lead = f"  {label:<9}"
        typer.echo(textwrap.fill(text, _WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead),
                                 break_on_hyphens=False, break_long_words=False))  # fmt: skip
    typer.echo()


def _methods(name: str, model: KnownModel) -> str:
    from likeness.backbones.known import WEIGHTS

    ready = dict.fromkeys(item.method for item in WEIGHTS if item.base == name)
    said = [f"{', '.join(model.methods)} {'as it is' if model.folder is not None else 'after training'}"]
    return "; ".join(said + [f"published weights of {', '.join(ready)}"] * bool(ready))


def _folder(model: KnownModel) -> Path | None:
    """Where the model is on this machine; None if it would have to be downloaded first."""
    if model.folder is not None:
        return model.folder if (model.folder / "model_index.json").is_file() else None
    return _cached(str(model.repo), "model_index.json", whole=True)


def _weights(item: KnownWeights) -> Path | None:
    return _cached(item.repo, item.file, whole=False)


def _cached(repo: str, file: str, *, whole: bool) -> Path | None:
    """A file in the Hub client's cache, or the folder that it is in; nothing is asked of the network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file)
    if not isinstance(found, str):
        return None
    return Path(found).parent if whole else Path(found)


def _here(path: Path | None) -> str:
    """Bytes of what is here; what a download would take is for the Hub to say."""
    if path is None:
        return "not here: downloaded when it is first used"
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    megabytes = sum(item.stat().st_size for item in files) / 1e6
    return f"{f'{megabytes:.0f} MB' if megabytes < 1000 else f'{megabytes / 1000:.1f} GB'} on disk, already here"
