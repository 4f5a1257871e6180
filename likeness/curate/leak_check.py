"""Checking a dataset against a benchmark: the table of leaks, sheets of faces side by side, and the pairs without them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from likeness.curate.benchmark import Benchmark, read_benchmark
from likeness.curate.face_table import FaceTable, read_faces
from likeness.curate.leak_table import LEAKS, leaked_clips
from likeness.curate.leaks import Direction, Leaks, find_leaks, write_leaks
from likeness.curate.record import Dataset, locked, read_table
from likeness.curate.run import Summary, model_hashes, settle
from likeness.curate.verdicts import CLIPS, FACES
from likeness.errors import UserError
from likeness.faces.canvas import REFERENCE_CROP_PX
from likeness.faces.pack import FacePack
from likeness.media import read_picture, write_picture
from likeness.sheet import grid

SHEETS = "leaks"
PER_SHEET, COLUMNS = 24, 3  # pairs of faces


@dataclass(frozen=True, kw_only=True)
class LeakSummary:
    """What a check found.

    Attributes:
        pictures: of the benchmark.
        without_face: pictures in which no face was found; look at them yourself.
        identities: of the benchmark.
        leaked: identities who are in the training data.
        clips: training clips that show them.
        direction: which side they were taken out of.
        table: ``leaks.parquet``.
        sheets: pictures to look at, the most similar faces first.
        decided: what became of the clips, if others are taken out than before; else None.
    """

    pictures: int
    without_face: tuple[str, ...]
    identities: int
    leaked: tuple[str, ...]
    clips: int
    direction: Direction
    table: Path
    sheets: tuple[Path, ...]
    decided: Summary | None


def check_leaks(
    dataset: str | os.PathLike[str],
    benchmark: str | os.PathLike[str],
    direction: Direction = "benchmark",
    *,
    also: Sequence[str] = (),
    workers: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> LeakSummary:
    """Find the people of a benchmark in a dataset and take them out, of one or the other.

    Args:
        dataset: folder of a curation.
        benchmark: folder of pictures; see :mod:`likeness.curate.benchmark` for how people are told apart.
        direction: "benchmark" marks identities that are not to be measured with; "training" drops clips, with the reason "leak".
        also: identities that somebody recognised on the sheets.
        workers: of :func:`~likeness.curate.run.decide_again`, where clips are dropped or come back.
        on_progress: called with the number of pictures that were looked at and of all.

    Raises:
        UserError: no dataset, no pictures, face models that changed since the clips were measured or have no recogniser, an
            unknown direction or identity.
    """
    if direction not in get_args(Direction):
        raise UserError(f"The direction {direction!r} is not known; it is one of {', '.join(get_args(Direction))}.")
    with locked(dataset) as folder:
        opened = Dataset.open(folder)
        _check_models(opened)
        people = read_benchmark(Path(benchmark), FacePack.load(opened.faces), on_progress)
        faces = read_faces(folder)
        leaks = find_leaks(faces, people, opened.config.pairing.leak, also)
        before = leaked_clips(folder).keys()
        write_leaks(folder, leaks, faces, people, direction)
        sheets = write_sheets(folder, leaks, faces, people)
        changed = before != leaked_clips(folder).keys()
        decided = settle(opened, opened.current(), workers=workers) if changed else None
    names = np.array(people.identities)
    return LeakSummary(
        pictures=len(names),
        without_face=tuple(np.array(people.pictures)[~people.has_face].tolist()),
        identities=len(np.unique(names)),
        leaked=tuple(np.unique(names[leaks.leaked]).tolist()),
        clips=len(leaks.clip),
        direction=direction,
        table=folder / LEAKS,
        sheets=sheets,
        decided=decided,
    )


def _check_models(dataset: Dataset) -> None:
    now = model_hashes(Path(dataset.faces), dataset.config.measuring)
    for name, value in dataset.basis.models.items():
        if name.startswith("faces/") and now.get(name) != value:
            raise UserError(
                f"The face models in {dataset.faces} have changed since the clips of {dataset.folder} were measured ({name}); "
                "cosines of different models mean nothing. Put the old ones back, or curate into a new folder."
            )


def write_sheets(folder: Path, leaks: Leaks, faces: FaceTable, benchmark: Benchmark) -> tuple[Path, ...]:
    """Write ``leaks/001.png`` and so on: each benchmark picture beside the most similar training face, the most similar first.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    crops = read_table(folder / FACES, ["crop"]).column("crop")
    clips = read_table(folder / CLIPS, ["path"]).column("path")
    shown = np.argsort(-np.nan_to_num(leaks.cosine, nan=-2.0), kind="stable")
    written = []
    for start in range(0, len(shown), PER_SHEET):
        cells, labels = [], []
        for number in shown[start : start + PER_SHEET].tolist():
            row = int(leaks.nearest[number])
            cells.append(benchmark.portraits[number])
            labels.append(f"{benchmark.identities[number]}\n{Path(benchmark.pictures[number]).name}")
            if row < 0:
                cells.append(_BLANK)
                labels.append("no face was found" if not benchmark.has_face[number] else "nothing to compare with")
            else:
                cells.append(_crop(folder / crops[row].as_py()))
                leaked = " LEAKS" if leaks.leaked[number] else ""
                labels.append(f"{leaks.cosine[number]:.3f}{leaked}\n{Path(clips[int(faces.clip[row])].as_py()).name}")
        path = folder / SHEETS / f"{len(written) + 1:03d}.png"
        write_picture(path, grid(cells, 2 * COLUMNS, labels))
        written.append(path)
    for path in set((folder / SHEETS).glob("[0-9]*.png")) - set(written):
        path.unlink()  # of an earlier check
    return tuple(written)


_BLANK = np.full((REFERENCE_CROP_PX, REFERENCE_CROP_PX, 3), 225, np.uint8)


def _crop(path: Path) -> np.ndarray:
    """A training face; blank where the file is gone."""
    try:
        return read_picture(path)
    except UserError:
        return _BLANK
