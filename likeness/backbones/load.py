"""From a name or a folder to a backbone.

Weights are read as safetensors only, so that opening a stranger's folder runs no code of it.
"""

# diffusers' names come from a lazy module, which pyright cannot see through.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedModel

from likeness.backbones.base import Backbone
from likeness.backbones.families import Family, family_of
from likeness.backbones.hub import Announce, fetch
from likeness.backbones.known import MODELS
from likeness.backbones.lora import merge_lora
from likeness.errors import CheckpointError, UserError
from likeness.method import Method

METHOD_FILE = "method.json"
LORA_FILE = "pytorch_lora_weights.safetensors"
BASE_KEY = "base"  # of model_index.json: the model, by name or by its folder's path from this one, whose parts complete this one's
_MAX_BASES = 4  # that stand on each other
_MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.md"]


def resolve_model(name: str | os.PathLike[str], announce: Announce = nullcontext) -> Path:
    """The folder of a model: a key of :data:`MODELS`, or a folder in diffusers' layout.

    A model on the Hub is downloaded once and found again without a network; announce is as for ``hub.fetch``.

    Raises:
        UserError: for an unknown name, listing those that are known, or a model that cannot be downloaded.
        CheckpointError: if a model of this package is not installed.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    known = MODELS.get(str(name))
    if known is None:
        raise UserError(
            f"{str(name)!r} is neither a folder nor a known model. Give a folder in diffusers' layout or one of: "
            f"{', '.join(MODELS)}."
        )
    if known.folder is not None:
        if not (known.folder / "model_index.json").is_file():
            raise CheckpointError(
                f"The weights of model {name!r} are not installed; install the package from a release."
            )
        return known.folder
    return fetch(str(known.repo), _MODEL_FILES, "give its folder, or use the model 'tiny'", announce)


def folders_of(folder: Path) -> list[Path]:
    """A model's folder, then that of the model which it completes itself from, and so on.

    A folder need not have every part: one whose ``model_index.json`` names a ``base`` holds what was trained, a transformer or a
    LoRA of the base's, and takes the rest from there.

    Raises:
        UserError: for a base on the Hub that cannot be downloaded.
        CheckpointError: for a base that is not there, or a chain of them without an end.
    """
    folders = [folder]
    while (name := _read_json(folders[-1] / "model_index.json").get(BASE_KEY)) is not None:
        beside = folders[-1] / str(name)
        if not beside.is_dir() and str(name) not in MODELS:
            raise CheckpointError(
                f"{folders[-1]} holds a part of a model; the rest is in its base, {name!r}, which is neither a folder beside it nor "
                f"a known model. Put it there, or name it under {BASE_KEY!r} in model_index.json."
            )
        if len(folders) > _MAX_BASES:
            raise CheckpointError(
                f"{folder} stands on more than {_MAX_BASES} bases, one on the other; does one name itself?"
            )
        folders.append(beside if beside.is_dir() else resolve_model(str(name)))
    return folders


def read_index(folders: Sequence[Path]) -> dict[str, Any]:
    """The ``model_index.json`` of a model, completed by its base's; ``folders`` are those of :func:`folders_of`."""
    index: dict[str, Any] = {}
    for path in reversed(folders):
        index |= _read_json(path / "model_index.json")
    index.pop(BASE_KEY, None)
    return index


def part_folder(folders: Sequence[Path], part: str) -> Path:
    """Where a part of a model lies: in its folder or in that of its base. A part that is nowhere is looked for in the last."""
    return next((path / part for path in folders if (path / part).is_dir()), folders[-1] / part)


def loras_of(folders: Sequence[Path]) -> list[Path]:
    """LoRA files between a model and the folder of its transformer, in the order in which they were trained."""
    found: list[Path] = []
    for path in folders:
        if (path / "transformer").is_dir():
            break
        found += [path / LORA_FILE] if (path / LORA_FILE).is_file() else []
    return found[::-1]


def load_method(folder: Path) -> Method:
    """The method that a folder's weights were trained with.

    Raises:
        CheckpointError: if ``method.json`` is missing or broken.
    """
    path = folder / METHOD_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {METHOD_FILE}, so nothing says how references reach this model. Weights trained with a "
            "published method need it named, e.g. method=METHODS['concat-id-wan'] of likeness.method; base weights were not "
            "trained with references at all."
        )
    try:
        return Method.from_dict(_read_json(path))
    except CheckpointError:
        raise
    except UserError as error:
        raise CheckpointError(f"{path} is not a method: {error}") from error


