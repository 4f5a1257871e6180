"""Bands of cosines in which partners are sought, and the best partner of each face so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Pick = Literal["random", "smallest"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Band:
    """What is sought for each face.

    Attributes:
        low, high: ``low <= cos < high``, or ``<= high`` if ``closed``.
        pick: which of the candidates.
        seekers: ``bool [N]``, the faces that seek; None: all.
        pool: ``bool [N]``, the faces that may be found; None: all.
    """

    low: float
    high: float
    pick: Pick
    closed: bool = False
    seekers: np.ndarray | None = None
    pool: np.ndarray | None = None

    def holds(self, cosine: np.ndarray) -> np.ndarray:
        """Whether each cosine is inside."""
        return (cosine >= self.low) & ((cosine <= self.high) if self.closed else (cosine < self.high))

    def concerns(self, seeker: np.ndarray, other: np.ndarray) -> np.ndarray | bool:
        """Whether rows may seek, and others be found."""
        seeks = True if self.seekers is None else self.seekers[seeker]
        return seeks if self.pool is None else seeks & self.pool[other]


@dataclass(frozen=True, eq=False)
class Picks:
    """What was found in a band.

    Attributes:
        index: ``int64 [N]``, the row that each face was given; -1 for none.
        cosine: ``float64 [N]``, their cosine; NaN for none.
    """

    index: np.ndarray
    cosine: np.ndarray


@dataclass(eq=False)
class Best:
    """The best candidate of each face in one band so far; ``score``, ``tie`` and ``index`` are compared in this order."""

    score: np.ndarray  # float64 [N]: 0 for a random pick, else the cosine; infinite where there is none
    tie: np.ndarray  # uint64 [N]
    index: np.ndarray  # int64 [N], -1 for none
    limit: np.ndarray  # float64 [N]: no candidate of a larger score can win

    @classmethod
    def empty(cls, count: int) -> Best:
        """Nothing found yet."""
        return cls(
            np.full(count, np.inf), np.zeros(count, np.uint64), np.full(count, -1, np.int64), np.full(count, np.inf)
        )

    def offer(self, rows: np.ndarray, score: np.ndarray, tie: np.ndarray, index: np.ndarray) -> None:
        """Let some rows have candidates; a row may occur several times."""
        order = np.lexsort((index, tie, score, rows))
        rows, score, tie, index = rows[order], score[order], tie[order], index[order]
        first = np.flatnonzero(np.diff(rows, prepend=-1))  # the best of each row
        rows, score, tie, index = rows[first], score[first], tie[first], index[first]
        ahead = index < self.index[rows]
        ahead = (tie < self.tie[rows]) | ((tie == self.tie[rows]) & ahead)
        ahead = (score < self.score[rows]) | ((score == self.score[rows]) & ahead)
        rows = rows[ahead]
        self.score[rows], self.tie[rows], self.index[rows] = score[ahead], tie[ahead], index[ahead]
        self.limit[rows] = np.minimum(self.limit[rows], score[ahead])

    def merge(self, other: Best) -> None:
        """Take over what another search found."""
        rows = np.flatnonzero(other.index >= 0)
        self.offer(rows, other.score[rows], other.tie[rows], other.index[rows])
