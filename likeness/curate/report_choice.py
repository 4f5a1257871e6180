"""Which clips a report shows, out of a million: some of each reason, and those that a small change of a limit would move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NUM_BINS = 40


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What became of N clips, as columns.

    Attributes:
        status: N names.
        reason: N reasons; empty for those that are kept.
        values: for each rule's reason the number that it compares, ``float64 [N]``; NaN where it does not apply.
        limits: for each of these the limit in force.
    """

    status: np.ndarray
    reason: np.ndarray
    values: Mapping[str, np.ndarray]
    limits: Mapping[str, float]


def evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of some rows, evenly spaced, so that no part of a data set is left out."""
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]


def nearest(verdicts: Verdicts, reason: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of clips next to a limit: those that the rule dropped, and those that it would drop first; nearest first, at most
    ``count`` each."""
    distance = np.abs(verdicts.values[reason] - verdicts.limits[reason])
    dropped = np.flatnonzero((verdicts.reason == reason) & (verdicts.status == "dropped"))
    kept = np.flatnonzero((verdicts.status == "ok") & np.isfinite(distance))
    return _first(dropped, distance, count), _first(kept, distance, count)


def _first(rows: np.ndarray, distance: np.ndarray, count: int) -> np.ndarray:
    return rows[np.argsort(distance[rows], kind="stable")[:count]]


def spread(
    values: np.ndarray, high: float | None = None, limits: Sequence[float] = ()
) -> tuple[tuple[int, ...], float, float]:
    """Counts in ``NUM_BINS`` bins, and the ends of the scale, which begins at 0 or at the smallest value below it.

    Args:
        values: numbers; NaN does not count.
        high: end of the scale; None: where 1 % of the values lie beyond, which then count in the last bin, or the largest of some
            limits if it is not far beyond that.
    """
    finite = values[np.isfinite(values)]
    low = float(min(finite.min(initial=0.0), 0.0))
    if high is None:
        high = float(np.quantile(finite, 0.99)) if len(finite) else 1.0
        high = max([high, *(limit for limit in limits if limit <= 2 * high)])
    high = high if high > low else low + 1.0
    counts, _ = np.histogram(np.clip(finite, low, high), NUM_BINS, (low, high))
    return tuple(int(count) for count in counts), low, high
