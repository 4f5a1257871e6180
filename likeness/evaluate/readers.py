"""Benchmarks as their authors lay them out, and our own folders of results: rows of what should be there.

| layout            | looks like                                                                              |
|-------------------|-----------------------------------------------------------------------------------------|
| ConsisID-Benchmark | a folder with ``video_caption_eval_old.csv`` and pictures ``7_group_woman_Name_2.png``  |
| Concat-ID         | a text file of ``prompt@@photo`` lines, or a JSON list of ``{caption, image_path}``      |
| OpenS2V-Eval      | a JSON dictionary of ``id: {img_paths, prompt, class_label}``                           |
| VIP-200K's tests  | a folder of ``id001/`` with ``image.png`` and ``prompt1.txt`` ... (or ``testset/`` of it) |
| ours              | JSON lines of ``{key, prompt, references, people, identity, tags}``; a folder of results |

Where the video of a row is sought: see :mod:`likeness.evaluate.locate`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from likeness.batch import PICTURE_SUFFIXES, BatchItem, read_batch
from likeness.errors import UserError
from likeness.evaluate.locate import Wanted, locate, safe_id
from likeness.evaluate.run_folder import read_run_folder
from likeness.evaluate.types import Item
from likeness.media import atomic_write, sha256_bytes
from likeness.sidecar import portable_path
from likeness.textfile import read_text

LAYOUTS = (
    "ConsisID-Benchmark (a folder with video_caption_eval_old.csv and pictures), Concat-ID (a .txt file of prompt@@photo "
    "lines, or a .json list of {caption, image_path}), OpenS2V-Eval (a .json file of id: {img_paths, prompt}), VIP-200K's "
    "test set (a folder of id001/image.png and id001/prompt1.txt), or JSON lines of {key, prompt, references}; a folder "
    "that `likeness generate` wrote needs no --benchmark"
)
_CONSISID_COLUMNS = {"index", "Class", "Refined_man", "Refined_woman"}
_PERSON = re.compile(r"man|woman|boy|girl|person|people|human|face|baby|male|female", re.IGNORECASE)
_PERSON_FOLDER = re.compile(r"(crop_)?(man|woman)")


def read_benchmark(benchmark: Path | None, videos: Path, *, same_person: bool = False) -> list[Item]:
    """Every row of a benchmark with the place of its video.

    Args:
        benchmark: a file or a folder in one of the layouts above; None: ``videos`` is a folder of our own results.
        videos: the folder of the videos.
        same_person: several references of a row are photographs of one person, where the benchmark does not say so.

    Raises:
        UserError: no layout that is known, a file that is damaged, or videos that cannot be told apart.
    """
    if benchmark is None:
        items = read_run_folder(videos)
        return [replace(item, people=_people(item.references, True)) for item in items] if same_person else items
    return locate(read_rows(benchmark, same_person=same_person), videos)


def read_rows(benchmark: Path, *, same_person: bool = False) -> list[Wanted]:
    """The rows of a benchmark, before their videos are looked for; ids are unique.

    Raises:
        UserError: as :func:`read_benchmark`.
    """
    if benchmark.is_dir():
        rows = _read_folder(benchmark, same_person)
    elif not benchmark.exists():
        raise UserError(f"There is no benchmark {benchmark}. Check the path. Known are: {LAYOUTS}.")
    elif benchmark.suffix.lower() == ".csv":
        rows = _consisid(benchmark)
    elif benchmark.suffix.lower() in (".txt", ".json", ".jsonl"):
        rows = _listed(benchmark, same_person)
    else:
        raise _unknown(benchmark)
    seen: set[str] = set()
    for row in rows:
        if row.item.id in seen:
            raise UserError(f"The id {row.item.id} comes twice in {benchmark}. Ids name the rows; make them unique.")
        seen.add(row.item.id)
    return rows


def write_batch(rows: Sequence[Wanted], path: Path) -> None:
    """Write rows as JSON lines: a batch for `likeness generate`, and a benchmark for `likeness evaluate`.

    Raises:
        UserError: a name that does not end in .jsonl, or a file that cannot be written.
    """
    if path.suffix.lower() != ".jsonl":
        raise UserError(f"The batch file {path} is written as JSON lines: its name must end in .jsonl.")
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for item in (row.item for row in rows):
            entry = {
                "key": item.id,
                "prompt": item.prompt,
                "references": [portable_path(reference, path) for reference in item.references],
                "people": item.people,
                "identity": item.group,
                "tags": dict(item.tags),
            }
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def one_a_category(rows: Sequence[Wanted]) -> list[Wanted]:
    """Of each identity's pictures one row for each category, as Concat-ID's 873 pairs are made (section 5.1).

    Which one follows from the row's own name, so the choice is the same everywhere; the paper's own draw is not published.

    Raises:
        UserError: rows without categories.
    """
    chosen: dict[tuple[tuple[Path, ...], str], str] = {}
    for item in sorted((row.item for row in rows), key=lambda item: sha256_bytes(item.id.encode())):
        if "category" not in item.tags:
            raise UserError(f"The row {item.id} has no category, so one a category cannot be chosen.")
        chosen.setdefault((item.references, item.tags["category"]), item.id)
    kept = set(chosen.values())
    return [row for row in rows if row.item.id in kept]


def _unknown(benchmark: Path) -> UserError:
    return UserError(f"{benchmark} is no benchmark whose layout is known. Known are: {LAYOUTS}.")


def _wanted(
    id: str,
    prompt: str,
    references: tuple[Path, ...],
    people: tuple[int, ...],
    group: str,
    names: tuple[str, ...],
    tags: dict[str, str],
) -> Wanted:
    id = safe_id(id)
    item = Item(
        id=id,
        video=Path(f"{id}.mp4"),
        prompt=prompt,
        references=references,
        people=people,
        group=group,
        tags=tags,
    )
    return Wanted(item, names)


def _people(references: Sequence[Path], same_person: bool) -> tuple[int, ...]:
    return tuple(0 if same_person else place for place in range(len(references)))


def _read_folder(folder: Path, same_person: bool) -> list[Wanted]:
    tables = [path for path in sorted(folder.glob("*.csv")) if set(_header(path)) >= _CONSISID_COLUMNS]
    if tables:
        return _consisid(next((path for path in tables if path.name == "video_caption_eval_old.csv"), tables[0]))
    root = folder / "testset" if (folder / "testset").is_dir() else folder
    if any(root.glob("*/prompt*.txt")):
        return _vip(root)
    lists = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".json", ".jsonl") and _is_list(path)]
    if len(lists) > 1:
        names = ", ".join(path.name for path in lists)
        raise UserError(f"The folder {folder} has {len(lists)} lists ({names}). Name one of them as --benchmark.")
    if not lists:
        raise _unknown(folder)
    return _listed(lists[0], same_person)


# ------------------------------------------------------------------------------------------------- ConsisID-Benchmark


def _header(table: Path) -> list[str]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _consisid(table: Path) -> list[Wanted]:
    """Every picture with every prompt, as the official script does, in the order of the pictures' numbers."""
    if not set(_header(table)) >= _CONSISID_COLUMNS:
        raise UserError(
            f"{table} has not the columns {', '.join(sorted(_CONSISID_COLUMNS))} of ConsisID-Benchmark. Known are: {LAYOUTS}."
        )
    with table.open(encoding="utf-8-sig", newline="") as file:
        prompts = list(csv.DictReader(file))
    pictures = _consisid_pictures(table.parent)
    if not prompts or not pictures:
        what = "no prompts" if not prompts else "no pictures named like 7_group_woman_2.png below it"
        raise UserError(f"The benchmark {table} has {what}. Copy the whole benchmark again.")
    rows = []
    for picture, token, identity in pictures:
        for prompt in prompts:
            index = prompt["index"].strip()
            # The official script writes the category for {class_token}: "a celebration is walking".
            text = (prompt[f"Refined_{token}"] or "").replace("{class_token}", token).strip()
            tags = {"class": token, "category": prompt["Class"].strip()}
            names = (f"{picture.name}--{index}", f"{picture.stem}--{index}")
            rows.append(_wanted(names[1], text, (picture,), (0,), identity, names, tags))
    return rows


