"""Pairs of a clip and the reference pictures that it should be made from.

| pairs       | people | the reference is                                                        | Concat-ID      |
|-------------|--------|-------------------------------------------------------------------------|----------------|
| pretraining | 1-3    | the clip's own, each of five in turn                                    | 4.2, B.1       |
| cross       | 1      | another clip's, uniformly random in ``0.7 <= cos < 0.9``                | 4.2            |
| tradeoff    | 1      | another clip's, the least similar in ``0.9 <= cos < 0.99``              | 4.2            |
| cross       | 2, 3   | for each person another clip's, random in ``0.87 <= cos <= 0.97``       | B.1            |

Clips are compared by the first picture of each person. A person of one is paired with clips of one person, as the paper does;
people of several with everybody (open in the paper). "Ranges between 0.87 and 0.97" is read with both ends; the bands of one
person are written half-open in the paper. Of three people two need a partner, of two both; who has none keeps the clip's own
first picture (open in the paper), marked by a cosine that is missing.

People stand from left to right by their mean horizontal position. A picture of a clip with several people is discarded if its
face lies elsewhere in that order than its person (B.1): if it is not right of the mean positions of all who stand left of the
person, or not left of those right of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa

from likeness.curate.bands import Band, Picks
from likeness.curate.config import Pairing
from likeness.curate.face_table import FaceTable, read_faces
from likeness.curate.mining import mine
from likeness.curate.record import read_table, write_table
from likeness.curate.tables import PAIRS
from likeness.curate.types import PairKind
from likeness.curate.verdicts import CLIPS


@dataclass(frozen=True, kw_only=True, eq=False)
class PairTable:
    """Pairs of one kind, in the order of their clips.

    Attributes:
        clip: ``int64 [R]``, the clip that is to be made.
        references: ``int64 [R, P]``, rows of the faces that it is made from, left to right; -1 beyond the people of the clip.
        cosines: ``float64 [R, P]``, of each to the clip's own first picture of the person; NaN for the clip's own pictures.
        same_source: ``bool [R]``, whether one of the references is from another clip of the same source video.
    """

    clip: np.ndarray
    references: np.ndarray
    cosines: np.ndarray
    same_source: np.ndarray

    def __len__(self) -> int:
        return len(self.clip)

    def to_arrow(self, kind: PairKind) -> pa.Table:
        """As written to Parquet: lists as long as there are people, null for no cosine."""
        there = self.references >= 0
        offsets = pa.array(np.concatenate([[0], np.cumsum(there.sum(1))]).astype(np.int32))
        cosines = pa.array(self.cosines[there], from_pandas=True)
        columns = [
            pa.array(np.full(len(self), kind), pa.string()), pa.array(self.clip),
            pa.ListArray.from_arrays(offsets, pa.array(self.references[there])),
            pa.ListArray.from_arrays(offsets, cosines), pa.array(self.same_source),
            pa.array([""] * len(self), pa.string()), pa.nulls(len(self), pa.float64()), pa.nulls(len(self), pa.float64()),
        ]  # fmt: skip
        return pa.table(columns, schema=PAIRS)


def build_pairs(
    faces: FaceTable,
    config: Pairing,
    *,
    without: np.ndarray | None = None,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[PairKind, PairTable]:
    """All pairs of a dataset.

    Args:
        faces: the candidates of the clips that are kept. Without embeddings there are only pre-training pairs.
        config: bands and seed.
        without: ``int64``, clips that take no part in any pair.
        workers: threads that compare; the result does not depend on it.
        on_progress: as of :func:`~likeness.curate.mining.mine`.

    Raises:
        UserError: an embedding that is zero or not finite.
    """
    people = _people(faces, np.zeros(0, np.int64) if without is None else without)
    own = [_own(group) for group in people]
    made: dict[PairKind, list[PairTable]] = {"pretraining": own, "cross": [], "tradeoff": []}
    if faces.embeddings.shape[1] and people:
        for kind, tables in _mined(faces, people, config, workers, on_progress).items():
            made[kind] = tables
    return {kind: _joined(tables) for kind, tables in made.items()}


def pair_dataset(
    folder: Path, config: Pairing, *, workers: int = 1, on_progress: Callable[[int, int], None] | None = None
) -> dict[str, int]:
    """Make the pairs of a dataset anew, without the clips that leak; returns how many there are of each kind.

    Raises:
        CheckpointError: a table is lost or damaged.
        UserError: as :func:`build_pairs` and :func:`write_pairs`.
    """
    statuses = read_table(folder / CLIPS, ["status"]).column("status").to_pylist()
    faces, leaked = read_faces(folder), np.array([n for n, status in enumerate(statuses) if status != "ok"], np.int64)
    return write_pairs(folder, build_pairs(faces, config, without=leaked, workers=workers, on_progress=on_progress))


def write_pairs(folder: Path, pairs: Mapping[PairKind, PairTable]) -> dict[str, int]:
    """Write ``pairs/{kind}.parquet`` in the folder of a dataset; returns how many there are of each kind.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    for kind in get_args(PairKind):
        write_table(folder / "pairs" / f"{kind}.parquet", pairs[kind].to_arrow(kind))
    return {kind: len(table) for kind, table in pairs.items()}


