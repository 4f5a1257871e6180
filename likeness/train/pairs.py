"""Training pairs: a clip, what is said of it, and the references that it should be made from.

| source           | looks like                                                                            |
|------------------|---------------------------------------------------------------------------------------|
| ``.json``        | Concat-ID's list ``[{"video_path", "caption", "image_path"}]``                        |
| ``.jsonl``       | one such object a line                                                                |
| ``.parquet``     | such columns                                                                          |
| a folder         | ``videos/x.mp4`` + ``labels/x.txt`` + ``images/x.png``, or a ``metadata.json`` in it  |

Optional fields are ``mask_path`` (where errors count), ``kinds`` (what each reference shows) and ``faces_path`` (where the faces
are). Several references are joined by ``@@``; relative paths are relative to the file. Whether files exist is found out when a pair's
turn comes, so that one lost clip among a million stops nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from likeness.errors import UserError
from likeness.method import ReferenceKind
from likeness.textfile import parse_json, read_text

SEPARATOR = "@@"
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_FIELDS = ("video_path", "caption", "image_path", "mask_path", "faces_path", "kinds")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A training pair.

    Attributes:
        video: the clip.
        caption: what happens in it.
        references: pictures of who or what is in it, faces as curation cuts them out (``likeness.faces.canvas``).
        mask: picture or clip that is bright where errors count; None counts all alike.
        kinds: what each reference shows.
        faces: safetensors or npz file with ``keypoints`` ``float32 [M, F, 5, 2]``, px of the clip's own frames, NaN where not seen;
            one row a reference of the kind "face". None where nobody looked.
        source: file and entry, for messages.
    """

    video: Path
    caption: str
    references: tuple[Path, ...]
    mask: Path | None = None
    kinds: tuple[ReferenceKind, ...] = ()
    faces: Path | None = None
    source: str

    def __post_init__(self) -> None:
        kinds = self.kinds or ("face",) * len(self.references)
        object.__setattr__(self, "kinds", kinds)
        if len(kinds) != len(self.references):
            raise UserError(f"{self.source}: {len(kinds)} kinds for {len(self.references)} references; give one each.")
        if unknown := [kind for kind in kinds if kind not in get_args(ReferenceKind)]:
            raise UserError(
                f"{self.source}: the kind {unknown[0]!r} is not known; a reference is one of "
                f"{', '.join(get_args(ReferenceKind))}."
            )


def read_pairs(sources: Sequence[Path]) -> list[Pair]:
    """All pairs of some files and folders, in their order.

    Raises:
        UserError: naming file, entry and field, for whatever is missing or of another form.
    """
    pairs = [pair for source in sources for pair in _read(Path(source))]
    if not pairs:
        names = ", ".join(map(str, sources)) or "no file"
        raise UserError(f"There are no pairs in {names}. Give a list of video_path, caption and image_path.")
    return pairs


def _read(path: Path) -> Iterator[Pair]:
    suffix = path.suffix.lower()
    if path.is_dir():
        yield from _read_folder(path)
    elif not path.exists():
        raise UserError(f"There is no file {path} with training pairs. Check the path.")
    elif suffix == ".json":
        entries = parse_json(read_text(path), str(path))
        if not isinstance(entries, list):
            raise UserError(f"{path} holds no list; training pairs are a list of {{video_path, caption, image_path}}.")
        for number, entry in enumerate(entries, 1):
            yield _pair(entry, f"{path.name}, entry {number}", path.parent)
    elif suffix == ".jsonl":
        for number, line in enumerate(read_text(path).split("\n"), 1):
            if line.strip():
                where = f"{path.name}, line {number}"
                yield _pair(parse_json(line, where), where, path.parent)
    elif suffix == ".parquet":
        yield from _read_parquet(path)
    else:
        raise UserError(f"{path} is no list of training pairs; give a .json, .jsonl or .parquet file, or a folder.")


def _read_parquet(path: Path) -> Iterator[Pair]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"{path} needs the package pyarrow: pip install 'likeness[train]'.") from error
    try:
        file = parquet.ParquetFile(path)
        columns = [name for name in _FIELDS if name in file.schema_arrow.names]
        number = 0
        for rows in file.iter_batches(columns=columns):
            for entry in rows.to_pylist():
                number += 1
                given = {name: value for name, value in entry.items() if value is not None}
                yield _pair(given, f"{path.name}, row {number}", path.parent)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}. Write it again.") from error


def _read_folder(folder: Path) -> Iterator[Pair]:
    if (folder / "metadata.json").is_file():
        yield from _read(folder / "metadata.json")
        return
    if not (folder / "videos").is_dir():
        raise UserError(
            f"The folder {folder} holds neither metadata.json nor videos/, labels/ and images/. Name the list of pairs."
        )
    clips = sorted(path for path in (folder / "videos").iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    for clip in clips:
        where = f"{folder.name}/videos/{clip.name}"
        label = folder / "labels" / f"{clip.stem}.txt"
        if not label.is_file():
            raise UserError(f"{where}: its caption labels/{label.name} is missing.")
        picture = _beside(folder / "images", clip.stem, PICTURE_SUFFIXES)
        if picture is None:
            raise UserError(f"{where}: its reference images/{clip.stem}.png is missing.")
        mask = _beside(folder / "masks", clip.stem, PICTURE_SUFFIXES + VIDEO_SUFFIXES)
        entry = {"video_path": str(clip), "caption": read_text(label), "image_path": [str(picture)]}
        if mask is not None:
            entry["mask_path"] = str(mask)
        yield _pair(entry, where, Path())


def _beside(folder: Path, stem: str, suffixes: Sequence[str]) -> Path | None:
    return next((path for suffix in suffixes if (path := folder / f"{stem}{suffix}").is_file()), None)


def _pair(entry: Any, where: str, folder: Path) -> Pair:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: {entry!r:.60} stands where a table of video_path, caption and image_path is needed.")
    faces, mask = _optional(entry, "faces_path", where), _optional(entry, "mask_path", where)
    return Pair(
        video=folder / _text(entry, "video_path", where),
        caption=_text(entry, "caption", where),
        references=tuple(folder / name for name in _texts(entry, "image_path", where)),
        mask=None if mask is None else folder / mask,
        kinds=tuple(_texts(entry, "kinds", where)) if entry.get("kinds") else (),  # pyright: ignore[reportArgumentType]
        faces=None if faces is None else folder / faces,
        source=where,
    )


def _text(entry: Mapping[str, Any], name: str, where: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip():
        given = "is missing" if name not in entry else f"is {value!r:.60}"
        raise UserError(f"{where}: {name} {given}; it must be a text that is not empty.")
    return value.strip()


def _optional(entry: Mapping[str, Any], name: str, where: str) -> str | None:
    return None if entry.get(name) in (None, "") else _text(entry, name, where)


def _texts(entry: Mapping[str, Any], name: str, where: str) -> list[str]:
    """A list of texts, or one text of several joined by the separator."""
    value = entry.get(name)
    values = value.split(SEPARATOR) if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(v, str) and v.strip() for v in values):
        given = "is missing" if name not in entry else f"is {value!r:.60}"
        raise UserError(f"{where}: {name} {given}; it must be one text, or several joined by {SEPARATOR}.")
    return [text.strip() for text in values]