def _consisid_pictures(folder: Path) -> list[tuple[Path, str, str]]:
    """Picture, "man" or "woman", identity: the name where the file has one, else the file itself."""
    found = []
    for path in folder.rglob("*"):
        parts = path.stem.split("_")
        if path.suffix.lower() not in PICTURE_SUFFIXES or not parts[0].isdigit():
            continue
        token = next((word for word in ("woman", "man") if word in parts[1:]), None)
        if token is None:
            raise UserError(f"The picture {path} says neither man nor woman; names are like 7_group_woman_Name_2.png.")
        name = [part for part in parts[parts.index(token) + 1 :] if not part.isdigit()]
        found.append((path, token, "_".join(name) if name else path.stem))
    return sorted(found, key=lambda entry: (int(entry[0].stem.split("_")[0]), entry[0].name))


# ----------------------------------------------------------------------------------------------------------- VIP-200K


def _vip(root: Path) -> list[Wanted]:
    rows = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        prompts = sorted(folder.glob("prompt*.txt"), key=lambda path: (len(path.stem), path.stem))
        if not prompts:
            continue
        pictures = tuple(sorted(path for path in folder.glob("image*") if path.suffix.lower() in PICTURE_SUFFIXES))
        if not pictures:
            raise UserError(f"{folder} has prompts but no image.png. Copy the benchmark again.")
        for prompt in prompts:
            text = " ".join(read_text(prompt, f"The benchmark's prompt {prompt}").split())
            names = (f"{folder.name}/{prompt.stem}", f"{folder.name}_{prompt.stem}")
            rows.append(_wanted(names[1], text, pictures, _people(pictures, True), folder.name, names, {}))
    return rows


