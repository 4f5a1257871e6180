"""Published weights by name: fetched and converted once, then found again."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

from likeness.backbones.hub import Announce, fetch
from likeness.backbones.known import HUGGING_FACE, MODELS, WEIGHTS, weights_for
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


def prepare(
    model: str | os.PathLike[str],
    method: str | None,
    progress: Progress | None = None,
    announce: Announce = nullcontext,
) -> Path:
    """The folder of a model, ready to be opened with a method.

    Args:
        model: as for ``resolve_model``.
        method: where published weights of it exist for this base, theirs are taken.
        progress: see ``convert``; called only where weights have to be converted.
        announce: see ``hub.fetch``.

    Raises:
        UserError: for an unknown model, or weights that cannot be fetched.
    """
    if Path(model).is_dir():
        return Path(model)
    _check_known(str(model), method)
    published = weights_for(str(model), method)
    if not published:
        return resolve_model(model, announce)
    weights = published[0]
    if weights.hub != HUGGING_FACE:
        repos = " and ".join(item.repo for item in published)
        raise UserError(
            f"Model {weights.base!r} alone has not learned method {weights.method!r}; weights that have are on "
            f"{weights.hub}, in {repos}. Fetch a folder with a file 'latest' from there, run `likeness convert FOLDER "
            f"--base {weights.base} --output NEW` and give --model NEW."
        )
    folder = cache_folder() / f"{weights.base}-{weights.method}"
    if (folder / "model_index.json").is_file():
        return folder
    base = resolve_model(weights.base, announce)
    source = fetch(weights.repo, [weights.file], "run likeness convert on it", announce) / weights.file
    if not source.is_file():
        raise UserError(f"{weights.repo} on the Hugging Face Hub has no file {weights.file}; look at its page.")
    return convert(source, folder, base=base, method=method, overwrite=True, progress=progress)


def _check_known(name: str, method: str | None) -> None:
    """Refuse what a known base on the Hub cannot do, before it is fetched."""
    known = MODELS.get(name)
    if known is None or known.repo is None:
        return
    ready = dict.fromkeys(item.method for item in WEIGHTS if item.base == name)
    if method is None:
        ways = f"name a method that weights were published for, --method {' or '.join(ready)}, " if ready else ""
        raise UserError(
            f"Model {name!r} is a base, which has not learned to show a person from a photograph; {ways or 'train it '}or "
            "give --model the folder of a model that was trained."
        )
    if method not in known.methods:
        raise UserError(f"Model {name!r} cannot express method {method!r}; its methods are {', '.join(known.methods)}.")
