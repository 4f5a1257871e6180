"""Which file is the video of which row.

There are three ways, tried in this order; the first that finds any video at all is used for the whole folder, so that no
row is given a video by a guess that the others did not need:

1. by name: the id of the row, or the name that the benchmark's own script gives it, with any video suffix, in any subfolder
   that the name says; or a folder of that name that holds a single video;
2. by sidecar: the ``.json`` beside a video that `likeness generate` made names the same prompt and the same photographs;
3. by number: the row's place in the benchmark, from 0, alone or before ``_`` or ``-`` (``7.mp4``, ``0007.mp4``,
   ``7_a_man_laughs/000000.mp4``).

A row for which the folder has no video is missing, and stays a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from likeness.errors import UserError
from likeness.evaluate.types import Item
from likeness.media import sha256_file
from likeness.sidecar import read_sidecar, sidecar_path

VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".gif", ".mpg", ".mpeg"))
_NUMBERED = re.compile(r"(\d{1,9})(?:[_\-. ].*)?")
_UNSAFE = re.compile(r"[^\w.\-]+")


@dataclass(frozen=True)
class Wanted:
    """A row of a benchmark whose video has not been looked for.

    Attributes:
        item: what should be there; ``item.video`` is not yet where it is.
        names: what the video may be called, without suffix and relative to the folder of videos.
    """

    item: Item
    names: tuple[str, ...]


def safe_id(text: str) -> str:
    """An id that can be a file's name, made as `likeness generate` makes names of keys."""
    return _UNSAFE.sub("_", text).strip("._") or "row"


def locate(rows: Sequence[Wanted], folder: Path) -> list[Item]:
    """Every row with the video that is its own, or with the place where it should be.

    Raises:
        UserError: no such folder, no video for any row, or several for one.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} of videos. Give the folder in which the videos lie.")
    videos = find_videos(folder)
    for way in (_by_name, _by_sidecar, _by_number):
        found = way(rows, videos, folder)
        if found:
            videos_of = {row.item.id: found.get(row.item.id, folder / f"{row.item.id}.mp4") for row in rows}
            return [replace(row.item, video=videos_of[row.item.id]) for row in rows]
    raise UserError(
        f"The folder {folder} holds no video of the benchmark's {len(rows)} rows (it has {len(videos)} videos). The video of "
        f"the first row would be called {rows[0].names[0]}.mp4, or 0.mp4 by its number, or have a .json beside it that "
        "names its prompt and photographs. Rename the videos, or check the folder."
    )


def find_videos(folder: Path) -> list[Path]:
    """All videos below a folder, sorted; hidden files are left out, those of a stopped run among them."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _by_name(rows: Sequence[Wanted], videos: Sequence[Path], folder: Path) -> dict[str, Path]:
    files: dict[str, list[Path]] = {}
    inside: dict[str, list[Path]] = {}  # of folders
    for video in videos:
        name = PurePosixPath(video.relative_to(folder).as_posix())
        files.setdefault(str(name.with_suffix("")), []).append(video)
        for parent in name.parents[:-1]:
            inside.setdefault(str(parent), []).append(video)
    found = {}
    for row in rows:
        for name in (*row.names, row.item.id):
            if among := files.get(name) or inside.get(name):
                found[row.item.id] = _only(among, f"called {name}", row)
                break
    return found


def _by_sidecar(rows: Sequence[Wanted], videos: Sequence[Path], folder: Path) -> dict[str, Path]:
    made: dict[tuple[str, tuple[str, ...]], list[Path]] = {}
    for video in videos:
        try:
            record = read_sidecar(sidecar_path(video))
            made.setdefault((_words(record["prompt"]), tuple(record["photographs"])), []).append(video)
        except (UserError, KeyError, TypeError):
            continue  # a video of another program's; it may have a .json of another kind
    found = {}
    if made:
        hashes = {path: sha256_file(path) for row in rows for path in row.item.references if path.is_file()}
        for row in rows:
            photographs = tuple(hashes.get(path, "") for path in row.item.references)
            if files := made.get((_words(row.item.prompt), photographs)):
                found[row.item.id] = _only(files, "with its prompt and photographs (of several seeds, perhaps)", row)
    return found


def _by_number(rows: Sequence[Wanted], videos: Sequence[Path], folder: Path) -> dict[str, Path]:
    numbered: dict[int, list[Path]] = {}
    for video in videos:
        top = PurePosixPath(video.relative_to(folder).as_posix()).parts[0]
        matched = _NUMBERED.fullmatch(top if top != video.name else video.stem)
        if matched:
            numbered.setdefault(int(matched[1]), []).append(video)
    if numbered and (last := max(numbered)) >= len(rows):
        raise UserError(
            f"The video {numbered[last][0]} has the number {last}, but the benchmark's {len(rows)} rows have the numbers 0 "
            f"to {len(rows) - 1}. Numbers count from 0: rename the videos, or check that they belong to this benchmark."
        )
    return {row.item.id: _only(numbered[n], f"numbered {n}", row) for n, row in enumerate(rows) if n in numbered}


def _only(files: Sequence[Path], told: str, row: Wanted) -> Path:
    if len(files) > 1 and len({sha256_file(path) for path in files}) > 1:
        raise UserError(
            f"The row {row.item.id} has {len(files)} videos {told}: {files[0]} and {files[1]}. A row has one; move the others "
            "to a folder of their own and evaluate it as another run."
        )
    return files[0]


def _words(text: str) -> str:
    return " ".join(text.split())