# --------------------------------------------------------------------------------- Concat-ID, OpenS2V-Eval, JSON lines


def _is_list(path: Path) -> bool:
    """Whether a file in a folder is a list of rows rather than some other JSON."""
    try:
        entries = _entries(path)
    except UserError:
        return False
    return bool(entries) and {"prompt", "caption"} & set(entries[0]) != set()


def _listed(path: Path, same_person: bool) -> list[Wanted]:
    entries: list[dict[str, Any]] = []
    if path.suffix.lower() != ".txt":
        entries = _entries(path)
    batch = read_batch(path)
    if not entries:
        entries = [{}] * len(batch)
    return [
        _row(number, item, entry, path, same_person)
        for number, (item, entry) in enumerate(zip(batch, entries, strict=True))
    ]


def _entries(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON list, dictionary or JSON lines, in the order of :func:`likeness.batch.read_batch`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".jsonl":
            entries = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            document = json.loads(text)
            entries = list(document.values()) if isinstance(document, dict) else document
    except (OSError, UnicodeDecodeError, ValueError, RecursionError):
        raise UserError(f"{path} cannot be read as JSON. Known are: {LAYOUTS}.") from None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise _unknown(path)
    return entries


def _row(number: int, item: BatchItem, entry: dict[str, Any], path: Path, same_person: bool) -> Wanted:
    shown = _shows_people(item.references, entry)
    references = tuple(reference for reference, is_person in zip(item.references, shown, strict=True) if is_person)
    expected = entry.get("video_path")
    name = Path(expected).with_suffix("").as_posix() if isinstance(expected, str) and expected else None
    people = entry.get("people", _people(references, same_person))
    if not isinstance(people, list | tuple) or len(people) != len(references) or set(map(type, people)) - {int}:
        raise UserError(
            f'{item.where}: "people" must be a list of one number a reference: [0, 0] for two photographs of one person'
        )
    tags = {str(tag): str(value) for tag, value in dict(entry.get("tags", {})).items()}
    if item.key and "img_paths" in entry:
        tags |= {"category": re.sub(r"_?\d+$", "", item.key)}
    id = item.key or name or f"{number:04d}"
    group = entry.get("identity") or "+".join(portable_path(reference, path) for reference in references) or id
    names = (name, id) if name else (id,)
    return _wanted(id, item.prompt, references, tuple(people), str(group), names, tags)


def _shows_people(references: Sequence[Path], entry: dict[str, Any]) -> list[bool]:
    """Which references show people: OpenS2V-Eval has objects and places among them, and says so by label or folder."""
    labels = entry.get("class_label")
    if isinstance(labels, list) and len(labels) == len(references):
        return [_PERSON.search(str(label)) is not None for label in labels]
    by_folder = [any(_PERSON_FOLDER.fullmatch(part) for part in reference.parts[:-1]) for reference in references]
    return by_folder if any(by_folder) and "img_paths" in entry else [True] * len(references)
