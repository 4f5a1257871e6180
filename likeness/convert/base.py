"""Write a model folder from a base and a transformer's tensors: whole under its name, or not there at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from likeness.backbones.hub import Announce
from likeness.backbones.known import MODELS
from likeness.backbones.load import METHOD_FILE, check_folder, folders_of, part_folder, read_index, resolve_model
from likeness.convert.checkpoint import Checkpoint, read_checkpoint
from likeness.convert.keys import Piece, pieces_of, source_of
from likeness.convert.sat_base import check_sat_base
from likeness.convert.write import STEM, Progress, take_parts, tensor_bytes, write_json, write_tensors
from likeness.disk import full_disk_told
from likeness.errors import CheckpointError, UserError
from likeness.method import METHODS, Method

_SHOWN = 10  # names in a message
_SIZES = {
    "Wan": {"num_frames": 81, "height": 480, "width": 832, "fps": 16, "num_inference_steps": 50},
    "CogVideoX": {"num_frames": 49, "height": 480, "width": 720, "fps": 8, "num_inference_steps": 50},
    "LTX-2": {"num_frames": 121, "height": 512, "width": 768, "fps": 24, "num_inference_steps": 40},
}
_WAN_SHIFT = 5.0  # of the sigmas that Concat-ID on Wan was trained with


def convert(
    source: str | os.PathLike[str],
    output: Path,
    *,
    base: str | os.PathLike[str] | None = None,
    method: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    announce: Announce = nullcontext,
) -> Path:
    """Make a model folder.

    Args:
        source: a published checkpoint, see ``read_checkpoint``; or a model in diffusers' layout, by name or folder, as
            a start for training.
        output: the folder to make.
        base: name or folder of the model that the checkpoint was trained from; None only where source is one itself.
        method: a key of ``METHODS``; None to read it off the names of the tensors.
        overwrite: replace what is in the folder.
        progress: told how many tensors are done, 0 first, and of how many.
        announce: see ``hub.fetch``.

    Raises:
        UserError: for a method that contradicts the tensors, no base, a folder in use, or a full disk.
        CheckpointError: naming the tensors that are missing, unknown or of another shape.
    """
    for place in (output, *output.parents):
        if place.exists() and not place.is_dir():
            raise UserError(f"{place} is a file; name a folder that is to be made with --output.")
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise UserError(f"{output} is not empty; name another folder, or give --overwrite to replace it.")
    path = Path(source)
    if not path.exists() and str(source) not in MODELS:
        raise UserError(
            f"There is no file or folder {source}. Check the spelling; known models are {', '.join(MODELS)}."
        )
    is_model = not path.exists() or (path / "model_index.json").is_file()
    if base is None and not is_model:
        raise UserError(f"{source} is a transformer alone; name the model that it was trained from with --base.")
    # A download may follow; what can be refused is refused before.
    checkpoint = None if is_model else read_checkpoint(path)
    chosen = None if checkpoint is None else _method(checkpoint, method)
    folder = resolve_model(source if base is None else base, announce)
    if output.resolve() == folder.resolve() or output.resolve() in folder.resolve().parents:
        raise UserError(f"{output} is or holds the base itself; name another folder.")
    family = check_folder(folder)
    if checkpoint is None:
        checkpoint = _read_model(resolve_model(source, announce))
    chosen = chosen or _method(checkpoint, method)
    needed = {"wan": "Wan", "sat": "CogVideoX"}.get(checkpoint.layout, family.name)
    if needed != family.name:
        raise CheckpointError(
            f"{checkpoint.path} is a {needed} transformer, but the base {folder} is {family.name}; name the model that "
            "it was trained from."
        )
    if checkpoint.layout == "sat":
        check_sat_base(folder)
    model = _empty_transformer(folder, family.parts["transformer"], checkpoint, chosen)
    # All that the check reads of a backbone is its transformer.
    check: Any = family.backbone
    check.check_method(SimpleNamespace(transformer=model), chosen)
    plan = _plan(checkpoint, {name: tuple(value.shape) for name, value in model.state_dict().items()})

    with full_disk_told(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        try:
            take_parts(folder, work, room=sum(tensor_bytes(checkpoint.tensors, plan).values()))
            _write_configs(folder, work, family.name, model, chosen, checkpoint)
            write_tensors(work / "transformer", checkpoint.tensors, plan, progress)
            work.chmod(0o755)
            _replace(output, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return output


def _replace(output: Path, work: Path) -> None:
    """Put ``work`` in the place of ``output``, which stays where it is until then, and comes back if that fails."""
    if not output.is_dir():
        work.rename(output)
        return
    aside = work.with_name(f"{work.name}.old")
    output.rename(aside)
    try:
        work.rename(output)
    except OSError:
        aside.rename(output)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _read_model(folder: Path) -> Checkpoint:
    # Tensors that the class leaves out in loading, such as those of LTX-2's sound, stay out here too.
    left_out = check_folder(folder).parts["transformer"]._keys_to_ignore_on_load_unexpected or ()
    tensors: dict[str, Tensor] = {}
    for path in sorted((folder / "transformer").glob(f"{STEM}*.safetensors")):
        with safe_open(path, framework="pt") as file:
            names = [key for key in file.keys() if not any(re.search(name, key) for name in left_out)]  # noqa: SIM118
            tensors |= {key: file.get_tensor(key) for key in names}
    return Checkpoint(folder, "diffusers", tensors)


def _method(checkpoint: Checkpoint, name: str | None) -> Method:
    """The method asked for, held to the tensors; theirs where none was."""
    if name is not None and name not in METHODS:
        raise UserError(f"There is no method {name!r}. Choose one of {', '.join(METHODS)}.")
    own = any("modulation_ref" in key or "scale_shift_table_ref" in key for key in checkpoint.tensors)
    guessed = "concat-id-wan-adaln" if own else "concat-id" if checkpoint.layout == "sat" else None
    if name is None and guessed is None:
        raise UserError(f"Nothing in {checkpoint.path} says its method; name it with --method, e.g. concat-id-wan.")
    method = METHODS[str(name or guessed)]
    is_separate = method.reference_modulation == "separate"
    if own and not is_separate:
        raise UserError(
            f"{checkpoint.path} has a modulation of its own for references, method {method.name!r} has none; use "
            "concat-id-wan-adaln."
        )
    if is_separate and not own and checkpoint.layout != "diffusers":
        raise UserError(
            f"Method {method.name!r} has a modulation of its own for references, {checkpoint.path} has none; use "
            f"{'concat-id' if checkpoint.layout == 'sat' else 'concat-id-wan'}."
        )
    if checkpoint.layout == "sat" and not method.reference_reads_text:
        raise UserError(
            f"Method {method.name!r} keeps the text from references, which CogVideoX cannot; use concat-id."
        )
    # What was published for CogVideoX was trained, as CogVideoX itself, with zeros for dropped text.
    return replace(method, dropped_text="zeros") if checkpoint.layout == "sat" else method


def _empty_transformer(folder: Path, cls: type[Any], checkpoint: Checkpoint, method: Method) -> Any:
    """The base's transformer without memory, as the method wants it."""
    config = json.loads((part_folder(folders_of(folder), "transformer") / "config.json").read_text(encoding="utf-8"))
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    if checkpoint.layout == "sat":
        settings["norm_eps"] = 1e-6  # the original's; diffusers' default differs
    if cls.__name__ == "ConcatWanTransformer3DModel":
        settings["reference_modulation"] = method.reference_modulation
    elif method.reference_modulation == "separate":
        raise UserError(f"Method {method.name!r} has a modulation of its own for references, which only Wan can have.")
    with torch.device("meta"):
        return cls.from_config(settings)