@dataclass(frozen=True, eq=False)
class _People:
    """Clips with the same number of people, and their candidates, people from left to right.

    ``rows`` are rows of faces; the candidates of person p of clip c are ``rows[first[c, p] : first[c, p] + count[c, p]]``.
    """

    clip: np.ndarray  # int64 [C]
    first: np.ndarray  # int64 [C, P]
    count: np.ndarray  # int64 [C, P]
    rows: np.ndarray  # int64

    @property
    def num_people(self) -> int:
        return self.first.shape[1]

    @property
    def shown(self) -> np.ndarray:
        """Row of the first picture of each person, ``int64 [C, P]``."""
        return self.rows[self.first]


def _people(faces: FaceTable, without: np.ndarray) -> list[_People]:
    """Clips by their number of people; those in which a person has no picture at their place are left out."""
    rows = np.lexsort((faces.number, faces.track, faces.clip))
    rows = rows[~np.isin(faces.clip[rows], without)]
    if not len(rows):
        return []
    begins = np.flatnonzero(_changes(faces.clip[rows]) | _changes(faces.track[rows]))
    person = np.repeat(np.arange(len(begins)), np.diff(np.append(begins, len(rows))))  # of each row, in this order
    clips, clip_of = np.unique(faces.clip[rows[begins]], return_inverse=True)
    place, num_people = _places(faces.mean_x[rows[begins]], clip_of)

    centre = faces.centre_x[rows]
    left_of = np.zeros(len(rows), np.int64)  # other people of the clip whose mean position is left of this face
    by_place = np.full((len(clips), num_people.max()), np.inf)
    by_place[clip_of, place] = faces.mean_x[rows[begins]]
    for other in range(by_place.shape[1]):
        left_of += (place[person] != other) & (by_place[clip_of[person], other] < centre)
    fits = left_of == place[person]
    rows, person = rows[fits], person[fits]

    count = np.bincount(person, minlength=len(begins))
    first = np.cumsum(count) - count
    groups = []
    for number in range(1, num_people.max() + 1):
        chosen = np.flatnonzero(num_people == number)
        inside = np.flatnonzero(num_people[clip_of] == number)  # people of those clips
        order = inside[np.lexsort((place[inside], clip_of[inside]))].reshape(len(chosen), number)
        complete = (count[order] > 0).all(1)
        if complete.any():
            order = order[complete]
            groups.append(_People(clips[chosen[complete]], first[order], count[order], rows))
    return groups


def _changes(values: np.ndarray) -> np.ndarray:
    """Whether each value is another than the one before; the first is."""
    return np.concatenate([[True], values[1:] != values[:-1]])


