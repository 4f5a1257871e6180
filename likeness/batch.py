"""Batch files: one file that lists many (photographs, prompt) pairs, in the formats the field already uses.

| format            | looks like                                                             | seen in            |
|-------------------|------------------------------------------------------------------------|--------------------|
| text, a line each | ``prompt@@photo[@@photo ...]``                                         | Concat-ID, Kaleido |
| text, a line each | ``key@@prompt@@photo[@@photo ...]``                                    | MAGREF             |
| ``.json``, a list | ``[{"caption": ..., "image_path": "a.png@@b.png", "video_path": ...}]`` | Concat-ID          |
| ``.json``, a dict | ``{"id": {"img_paths": [...], "prompt": ...}}``                        | OpenS2V-Eval       |
| ``.jsonl``        | one object of either kind a line, optionally with ``key`` and ``seed`` | here               |

How the two text forms are told apart: a field is a *photograph* when it ends in a picture suffix (`PICTURE_SUFFIXES`) or names an
existing file. The photographs come last; before them stands one field, the prompt, or two, the key and the prompt. A key is a single
word. Anything else is refused with the number of the line, because guessing would make a video of the wrong thing.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from likeness.errors import UserError
from likeness.method import ReferenceKind
from likeness.textfile import parse_json

PICTURE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif", ".jfif", ".ppm")
)
SEPARATOR = "@@"
MAX_BATCH_BYTES = 256 * 2**20  # far above any list of prompts, far below what would exhaust the memory
_KEY = re.compile(r"[^\s/\\]{1,128}")


@dataclass(frozen=True)
class BatchItem:
    """One video to be made.

    `where` is the place in the batch file, for messages ("people.txt line 3"); `references` may not exist: that is found out when the
    item's turn comes, so that one lost photograph does not stop the others. `kinds` says what each reference shows; faces where it is empty.
    """

    prompt: str
    references: tuple[Path, ...]
    where: str
    key: str | None = None
    seed: int | None = None
    kinds: tuple[ReferenceKind, ...] = ()


def read_batch(path: str | Path) -> list[BatchItem]:
    """All items of a batch file, in its order.

    Relative photograph paths are looked up beside the batch file first, then in the current folder.

    Raises `UserError` for a file that is missing, empty, not UTF-8 or not in one of the formats, naming the line or entry; and for a key
    that is given twice, since both videos would get the same name.
    """
    path = Path(path)
    text = _read_text(path)
    if path.suffix.lower() == ".jsonl":
        items = list(_json_lines(path, text))
    elif path.suffix.lower() == ".json":
        items = list(_json_document(path, text))
    else:
        items = list(_text_lines(path, text))
    if not items:
        raise UserError(f"{path}: the batch file lists nothing; write one 'prompt{SEPARATOR}photo' a line")
    _refuse_repeated_keys(items)
    return items


def parse_line(line: str, where: str, folder: Path) -> BatchItem:
    """One text line, by the rule at the top of this file. `folder` is where relative paths are looked up first."""
    fields = [field.strip() for field in line.split(SEPARATOR)]
    pictures = [_is_picture(field, folder) for field in fields]
    num_texts = next((i for i in reversed(range(len(fields))) if not pictures[i]), -1) + 1
    texts, photos = fields[:num_texts], fields[num_texts:]
    if not photos:
        raise UserError(
            f"{where}: no photograph at the end of {_shorten(line)}; write prompt{SEPARATOR}photo, with a picture suffix or the path "
            "of an existing file"
        )
    if not texts:
        raise UserError(f"{where}: photographs but no prompt in {_shorten(line)}; write prompt{SEPARATOR}photo")
    if any(pictures[:num_texts]):
        raise UserError(
            f"{where}: a photograph stands before the text in {_shorten(line)}; the order is [key{SEPARATOR}]prompt{SEPARATOR}photo"
        )
    if len(texts) > 2:
        raise UserError(
            f"{where}: {len(texts)} text fields before the photographs in {_shorten(line)}; at most a key and a prompt are allowed, and "
            f"a prompt cannot contain {SEPARATOR} (use a .jsonl file for that)"
        )
    if len(texts) == 2 and not _KEY.fullmatch(texts[0]):
        raise UserError(
            f"{where}: cannot tell whether {_shorten(texts[0])} is a key or {_shorten(texts[1])} a photograph; a key is one word, a "
            "photograph has a picture suffix or is an existing file"
        )
    if not texts[-1]:
        raise UserError(f"{where}: the prompt is empty; write what happens in the video before the {SEPARATOR}")
    key = texts[0] if len(texts) == 2 else None
    return BatchItem(texts[-1], tuple(_locate(photo, folder) for photo in photos), where, key)


def _text_lines(path: Path, text: str) -> Iterator[BatchItem]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield parse_line(line.strip(), f"{path.name} line {number}", path.parent)


def _json_lines(path: Path, text: str) -> Iterator[BatchItem]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path.name} line {number}"
            yield _entry(parse_json(line, where), where, path.parent)


def _json_document(path: Path, text: str) -> Iterator[BatchItem]:
    document = parse_json(text, path.name)
    if isinstance(document, list):
        for number, entry in enumerate(document, 1):
            yield _entry(entry, f"{path.name} entry {number}", path.parent)
    elif isinstance(document, dict):
        for key, entry in document.items():
            yield _entry(entry, f"{path.name} entry {key!r}", path.parent, key=key)
    else:
        raise UserError(
            f'{path}: neither a list of {{"caption", "image_path"}} nor a dictionary of {{"img_paths", "prompt"}}'
        )


def _entry(entry: Any, where: str, folder: Path, key: str | None = None) -> BatchItem:
    """One JSON object; the field names of Concat-ID and of OpenS2V-Eval are both understood, further fields are left alone."""
    if not isinstance(entry, dict):
        raise UserError(
            f"{where}: a JSON object with a prompt and photographs is expected, not {_shorten(json.dumps(entry))}"
        )
    prompt = _first(entry, ("prompt", "caption"))
    photos = _first(entry, ("img_paths", "image_path", "references"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f'{where}: no text under "prompt" or "caption"; write what happens in the video')
    if isinstance(photos, str):
        photos = photos.split(SEPARATOR)
    if (
        not isinstance(photos, list)
        or not photos
        or not all(isinstance(photo, str) and photo.strip() for photo in photos)
    ):
        raise UserError(
            f'{where}: no photographs under "img_paths" or "image_path"; give one path, or several joined by {SEPARATOR}'
        )
    key = entry.get("key", key)
    if key is not None and not isinstance(key, str):
        raise UserError(f'{where}: "key" must be a text, not {_shorten(json.dumps(key))}')
    seed = entry.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise UserError(f'{where}: "seed" must be a whole number, not {_shorten(json.dumps(seed))}')
    return BatchItem(prompt.strip(), tuple(_locate(photo.strip(), folder) for photo in photos), where, key, seed)


def _first(entry: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((entry[name] for name in names if name in entry), None)


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; --batch takes a .txt, .json or .jsonl file")
        if path.stat().st_size > MAX_BATCH_BYTES:
            raise UserError(
                f"{path} is larger than {MAX_BATCH_BYTES // 2**20} MiB, too large for a batch file; split it"
            )
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no batch file {path}; check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a UTF-8 text file; save the batch file as UTF-8") from None
    except OSError as error:
        raise UserError(
            f"cannot read the batch file {path} ({error.strerror}); check the path and its permissions"
        ) from None


def _is_picture(field: str, folder: Path) -> bool:
    if not field:
        return False
    return Path(field).suffix.lower() in PICTURE_SUFFIXES or is_file(folder / field) or is_file(Path(field))


def _locate(photo: str, folder: Path) -> Path:
    beside = folder / photo
    return Path(photo) if not is_file(beside) and is_file(Path(photo)) else beside


def is_file(path: Path) -> bool:
    """Whether the path names a file; a text that is no possible path (too long, a NUL inside) names none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _refuse_repeated_keys(items: list[BatchItem]) -> None:
    seen: dict[str, BatchItem] = {}
    for item in items:
        if item.key is None:
            continue
        if item.key in seen:
            raise UserError(
                f"{item.where}: the key {item.key!r} was used before at {seen[item.key].where}; keys name the videos, make it unique"
            )
        seen[item.key] = item


def _shorten(text: str, limit: int = 60) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
