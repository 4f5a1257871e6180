"""What is to be curated, as somebody names it: folders, videos, patterns, and lists with captions.

| input                      | clips                                                                                            |
|----------------------------|--------------------------------------------------------------------------------------------------|
| a folder                   | every video below it, in the order of names; what is hidden (``.name``) is left alone            |
| a pattern (``*``, ``?``)   | the videos and lists that match; ``**`` goes through folders                                      |
| a video                    | itself                                                                                           |
| ``.json``                  | a list of tables, or of paths                                                                    |
| ``.jsonl``                 | one such a line                                                                                  |
| ``.csv``, ``.tsv``         | one a row; the first row names the columns                                                       |
| ``.parquet``               | one a row                                                                                        |

A table has ``video_path`` (or ``path``, ``video``, ``file``), perhaps ``caption`` (or ``text``), perhaps ``start_s`` and ``end_s``.
Relative paths are relative to the list. A video without a list has the caption in ``x.txt`` beside ``x.mp4``, or in
``labels/x.txt`` beside ``videos/``. A listed video that does not exist is a clip all the same: its row will say so.
"""

from __future__ import annotations

import csv
import glob
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from likeness.curate.types import ClipSource
from likeness.errors import UserError
from likeness.textfile import parse_json, read_text

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv",
)  # fmt: skip
LIST_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
_PATH_FIELDS = ("video_path", "path", "video", "file")
_CAPTION_FIELDS = ("caption", "text")
_SPAN_FIELDS = ("start_s", "end_s")
_FIELD_LIMIT = 10_000_000  # characters of a cell of a CSV file; captions may be long, the module's default is 131072

Progress = Callable[[int, int], None]  # videos done, videos in all


def read_sources(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    shots: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[ClipSource]:
    """All clips of some inputs, in their order; a clip that is named twice comes once.

    Args:
        shots: cut videos where the picture changes (see :mod:`likeness.curate.shots`); entries with a span stay as they are.
        workers: processes that look for shots.
        progress: told about videos in which shots were looked for.

    Raises:
        UserError: naming input and entry, for whatever is missing or of another form, and where there is no clip at all.
    """
    clips = {clip.key: clip for item in inputs for clip in _read(os.fspath(item))}
    if not clips:
        names = ", ".join(map(str, inputs)) or "no input"
        raise UserError(
            f"There are no clips in {names}. Give a folder with videos, or a list of video_path and caption."
        )
    if not shots:
        return list(clips.values())
    from likeness.curate.shots import cut_into_shots

    return cut_into_shots(list(clips.values()), workers=workers, progress=progress)


def _read(name: str) -> Iterator[ClipSource]:
    path = Path(name)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:  # a name that is too long
        raise UserError(f"The input {name!r:.200} is no path: {error}. Give a folder, a video or a list.") from error
    if is_folder:
        yield from map(_video, _videos_below(path))
    elif exists:
        yield from _read_file(path)
    elif glob.has_magic(name):
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            raise UserError(f"No file matches {name}. Check the folder and put the pattern in quotes.")
        for match in matches:
            if Path(match).suffix.lower() in VIDEO_SUFFIXES + LIST_SUFFIXES:
                yield from _read_file(Path(match))
    else:
        raise UserError(f"There is no file or folder {name}. Check the path.")


def _read_file(path: Path) -> Iterator[ClipSource]:
    suffix = path.suffix.lower()
    if path.is_dir():
        return  # one whose name ends like a video's; a pattern matched it
    if suffix in VIDEO_SUFFIXES:
        yield _video(path)
    elif suffix in LIST_SUFFIXES:
        for number, (entry, where) in enumerate(_entries(path, suffix), 1):
            yield _clip(entry, f"{path.name}, {where} {number}", path.parent)
    else:
        raise UserError(
            f"{path} is neither a video nor a list; a list is one of {', '.join(LIST_SUFFIXES)}, a video one of "
            f"{', '.join(VIDEO_SUFFIXES)}."
        )


# -------------------------------------------------------------------------------------------------- folders and videos


def _videos_below(folder: Path) -> list[Path]:
    found: list[Path] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UserError(
            f"The folder {error.filename} cannot be read: {error.strerror}. Check its permissions."
        ) from error

    for here, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(here)) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = (name for name in files if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES)
        found += [Path(here, name) for name in names]
    return sorted(found)