def _places(mean_x: np.ndarray, clip_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each person's place from the left in their clip, 0 the leftmost, and the number of people of each clip."""
    order = np.lexsort((mean_x, clip_of))
    num_people = np.bincount(clip_of)
    place = np.empty(len(mean_x), np.int64)
    place[order] = np.arange(len(mean_x)) - np.repeat(np.cumsum(num_people) - num_people, num_people)
    return place, num_people


def _own(people: _People) -> PairTable:
    """Each clip with each of its own pictures; where people have different numbers of them, some are shown again."""
    times = people.count.max(1)
    index = np.repeat(np.arange(len(people.clip)), times)  # [R]
    turn = np.arange(len(index)) - np.repeat(np.cumsum(times) - times, times)
    references = people.rows[people.first[index] + turn[:, None] % people.count[index]]
    return PairTable(
        clip=people.clip[index],
        references=references,
        cosines=np.full(references.shape, np.nan),
        same_source=np.zeros(len(index), bool),
    )


def _mined(
    faces: FaceTable,
    people: list[_People],
    config: Pairing,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> dict[PairKind, list[PairTable]]:
    """Pairs with pictures of other clips."""
    shown = np.concatenate([group.shown.ravel() for group in people])
    alone = np.repeat([group.num_people == 1 for group in people], [group.shown.size for group in people])
    order = np.argsort(shown)
    rows, alone = shown[order], alone[order]
    bands = [
        Band(low=config.cross[0], high=config.cross[1], pick="random", seekers=alone, pool=alone),
        Band(low=config.tradeoff[0], high=config.tradeoff[1], pick="smallest", seekers=alone, pool=alone),
        Band(low=config.several[0], high=config.several[1], pick="random", closed=True, seekers=~alone),
    ]
    cross, tradeoff, several = mine(
        faces.embeddings[rows],
        (faces.source if config.exclude_same_source else faces.clip)[rows],
        bands,
        seed=config.seed,
        keys=rows.astype(np.uint64) if faces.name is None else faces.name[rows],
        workers=workers,
        on_progress=on_progress,
    )
    made: dict[PairKind, list[PairTable]] = {"cross": [], "tradeoff": []}
    for group in people:
        if group.num_people == 1:
            made["cross"].append(_paired(faces, group, rows, cross, 1))
            made["tradeoff"].append(_paired(faces, group, rows, tradeoff, 1))
        else:
            needed = 2 if group.num_people == 2 else min(config.min_matched, group.num_people)
            made["cross"].append(_paired(faces, group, rows, several, needed))
    return made


def _paired(faces: FaceTable, people: _People, rows: np.ndarray, picks: Picks, needed: int) -> PairTable:
    """Clips of which at least ``needed`` people have a partner; ``picks`` are of the faces ``rows``, which ascend."""
    at = np.searchsorted(rows, people.shown)  # [C, P]
    index = picks.index[at]
    found = index >= 0
    references = np.where(found, rows[index], people.shown)
    same_source = (found & (faces.source[references] == faces.source[people.shown])).any(1)
    enough = found.sum(1) >= needed
    return PairTable(
        clip=people.clip[enough],
        references=references[enough],
        cosines=picks.cosine[at][enough],
        same_source=same_source[enough],
    )


def _joined(tables: list[PairTable]) -> PairTable:
    """Pairs of several tables, in the order of their clips."""
    people = max((table.references.shape[1] for table in tables), default=1)

    def wide(values: np.ndarray, filling: float) -> np.ndarray:
        return np.pad(values, ((0, 0), (0, people - values.shape[1])), constant_values=filling)

    clip = np.concatenate([np.zeros(0, np.int64), *(table.clip for table in tables)])
    order = np.argsort(clip, kind="stable")
    references = np.concatenate([np.zeros((0, people), np.int64), *(wide(table.references, -1) for table in tables)])
    cosines = np.concatenate([np.zeros((0, people)), *(wide(table.cosines, np.nan) for table in tables)])
    same_source = np.concatenate([np.zeros(0, bool), *(table.same_source for table in tables)])
    return PairTable(
        clip=clip[order], references=references[order], cosines=cosines[order], same_source=same_source[order]
    )
