"""Folders that `likeness generate` wrote: the sidecars say what each video should show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from likeness.errors import UserError
from likeness.evaluate.locate import find_videos
from likeness.evaluate.types import Item
from likeness.media import sha256_file
from likeness.sidecar import read_sidecar

CANDIDATES_SUFFIX = "_candidates"  # of a folder with the seeds that a video was chosen from, if they were kept
_FAILURES = "failures.json"  # what a batch could not make


def read_run_folder(folder: Path) -> list[Item]:
    """A row for each sidecar, and for each job that failed; the id is the video's path without its suffix.

    People are told apart by the bytes of their photographs, so two runs from the same photographs have the same groups.

    Raises:
        UserError: no such folder, none that `likeness generate` wrote, or one with a video that has no sidecar.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} of videos. Give the folder that `likeness generate` wrote.")
    items: dict[str, Item] = {}
    for path in sorted(folder.rglob("*.json")):
        if _is_candidate(path, folder):
            continue
        if path.name == _FAILURES:
            items |= {item.id: item for item in _failed(path, folder)}
            continue
        try:
            record = read_sidecar(path)
        except UserError:
            continue  # other JSON may lie there: reports, lists
        item = _item(record, path, folder)
        items[item.id] = item
    if not items:
        raise UserError(
            f"The folder {folder} was not written by `likeness generate`: no video in it has a .json file beside it. Name "
            "what the videos should show with --benchmark."
        )
    _refuse_unknown(folder, items)
    return [items[id] for id in sorted(items)]


def _is_candidate(path: Path, folder: Path) -> bool:
    """One of several seeds, the best of which is a row already."""
    return any(part.endswith(CANDIDATES_SUFFIX) for part in path.relative_to(folder).parts[:-1])


def _refuse_unknown(folder: Path, items: Mapping[str, Item]) -> None:
    """A video of which nobody says what it should show would be left out in silence."""
    known = {item.video for item in items.values()}
    unknown = [path for path in find_videos(folder) if path not in known and not _is_candidate(path, folder)]
    if unknown:
        more = f", nor do {len(unknown) - 1} others" if len(unknown) > 1 else ""
        raise UserError(
            f"The video {unknown[0]} has no .json of `likeness generate` beside it that says its prompt and photographs{more}. "
            "Let `likeness generate` finish it, move it elsewhere, or say what all videos should show with --benchmark."
        )


def _item(record: dict[str, Any], path: Path, folder: Path) -> Item:
    try:
        video = path.with_name(record["video"])
        faces = [entry for entry in record["references"] if entry.get("kind", "face") == "face"]
        id = video.relative_to(folder).with_suffix("").as_posix()
        return Item(
            id=id,
            video=video,
            prompt=record["prompt"],
            references=tuple(path.parent / entry["path"] for entry in faces),
            people=tuple(range(len(faces))),
            group="+".join(entry["sha256"][:12] for entry in faces) or id,
            tags={
                "model": record["model_name"] or Path(record["model_path"]).name,
                "method": record["method"]["name"],
                "seed": str(record["settings"]["seed"]),
            },
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"The sidecar {path} lacks or has something that is not understood here: {error}. Was it made by another version?"
        ) from None


def _failed(path: Path, folder: Path) -> list[Item]:
    """Jobs of a batch that came to nothing: their videos are missing, and so they are told."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        items = []
        for entry in entries:
            video = path.with_name(entry["output"])
            references = tuple(Path(reference) for reference in entry["references"])
            known = [reference for reference in references if reference.is_file()]
            id = video.relative_to(folder).with_suffix("").as_posix()
            items.append(
                Item(
                    id=id,
                    video=video,
                    prompt=entry["prompt"],
                    references=tuple(known),
                    people=tuple(range(len(known))),
                    group="+".join(sha256_file(reference)[:12] for reference in known) or id,
                )
            )
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"The list of failed jobs {path} is damaged. Run `likeness generate` again, or remove it."
        ) from None
    return items
