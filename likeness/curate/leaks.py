"""Leaks: people of a benchmark who are in the training data, so that a model would be measured on faces that it has seen.

All pictures of an identity leak if any training picture has a cosine greater than 0.45 with one of them (Concat-ID, A.1). The
paper then takes the identity out of the benchmark; taking the clips out of the training data is the other way: they are dropped
with the reason "leak", until another check says otherwise, whatever thresholds are decided by meanwhile. The paper also
has people look at the most similar training picture of each benchmark picture; it is found here for all of them, however
dissimilar.

Products in float32 say which pairs are worth an exact look; cosines in float64 decide, as in :mod:`likeness.curate.mining`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from likeness.curate.benchmark import Benchmark
from likeness.curate.cosine import cosines, lengths
from likeness.curate.face_table import FaceTable
from likeness.curate.leak_table import LEAKS, SCHEMA
from likeness.curate.record import Dataset, read_table, write_table
from likeness.curate.verdicts import CLIPS
from likeness.errors import UserError

Direction = Literal["benchmark", "training"]
_PRODUCTS = 2**22  # held at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Leaks:
    """Who is in both.

    Attributes:
        nearest: ``int64 [M]``, row of the training face most similar to each benchmark picture; -1 for a picture without a face.
        cosine: ``float64 [M]``, their cosine; NaN for a picture without a face.
        leaked: ``bool [M]``, whether the picture's identity is in the training data.
        threshold: a cosine above it was held to be the same person.
        clip: ``int64 [L]``, clips that show somebody of the benchmark, ascending.
        face: ``int64 [L]``, row of the most similar face of each of them.
        picture: ``int64 [L]``, the benchmark picture that it is most similar to.
        clip_cosine: ``float64 [L]``, their cosine.
    """

    nearest: np.ndarray
    cosine: np.ndarray
    leaked: np.ndarray
    threshold: float
    clip: np.ndarray
    face: np.ndarray
    picture: np.ndarray
    clip_cosine: np.ndarray


def find_leaks(faces: FaceTable, benchmark: Benchmark, threshold: float = 0.45, also: Sequence[str] = ()) -> Leaks:
    """Compare every benchmark picture with every training face.

    Args:
        faces: of the training clips.
        benchmark: pictures of its people, by the same recogniser.
        threshold: a cosine above it is the same person.
        also: identities that somebody recognised with their own eyes, in the faces that resemble their pictures most.

    Raises:
        UserError: embeddings of another recogniser, or an identity in ``also`` that the benchmark has not.
    """
    if unknown := sorted(set(also) - set(benchmark.identities)):
        raise UserError(
            f"The benchmark has nobody called {unknown[0]!r}; its people are "
            f"{', '.join(sorted(set(benchmark.identities))[:10])} and so on. Take the names from {LEAKS}."
        )
    compared = np.flatnonzero(benchmark.has_face)
    count = len(benchmark.pictures)
    nearest, cosine = np.full(count, -1, np.int64), np.full(count, np.nan)
    hits: list[np.ndarray] = []
    if len(compared) and len(faces):
        if faces.embeddings.shape[1] != benchmark.embeddings.shape[1]:
            raise UserError(
                f"The benchmark's embeddings have {benchmark.embeddings.shape[1]} numbers and those of the training faces "
                f"{faces.embeddings.shape[1]}; compare by the recogniser that the clips were curated with."
            )
        rounded = benchmark.embeddings[compared].astype(np.float16)  # as those of a dataset are
        search = _Search(rounded, threshold)
        for start, embeddings in faces.pieces():
            search.see(start, embeddings)
        nearest[compared], cosine[compared] = search.nearest, search.cosine
        hits = search.hits
    names = np.array(benchmark.identities)
    leaked = np.isin(names, [*names[cosine > threshold], *also])
    seen = np.flatnonzero(np.isin(names, also) & (nearest >= 0))
    place = np.searchsorted(compared, seen)
    by_eye = _hits(nearest[seen], place, cosine[seen])
    found = np.concatenate([by_eye, *hits])
    clip = faces.clip[found["face"]]
    order = np.lexsort((found["face"], -found["cosine"], clip))
    best = order[np.flatnonzero(np.diff(clip[order], prepend=-1))]
    found = found[best]
    return Leaks(
        nearest=nearest, cosine=cosine, leaked=leaked, threshold=threshold, clip=clip[best], face=found["face"],
        picture=compared[found["picture"]], clip_cosine=found["cosine"],
    )  # fmt: skip


_HIT = np.dtype([("face", np.int64), ("picture", np.int64), ("cosine", np.float64)])


def _hits(face: np.ndarray, picture: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    hits = np.empty(len(face), _HIT)
    hits["face"], hits["picture"], hits["cosine"] = face, picture, cosine
    return hits


class _Search:
    """The most similar face of each picture, and for each face above the threshold its most similar picture."""

    def __init__(self, pictures: np.ndarray, threshold: float) -> None:
        self._pictures, self._norms, self._threshold = pictures, lengths(pictures), threshold
        self._unit = (pictures / self._norms[:, None]).astype(np.float32)
        self.nearest = np.full(len(pictures), -1, np.int64)
        self.cosine = np.full(len(pictures), -np.inf)
        self.hits: list[np.ndarray] = []

    def see(self, start: int, embeddings: np.ndarray) -> None:
        """Compare with some faces, the first of which is row ``start``."""
        step = max(_PRODUCTS // len(self._pictures), 1)
        for low in range(0, len(embeddings), step):
            self._see(start + low, embeddings[low : low + step])

    def _see(self, start: int, embeddings: np.ndarray) -> None:
        norms = lengths(embeddings, start)
        near = self._unit @ (embeddings / norms[:, None]).astype(np.float32).T  # [M, n]
        slack = 2.0**-22 * (embeddings.shape[1] + 16)  # four times what float32 sums of unit vectors can be off by
        least = np.minimum(np.maximum(near.max(1), self.cosine), self._threshold)[:, None]
        picture, column = np.nonzero(near >= least - slack)
        both = np.concatenate([self._pictures, embeddings])
        exact = cosines(both, np.concatenate([self._norms, norms]), picture, len(self._pictures) + column)
        face = start + column
        order = np.lexsort((face, -exact, picture))
        first = order[np.flatnonzero(np.diff(picture[order], prepend=-1))]
        first = first[exact[first] > self.cosine[picture[first]]]
        self.nearest[picture[first]], self.cosine[picture[first]] = face[first], exact[first]
        over = np.flatnonzero(exact > self._threshold)
        over = over[np.lexsort((picture[over], -exact[over], face[over]))]
        over = over[np.flatnonzero(np.diff(face[over], prepend=-1))]
        self.hits.append(_hits(face[over], picture[over], exact[over]))


def write_leaks(folder: Path, leaks: Leaks, faces: FaceTable, benchmark: Benchmark, direction: Direction) -> None:
    """Write ``leaks.parquet`` in the folder of a dataset.

    A row with side "benchmark" for each of its pictures, with the most similar training face; a row with side "training" for
    each clip that shows somebody of it. ``dropped`` is true for what leaks, on the side that is taken out; ``threshold`` is null
    where the cosine is not above it. The table bears the stamp of the faces that were compared.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    keys = read_table(folder / CLIPS, ["key"]).column("key")
    there = leaks.nearest >= 0
    clip = np.concatenate([np.where(there, faces.clip[leaks.nearest] if len(faces) else -1, -1), leaks.clip])
    cosine = np.concatenate([leaks.cosine, leaks.clip_cosine])
    picture = np.concatenate([np.arange(len(there)), leaks.picture])
    missing = np.concatenate([~there, np.zeros(len(leaks.clip), bool)])
    is_above = cosine > leaks.threshold  # not so for a picture without a face, whose cosine is NaN
    dropped = [leaks.leaked & (direction == "benchmark"), np.full(len(leaks.clip), direction == "training")]
    clips = pa.array(clip, mask=missing)
    columns = [
        pa.array(["benchmark"] * len(there) + ["training"] * len(leaks.clip), pa.string()),
        pa.array([benchmark.pictures[number] for number in picture], pa.string()),
        pa.array([benchmark.identities[number] for number in picture], pa.string()),
        keys.take(clips), clips, pa.array(np.concatenate([leaks.nearest, leaks.face]), mask=missing),
        pa.array(cosine, mask=missing), pa.array(np.full(len(cosine), leaks.threshold), mask=~is_above),
        pa.array(np.concatenate(dropped)),
    ]  # fmt: skip
    stamp = Dataset.open(folder).made.get("faces", "")
    write_table(folder / LEAKS, pa.table(columns, schema=SCHEMA.with_metadata({"faces": stamp})))
