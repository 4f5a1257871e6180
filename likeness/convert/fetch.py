"""Published weights by name: fetched and converted once, then found again."""

from __future__ import annotations

import os
from pathlib import Path

from likeness.backbones.known import weights_for
from likeness.backbones.load import resolve_model
from likeness.convert.base import Progress, convert
from likeness.errors import UserError

CACHE_VARIABLE = "LIKENESS_CACHE"


def cache_folder() -> Path:
    """Where converted models are kept: $LIKENESS_CACHE, or beside what the Hub's client keeps."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "likeness"


def prepare(model: str | os.PathLike[str], method: str | None, progress: Progress | None = None) -> Path:
    """The folder of a model, ready to be opened with a method.

    Args:
        model: as for ``resolve_model``.
        method: where published weights of it exist for this base, theirs are taken.
        progress: see ``convert``; called only where weights have to be converted.

    Raises:
        UserError: for an unknown model, or weights that cannot be fetched.
    """
    weights = None if Path(model).is_dir() else weights_for(str(model), method)
    if weights is None:
        return resolve_model(model)
    folder = cache_folder() / f"{weights.base}-{weights.method}"
    if (folder / "model_index.json").is_file():
        return folder
    base = resolve_model(weights.base)
    return convert(
        _download(weights.repo, weights.file), folder, base=base, method=method, overwrite=True, progress=progress
    )


def _download(repo: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(repo, file))
    except (OSError, HfHubHTTPError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{file} of {repo} on the Hugging Face Hub cannot be fetched from here ({lines[0]}). Fetch it where there is "
            "a network and run likeness convert on it."
        ) from error
