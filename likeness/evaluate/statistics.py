"""Means with intervals over identities, and what may be averaged with what.

Videos of one person are not independent: a person who is easy to keep is easy in every video. So the bootstrap draws
identities (the groups of the items) with replacement, each with all its videos. Intervals are percentiles of the mean over
the draws. With few identities they are too narrow; with one there is none.

Means are taken over the videos that have a number. How many have none stands beside them, and videos of different sizes or
lengths are never averaged together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from likeness.errors import UserError
from likeness.evaluate.record import Report, Row
from likeness.evaluate.types import Direction

LEVEL = 0.95
RESAMPLES = 10_000
SEED = 0
_DRAWS_AT_ONCE = 2**20  # numbers of one block of draws: 8 MB, which stays in the cache


@dataclass(frozen=True)
class Interval:
    """A mean over videos, and where it may lie for other people.

    Attributes:
        mean: over all values.
        low, high: ends of the interval; None with fewer than two identities.
        num: values.
        num_groups: identities.
    """

    mean: float
    low: float | None
    high: float | None
    num: int
    num_groups: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.4f}"
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def bootstrap(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[str],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Mean of ``values [N]`` with its interval over the groups they belong to, ``groups [N]``.

    The same values in the same order give the same interval.

    Raises:
        UserError: no values, or not one group a value.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data) or len(data) != len(groups):
        raise UserError(f"{data.size} values and {len(groups)} groups were given; one group a value is needed.")
    names, places = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    sums = np.bincount(places, weights=data)  # [G] of the values of each group
    counts = np.bincount(places)  # [G]
    mean = float(data.mean())
    if len(names) < 2:
        return Interval(mean, None, None, len(data), len(names))
    random = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, block := max(1, _DRAWS_AT_ONCE // len(names))):
        drawn = random.integers(len(names), size=(min(block, resamples - start), len(names)))  # [draws, G] groups
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), len(data), len(names))


@dataclass(frozen=True)
class Measurement:
    """What decides whether two numbers may stand in one mean or beside each other.

    Attributes:
        metric, protocol, weights: see :class:`likeness.evaluate.types.Metric`.
        width, height, num_frames: of the videos; px and frames.
    """

    metric: str
    protocol: str
    weights: str
    width: int
    height: int
    num_frames: int

    @classmethod
    def of(cls, row: Row) -> Measurement:
        """That of a row with numbers."""
        return cls(row.metric, row.protocol, row.weights, row.width, row.height, row.num_frames)

    @property
    def size(self) -> str:
        """In words: "832 x 480 px, 81 frames"."""
        return f"{self.width} x {self.height} px, {self.num_frames} frames"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a report's table.

    Attributes:
        what: the metric, and which videos.
        value: name of the value.
        direction: which way it is better.
        interval: of the videos that have it.
        num_without: videos of the benchmark for which the metric has no such number, whatever the reason.
    """

    what: Measurement
    value: str
    direction: Direction
    interval: Interval
    num_without: int


def table(report: Report) -> list[Line]:
    """The means of a report, in the order of its metrics; a line each for videos of different sizes or lengths."""
    found: dict[tuple[Measurement, str], list[tuple[str, float]]] = {}
    for row in report.rows:
        for name, value in row.values.items():
            if row.status == "ok" and value is not None:
                found.setdefault((Measurement.of(row), name), []).append((report.items[row.id].group, value))
    order = {name: place for place, name in enumerate(report.directions)}
    with_number: dict[tuple[str, str, str], int] = {}
    for (what, name), pairs in found.items():
        place = (what.metric, what.protocol, name)
        with_number[place] = with_number.get(place, 0) + len(pairs)
    lines = [
        Line(
            what=what,
            value=name,
            direction=report.directions[what.metric].get(name, ""),
            interval=bootstrap([value for _, value in pairs], [group for group, _ in pairs]),
            num_without=len(report.items) - with_number[what.metric, what.protocol, name],
        )
        for (what, name), pairs in found.items()
    ]
    return sorted(lines, key=lambda line: order[line.what.metric])