def load_backbone(
    model: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    vae_dtype: torch.dtype = torch.float32,
    method: Method | None = None,
    shift: float | None = None,
    encoders_only: bool = False,
) -> Backbone:
    """Load a folder in diffusers' layout, in evaluation mode.

    Args:
        model: see :func:`resolve_model`.
        device: where all parts go.
        dtype: of the transformer, the text encoder and what is between them.
        vae_dtype: of the VAE, float32 as Wan's own pipeline has it.
        method: where it has a modulation of references of its own, weights without it get a copy of the video's.
        shift: of the sigmas, in place of the scheduler's; Concat-ID on Wan was trained with 5.
        encoders_only: leave the transformer's weights where they are (it is made on the "meta" device): for work that encodes
            videos and prompts and predicts nothing.

    Raises:
        UserError: see :func:`resolve_model`.
        CheckpointError: naming the file that is missing, broken or of another model.
    """
    folder = resolve_model(model)
    folders = folders_of(folder)
    family = _check(folders)
    parts = {
        part: _load_model(cls, part_folder(folders, part), vae_dtype if part == "vae" else dtype)
        for part, cls in family.parts.items()
        if part != "transformer" or not encoders_only
    }
    if not encoders_only:
        parts["transformer"] = family.prepare(parts["transformer"], method)
        for path in loras_of(folders):
            merge_lora(parts["transformer"], path)
    for module in parts.values():
        module.eval().requires_grad_(False).to(device)
    if encoders_only:
        with torch.device("meta"):
            transformer: Any = family.parts["transformer"]
            parts["transformer"] = transformer.from_config(
                _read_json(part_folder(folders, "transformer") / "config.json")
            ).eval()
    try:
        tokenizer = AutoTokenizer.from_pretrained(part_folder(folders, "tokenizer"), local_files_only=True)
    except Exception as error:  # whatever a broken file makes a tokenizer's parser raise
        raise CheckpointError(f"{part_folder(folders, 'tokenizer')} cannot be loaded: {_first_line(error)}") from error
    scheduler = family.scheduler(_read_json(part_folder(folders, "scheduler") / "scheduler_config.json"), shift)
    try:
        return family.backbone(**parts, tokenizer=tokenizer, scheduler=scheduler)
    except UserError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def check_folder(folder: Path) -> Family:
    """Look for every file that a folder needs and at the headers of its weights; returns the folder's family.

    Raises:
        CheckpointError: naming the first file that is missing, cut short or not what its name says.
    """
    return _check(folders_of(folder))


def _check(folders: Sequence[Path]) -> Family:
    folder, index = folders[0], read_index(folders)
    if "transformer" not in index:
        raise CheckpointError(f"{folder / 'model_index.json'} lists no transformer: not a text-to-video model.")
    family = family_of(str(_read_json(part_folder(folders, "transformer") / "config.json").get("_class_name")))
    missing = [part for part in (*family.parts, "tokenizer", "scheduler") if part not in index]
    if missing:
        raise CheckpointError(
            f"{folder / 'model_index.json'} lists no {', '.join(missing)}: not a {family.name} text-to-video model."
        )
    for part in family.parts:
        place = part_folder(folders, part)
        _read_json(place / "config.json")
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        for path in _weight_files(place, stem):
            _check_safetensors(path)
    for path in loras_of(folders):
        _check_safetensors(path)
    _read_json(part_folder(folders, "tokenizer") / "tokenizer_config.json")
    _read_json(part_folder(folders, "scheduler") / "scheduler_config.json")
    return family


def _weight_files(folder: Path, stem: str) -> list[Path]:
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return [folder / f"{stem}.safetensors"]
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict):
        raise CheckpointError(f"{index} has no weight_map; fetch the file again.")
    return [folder / name for name in sorted(set(shards.values()))]


def _check_safetensors(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. Fetch the whole model folder again.")
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is broken or cut short ({_first_line(error)}). Fetch it again.") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. Fetch the whole model folder again.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({_first_line(error)}). Fetch it again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}, not a table. Fetch it again.")
    return values


def _load_model(cls: type[Any], folder: Path, dtype: torch.dtype) -> Any:
    """A diffusers or transformers model whose every parameter is in the files."""
    # The two libraries call this argument by different names.
    typed: dict[str, Any] = {"dtype" if issubclass(cls, PreTrainedModel) else "torch_dtype": dtype}
    try:
        loaded: Any = cls.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **typed
        )
    except Exception as error:  # whatever a config that is valid JSON but wrong makes a constructor raise
        raise CheckpointError(f"{folder} is not a {cls.__name__}: {_first_line(error)}") from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} tensors of its {cls.__name__}, {missing[0]} among them. Fetch it again."
        )
    # transformers keeps heads of other tasks in a text encoder's file; diffusers' files hold their model alone, but for
    # what a class says that it leaves out.
    unknown = [] if issubclass(cls, PreTrainedModel) else sorted(info["unexpected_keys"])
    if unknown:
        raise CheckpointError(
            f"{folder} has {len(unknown)} tensors that {cls.__name__} does not know, {unknown[0]} among them: of another "
            "model, or of a newer one than is implemented."
        )
    return model


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