def _plan(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, Piece]]:
    """Parameter -> the tensor it comes from: each tensor used, each parameter filled, each shape right."""
    plan: dict[str, tuple[str, Piece]] = {}
    extra: list[str] = []
    for key in checkpoint.tensors:
        pieces = pieces_of(checkpoint.layout, key)
        if pieces is None or any(piece.name not in shapes or piece.name in plan for piece in pieces):
            extra.append(key)
            continue
        plan |= {piece.name: (key, piece) for piece in pieces}
    if checkpoint.layout == "diffusers":
        # References' own modulation starts as the video's.
        for name in shapes.keys() - plan.keys():
            twin = name.replace("time_proj_ref", "time_proj").replace("scale_shift_table_ref", "scale_shift_table")
            if twin in plan:
                plan[name] = (twin, Piece(name))
    wrong = []
    for name, (key, piece) in plan.items():
        found = list(checkpoint.tensors[key].shape)
        wanted = list(shapes[name])
        if piece.of > 1:
            wanted[0] = wanted[0] * piece.of // len(piece.chunks)
        if found != wanted:
            wrong.append(f"{key} is {found}, the base's config wants {wanted}")
    missing = sorted({source_of(checkpoint.layout, name) for name in shapes.keys() - plan.keys()})
    layers, wanted = _layers(checkpoint.tensors), _layers(shapes)
    # In another size everything is wrong, and few names say so as well as many.
    shown = _SHOWN if layers == wanted else 2
    found = [
        f"{len(names)} {kind}: {'; '.join(names[:shown])}{f'; and {len(names) - shown} more' if len(names) > shown else ''}"
        for kind, names in (("missing", missing), ("unknown", sorted(extra)), ("of another shape", sorted(set(wrong))))
        if names
    ]
    if found:
        size = f" (it has {layers} layers, the base {wanted}: a model of another size)" if layers != wanted else ""
        raise CheckpointError(f"{checkpoint.path} does not fit the base{size}. Tensors {'. Tensors '.join(found)}")
    return {name: plan[name] for name in shapes}


def _layers(names: Iterable[str]) -> int:
    numbers = [int(match[1]) for name in names if (match := re.search(r"(?:blocks|layers)\.(\d+)\.", name))]
    return 1 + max(numbers, default=-1)


def _write_configs(base: Path, work: Path, family: str, model: Any, method: Method, checkpoint: Checkpoint) -> None:
    model.save_config(work / "transformer")
    index = read_index(folders_of(base))
    index |= {"_class_name": "LikenessPipeline", "transformer": ["diffusers", type(model).__name__]}
    if type(model).__module__.startswith("likeness."):
        index["transformer"][0] = type(model).__module__
    for name, value in _SIZES.get(family, {}).items():
        # A tiny or retrained base says its own sizes.
        index.setdefault(f"default_{name}", value)
    write_json(work / "model_index.json", index)
    write_json(work / METHOD_FILE, method.to_dict())
    path = work / "scheduler" / "scheduler_config.json"
    scheduler = json.loads(path.read_text(encoding="utf-8"))
    if checkpoint.layout == "wan":
        scheduler = {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": scheduler.get("num_train_timesteps", 1000),
            "shift": _WAN_SHIFT,
        }
        index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
        write_json(work / "model_index.json", index)
    elif checkpoint.layout == "sat":
        scheduler["sampler"] = "sat-dpm"  # what the published results were sampled with
    write_json(path, scheduler)
