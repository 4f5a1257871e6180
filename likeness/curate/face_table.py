"""The faces of a dataset as columns of numbers: what pairs and leaks are computed from.

A table is of faces and people, or of whatever an open-set detector and another model's embeddings make of a video
(Concat-ID, appendix B.2): nothing here or in what uses it knows of faces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from likeness.curate.record import read_table
from likeness.curate.verdicts import CLIPS, FACES

AT_ONCE = 65536  # rows of embeddings in memory


class Embeddings(Protocol):
    """Embeddings ``[N, D]``: a numpy array, perhaps mapped from a file, or what reads them from a dataset."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, D)``."""
        ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """``float16 or float32 [n, D]`` of some rows, which ascend."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceTable:
    """Candidates for reference pictures: one row each, in any order.

    Attributes:
        clip: ``int64 [N]``, row of the clip in ``clips.parquet``.
        source: ``int64 [N]``, number of the video that the clip was cut from.
        track: ``int64 [N]``, person within the clip.
        number: ``int64 [N]``, of the candidates of a person; the first is the one that is compared with other clips.
        centre_x: ``float64 [N]``, horizontal middle of the face in its own frame, 0..1.
        mean_x: ``float64 [N]``, mean of that over the person's faces; orders the people of a clip.
        embeddings: ``[N, D]``; ``D`` is 0 where nothing was compared.
        name: ``uint64 [N]``, a name of each row that random choices go by; None: its number.
    """

    clip: np.ndarray
    source: np.ndarray
    track: np.ndarray
    number: np.ndarray
    centre_x: np.ndarray
    mean_x: np.ndarray
    embeddings: Embeddings
    name: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.clip)

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """All embeddings in their order, some at a time, with the number of the first row of each piece."""
        for start in range(0, len(self), AT_ONCE):
            yield start, self.embeddings[np.arange(start, min(start + AT_ONCE, len(self)))]


class StoredEmbeddings:
    """Embeddings in the column of a Parquet file; only the parts that hold wanted rows are read."""

    def __init__(self, path: Path) -> None:
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            first = next(file.iter_batches(1, columns=["embedding"]), None) if sum(groups) else None
        self._path = path
        self._starts = np.cumsum([0, *groups])
        self.shape = (sum(groups), len(first.column(0)[0]) if first else 0)

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """``float16 [n, D]`` of rows that ascend."""
        places = np.searchsorted(rows, self._starts)
        found = [np.zeros((0, self.shape[1]), np.float16)]
        with pq.ParquetFile(self._path) as file:
            for number, (start, stop) in enumerate(pairwise(places)):
                if start < stop:
                    column = file.read_row_group(number, columns=["embedding"]).column(0).combine_chunks()
                    values = column.values.to_numpy().reshape(len(column), -1)
                    found.append(values[rows[start:stop] - self._starts[number]])
        return np.concatenate(found)


def read_faces(folder: Path) -> FaceTable:
    """The faces of a dataset's clips that are kept.

    Raises:
        CheckpointError: a table is lost or damaged.
    """
    faces = read_table(folder / FACES, ["clip", "track", "number", "mean_x", "box"]).combine_chunks()
    clips = read_table(folder / CLIPS, ["key", "path", "width"])
    clip = faces["clip"].to_numpy()
    _, source = np.unique(clips["path"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    width = clips["width"].to_numpy()[clip]
    box = _flat(faces["box"]).reshape(-1, 4)
    track = faces["track"].to_numpy().astype(np.int64)
    keys = np.array([int(key, 16) for key in clips["key"].to_pylist()], np.uint64)
    return FaceTable(
        clip=clip,
        source=source.astype(np.int64)[clip],
        track=track,
        number=faces["number"].to_numpy().astype(np.int64),
        centre_x=(box[:, 0] + box[:, 2]) / 2 / width,
        mean_x=faces["mean_x"].to_numpy(),
        embeddings=StoredEmbeddings(folder / FACES),
        name=keys[clip] + track.astype(np.uint64),
    )


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers of lists of four, one after another."""
    return np.concatenate([np.zeros(0), *(chunk.flatten().to_numpy() for chunk in column.chunks)]).astype(np.float64)