def _video(path: Path) -> ClipSource:
    path = path.absolute()
    places = [path.with_suffix(".txt")]
    if path.parent.name == "videos":
        places.append(path.parent.with_name("labels") / f"{path.stem}.txt")
    label = next((place for place in places if place.is_file()), None)
    caption = read_text(label).strip() if label else None
    return ClipSource(path=str(path), caption=caption or None, origin=path.name)


# --------------------------------------------------------------------------------------------------------------- lists


def _entries(path: Path, suffix: str) -> Iterator[tuple[Any, str]]:
    """The entries of a list, each with what it is called there."""
    if suffix == ".parquet":
        yield from ((row, "row") for row in _parquet_rows(path))
        return
    text = read_text(path)
    if suffix == ".json":
        entries = parse_json(text, str(path))
        if not isinstance(entries, list):
            raise UserError(f"{path} holds no list; clips are a list of {{video_path, caption}} or of paths.")
        yield from ((entry, "entry") for entry in entries)
    elif suffix == ".jsonl":
        lines = text.split("\n")
        while lines and not lines[-1].strip():
            lines.pop()
        yield from ((parse_json(line, f"{path.name}, line {number}"), "line") for number, line in enumerate(lines, 1))
    else:
        yield from ((row, "row") for row in _csv_rows(path, text, "\t" if suffix == ".tsv" else ","))


def _csv_rows(path: Path, text: str, delimiter: str) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(_FIELD_LIMIT)
    rows = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter, strict=True)
    try:
        columns = rows.fieldnames or []
        if not set(columns) & set(_PATH_FIELDS):
            raise UserError(
                f"{path}: its first row {', '.join(map(str, columns))!r:.200} names no column video_path. Let the first row name the "
                "columns: video_path,caption."
            )
        for row in rows:
            if None in row:
                raise UserError(f"{path.name}, line {rows.line_num}: more cells than columns. Put captions in quotes.")
            yield {name: value or None for name, value in row.items()}
    except csv.Error as error:
        raise UserError(f"{path.name}, line {rows.line_num}: not CSV ({error}). Write the file again.") from error


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"{path} needs the package pyarrow: pip install 'likeness[curate]'.") from error
    known = (*_PATH_FIELDS, *_CAPTION_FIELDS, *_SPAN_FIELDS)
    try:
        file = parquet.ParquetFile(path)
        columns = [name for name in known if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=columns):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}. Write it again.") from error


def _clip(entry: Any, where: str, folder: Path) -> ClipSource:
    if isinstance(entry, str):
        entry = {"video_path": entry}
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: {entry!r:.60} stands where a table of video_path and caption, or a path, is needed.")
    name = next((field for field in _PATH_FIELDS if entry.get(field) is not None), "video_path")
    path = entry.get(name)
    if not isinstance(path, str) or not path.strip():
        given = "is missing" if name not in entry else f"is {path!r:.60}"
        raise UserError(f"{where}: {name} {given}; it must be the path of a video.")
    start_s, end_s = (_seconds(entry, field, where) for field in _SPAN_FIELDS)
    if end_s is not None and end_s <= (start_s or 0.0):
        raise UserError(
            f"{where}: end_s {end_s:g} is not after start_s {start_s or 0:g}; both are seconds into the video."
        )
    return ClipSource(
        path=os.path.normpath(folder.absolute() / path.strip()),
        start_s=start_s or 0.0,
        end_s=end_s,
        caption=_caption(entry, where),
        origin=where,
    )


def _caption(entry: Mapping[str, Any], where: str) -> str | None:
    name = next((field for field in _CAPTION_FIELDS if entry.get(field) is not None), None)
    if name is None:
        return None
    caption = entry[name]
    if not isinstance(caption, str):
        raise UserError(f"{where}: {name} is {caption!r:.60}; it must be a text, or be left out.")
    return caption.strip() or None


def _seconds(entry: Mapping[str, Any], name: str, where: str) -> float | None:
    value = entry.get(name)
    if value is None:
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UserError(f"{where}: {name} is {value!r:.60}; it must be seconds into the video, 0 or more.")
    return seconds
