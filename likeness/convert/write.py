"""Write the files of a model folder: the parts that a base has already, and a transformer's tensors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from likeness.backbones.load import folders_of, part_folder, read_index
from likeness.convert.keys import Piece
from likeness.disk import check_room

STEM = "diffusion_pytorch_model"
SHARD_BYTES = 2_000_000_000  # of a file of weights, and so the most that is in memory at a time

Progress = Callable[[int, int], None]


def part_files(base: Path) -> list[Path]:
    """Files of the parts other than the transformer that the ``model_index.json`` of a model folder lists, its own or its base's."""
    return [path for path, _ in _parts(base)]


def _parts(base: Path) -> list[tuple[Path, Path]]:
    """Each file, and its path in a folder that has all parts."""
    folders = folders_of(base)
    places = {name: part_folder(folders, name) for name in read_index(folders) if name != "transformer"}
    return [
        (path, Path(name) / path.relative_to(place))
        for name, place in places.items()
        for path in sorted(place.rglob("*"))
        if path.is_file()
    ]


def take_parts(base: Path, folder: Path, *, room: int = 0) -> None:
    """Put the parts other than the transformer of one model folder into another.

    Weights are hard-linked where the file system allows it and take no space; the other files, which are changed by
    hand now and then, are copies, so that a change stays where it is made.

    Args:
        base: the folder that has the parts.
        folder: the folder to fill, on the disk where it stays.
        room: bytes that are written to the folder besides. Before anything is copied, it is seen to that there is room
            for everything.

    Raises:
        UserError: for a disk with too little space.
    """
    to_copy: list[tuple[Path, Path]] = []
    for path, name in _parts(base):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        real = path.resolve()  # the Hub's cache has links, of which a hard link would be another
        if path.suffix == ".safetensors":
            try:
                os.link(real, target)
                continue
            except OSError:  # another disk, or a file system without links
                pass
        to_copy.append((real, target))
    check_room(folder.parent, room + sum(real.stat().st_size for real, _ in to_copy))
    for real, target in to_copy:
        shutil.copyfile(real, target)


def tensor_bytes(tensors: Mapping[str, Tensor], plan: Mapping[str, tuple[str, Piece]]) -> dict[str, int]:
    """Parameter -> bytes that it takes on the disk."""
    return {name: tensors[key].nbytes // piece.of * len(piece.chunks) for name, (key, piece) in plan.items()}


def write_tensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    plan: Mapping[str, tuple[str, Piece]],
    progress: Progress | None = None,
) -> None:
    """Write a transformer's weights in shards of at most ``SHARD_BYTES``, in the source's types.

    What is a tensor of its own in the source is written from where it lies, which is the mapped file for most sources;
    the rest, a shard's at most, is copied into memory.

    Args:
        folder: of the transformer.
        tensors: the source's, by their authors' names.
        plan: parameter -> its source.
        progress: told how many parameters are written, 0 first, and of how many.

    Raises:
        SafetensorError: where the system refuses, see ``full_disk_told``.
    """
    sizes = tensor_bytes(tensors, plan)
    shards: list[list[str]] = [[]]
    for name, size in sizes.items():
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + size > SHARD_BYTES:
            shards.append([])
        shards[-1].append(name)
    places: dict[str, str] = {}
    if progress is not None:
        progress(0, len(plan))
    for number, names in enumerate(shards, 1):
        file = f"{STEM}.safetensors" if len(shards) == 1 else f"{STEM}-{number:05}-of-{len(shards):05}.safetensors"
        save_file(_shard(tensors, {name: plan[name] for name in names}), folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # the writer leaves it to its owner alone
        places |= dict.fromkeys(names, file)
        if progress is not None:
            progress(len(places), len(plan))
    if len(shards) > 1:
        total = {"total_size": sum(sizes.values())}
        write_json(folder / f"{STEM}.safetensors.index.json", {"metadata": total, "weight_map": places})


def _shard(tensors: Mapping[str, Tensor], plan: Mapping[str, tuple[str, Piece]]) -> dict[str, Tensor]:
    taken: dict[str, Tensor] = {}
    used: set[int] = set()
    for name, (key, piece) in plan.items():
        tensor = piece.take(tensors[key])
        storage = tensor.untyped_storage()
        # The format takes no two tensors of one storage, nor a tensor that is but a part of one.
        is_own = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes and storage.data_ptr() not in used
        taken[name] = tensor if is_own else tensor.clone(memory_format=torch.contiguous_format)
        used.add(taken[name].untyped_storage().data_ptr())
    return taken


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a configuration."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
