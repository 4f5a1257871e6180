"""Read a checkpoint as its authors saved it, without running anything that is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from likeness.convert.keys import Layout
from likeness.errors import CheckpointError
from likeness.tensorfile import read_tensor_file

_WRAPPERS = ("state_dict", "module", "model")
_PREFIXES = ("pipe.dit.", "module.", "model.")
_SAT_PREFIX = "model.diffusion_model."
# What CogVideoX's training framework saves beside the transformer; the base has these parts.
_SAT_OTHERS = ("first_stage_model.", "conditioner.")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a transformer under its authors' names.

    Attributes:
        path: of the file.
        layout: whose names they are.
        tensors: by name, without what wraps them; read from the disk when they are used.
        ignored: how many tensors belong to other parts of the model.
    """

    path: Path
    layout: Layout
    tensors: Mapping[str, Tensor]
    ignored: int = 0


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a ``.pt`` or ``.safetensors`` file, or a folder of CogVideoX's training framework.

    Raises:
        CheckpointError: for a file that is missing, broken, would run code, or is of no known architecture.
    """
    file = _sat_file(path) if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; give a .pt or .safetensors file, or a folder with a file 'latest'.")
    state = _unwrap(file, read_tensor_file(file))
    sat = {key.removeprefix(_SAT_PREFIX): value for key, value in state.items() if key.startswith(_SAT_PREFIX)}
    if sat:
        rest = {key: value for key, value in state.items() if not key.startswith((_SAT_PREFIX, *_SAT_OTHERS))}
        return Checkpoint(file, "sat", {**sat, **rest}, ignored=len(state) - len(sat) - len(rest))
    while prefix := next((item for item in _PREFIXES if all(key.startswith(item) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    if any(".self_attn." in key for key in state) and any(key.startswith("patch_embedding.") for key in state):
        return Checkpoint(file, "wan", state)
    raise CheckpointError(
        f"{file} is of an architecture that cannot be converted: its tensors are named {', '.join(sorted(state)[:3])}, ... "
        "Concat-ID's files for Wan (first_stage.pt, second_stage_adaln.pt) and CogVideoX (a folder) can be."
    )


def _sat_file(folder: Path) -> Path:
    latest = folder / "latest"
    if not latest.is_file():
        raise CheckpointError(f"{folder} has no file 'latest' that names an iteration; give the folder that has it.")
    iteration = latest.read_text(encoding="utf-8", errors="replace").strip()
    if not iteration or Path(iteration).name != iteration or iteration == "..":
        raise CheckpointError(f"{latest} says {iteration[:40]!r}, which is not the name of a folder beside it.")
    return folder / iteration / "mp_rank_00_model_states.pt"


def _unwrap(file: Path, state: Any) -> dict[str, Tensor]:
    while isinstance(state, dict) and (name := next((key for key in _WRAPPERS if key in state), None)):
        state = state[name]
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{file} holds no table of tensors.")
    others = [str(key) for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{file} holds {others[0]!r}, which is not a tensor; give a file of a model's weights.")
    return state
