"""Runs beside each other: the same rows of one benchmark, measured in one way.

Runs are compared by pairs, each video with the other run's video of the same row: what is hard about a row is hard for
both, and the difference of a pair says more than the difference of two means. Numbers that were not measured alike are
refused rather than put into one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from likeness.errors import UserError
from likeness.evaluate.record import Report, Row
from likeness.evaluate.statistics import Interval, Measurement, bootstrap
from likeness.evaluate.types import Direction


@dataclass(frozen=True, kw_only=True)
class Paired:
    """One run against the first, over the rows that both have.

    Attributes:
        difference: this run minus the first one.
        win_rate: share of the rows in which this run is better, ties counting half; None where no way is better.
    """

    difference: Interval
    win_rate: Interval | None

    @property
    def verdict(self) -> str:
        """ "higher" or "lower" where the interval of the difference leaves 0 out; "" where it does not tell."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None or low <= 0 <= high:
            return ""
        return "higher" if low > 0 else "lower"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One value of one metric in every run.

    Attributes:
        metric, protocol, weights, value, direction: what is compared.
        sizes: of the videos of each run, in words.
        means: one a run, over the rows that all runs have.
        against_first: one for each run after the first.
    """

    metric: str
    protocol: str
    weights: str
    value: str
    direction: Direction
    sizes: tuple[str, ...]
    means: tuple[Interval, ...]
    against_first: tuple[Paired, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that can be compared.

    Attributes:
        names: of the runs.
        lines: one for each value that every run has.
        num_shared: rows of the benchmark that are in every run.
        num_unshared: rows that are not.
        left_out: metrics that some run lacks, by name of the metric: the runs that have it.
    """

    names: tuple[str, ...]
    lines: tuple[Compared, ...]
    num_shared: int
    num_unshared: int
    left_out: dict[str, tuple[str, ...]]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def compare(reports: Sequence[Report], *, any_size: bool = False) -> Comparison:
    """Compare runs of one benchmark; the first is what the others are held against.

    Args:
        reports: two or more.
        any_size: compare videos of different sizes and numbers of frames all the same; the sizes are named.

    Raises:
        UserError: fewer than two runs, no row in common, rows of one id that ask for different things, or numbers
            that were measured under different protocols, with different weights, or on videos of different sizes.
    """
    if len(reports) < 2:
        raise UserError("One run was given; two or more are needed to compare.")
    names = _names(reports)
    shared = [id for id in reports[0].items if all(id in report.items for report in reports[1:])]
    if not shared:
        raise UserError(
            f"{names[0]} and {names[1]} have no row in common, so they are not runs of one benchmark (in run folders the "
            "names of the videos are the rows). Evaluate both with the same --benchmark."
        )
    _check_same_rows(reports, names, shared)
    tables = [_by_value(report) for report in reports]
    metrics = dict.fromkeys(metric for found in tables for metric, _ in found)
    left_out = {}
    lines = []
    for metric in metrics:
        having = [place for place, found in enumerate(tables) if any(name == metric for name, _ in found)]
        if len(having) < len(reports):
            left_out[metric] = tuple(names[place] for place in having)
            continue
        sizes = _check_measured_alike(metric, reports, names, any_size)
        values = [value for name, value in tables[0] if name == metric and all((metric, value) in t for t in tables)]
        for value in values:
            runs = [found[metric, value] for found in tables]
            together = [id for id in shared if all(id in run for run in runs)]
            if together:
                lines.append(_compared(metric, value, reports[0], runs, together, sizes))
    unshared = len({id for report in reports for id in report.items}) - len(shared)
    return Comparison(
        names=names,
        lines=tuple(lines),
        num_shared=len(shared),
        num_unshared=unshared,
        left_out=left_out,
    )


def _names(reports: Sequence[Report]) -> tuple[str, ...]:
    """The folders' names, with as much of their paths as tells them apart."""
    paths = [report.folder.resolve() for report in reports]
    if len(set(paths)) < len(paths):
        raise UserError(f"The run {reports[0].folder} was given twice. Give each run once.")
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = tuple("/".join(path.parts[-depth:]) for path in paths)
        if len(set(names)) == len(names):
            return names
    return tuple(str(path) for path in paths)


def _check_same_rows(reports: Sequence[Report], names: Sequence[str], shared: Sequence[str]) -> None:
    first = reports[0].items
    for report, name in zip(reports[1:], names[1:], strict=True):
        for id in shared:
            one, other = first[id], report.items[id]
            asked = "prompts" if one.prompt != other.prompt else "people" if one.group != other.group else ""
            if asked:
                raise UserError(
                    f"The row {id} asks for different {asked} in {names[0]} and in {name}, so they are not runs of one "
                    "benchmark. Evaluate both with the same --benchmark."
                )


def _by_value(report: Report) -> dict[tuple[str, str], dict[str, float]]:
    """(metric, value) -> id -> number, of the rows that have one."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in report.rows:
        for name, value in row.values.items():
            if row.status == "ok" and value is not None:
                found.setdefault((row.metric, name), {})[row.id] = value
    return found


def _check_measured_alike(
    metric: str, reports: Sequence[Report], names: Sequence[str], any_size: bool
) -> tuple[str, ...]:
    """Refuse to mix; returns the sizes of each run's videos in words."""
    kinds = [_kinds(metric, report.rows) for report in reports]
    for what, told in (("protocol", "{0}"), ("weights", "the weights {0}")):
        seen = {getattr(kind, what): name for name, run in zip(names, kinds, strict=True) for kind in run}
        if len(seen) > 1:
            (one, first), (other, second) = list(seen.items())[:2]
            raise UserError(
                f"{metric} was measured with {told.format(_or_none(one))} in {first} and with {told.format(_or_none(other))} "
                f"in {second}: such numbers are not comparable. Evaluate both runs with the same {what}."
            )
    sizes = tuple(" and ".join(sorted({kind.size for kind in run})) for run in kinds)
    differing = next((place for place, size in enumerate(sizes) if size != sizes[0] or " and " in size), None)
    if differing is not None and not any_size:
        raise UserError(
            f"{metric} was measured on videos of {sizes[0]} in {names[0]} and of {sizes[differing]} in {names[differing]}: "
            "it may differ for the size alone. Make videos of one size, or say --any-size to compare them all the same."
        )
    return sizes


def _kinds(metric: str, rows: Sequence[Row]) -> list[Measurement]:
    return list(dict.fromkeys(Measurement.of(row) for row in rows if row.metric == metric and row.status == "ok"))


def _or_none(text: str) -> str:
    return text or "(none)"


def _compared(
    metric: str,
    value: str,
    report: Report,
    runs: Sequence[dict[str, float]],
    together: Sequence[str],
    sizes: tuple[str, ...],
) -> Compared:
    kind = _kinds(metric, report.rows)[0]
    direction = report.directions[metric].get(value, "")
    groups = [report.items[id].group for id in together]
    numbers = np.array([[run[id] for id in together] for run in runs])  # [runs, rows]
    return Compared(
        metric=metric,
        protocol=kind.protocol,
        weights=kind.weights,
        value=value,
        direction=direction,
        sizes=sizes,
        means=tuple(bootstrap(row, groups) for row in numbers),
        against_first=tuple(paired(numbers[0], other, groups, direction) for other in numbers[1:]),
    )


def paired(first: np.ndarray, other: np.ndarray, groups: Sequence[str], direction: Direction) -> Paired:
    """``other`` against ``first``, both ``[N]`` over the same rows, with intervals over ``groups [N]``."""
    difference = np.asarray(other, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    better = difference if direction == "higher" else -difference
    wins = np.where(better > 0, 1.0, np.where(better < 0, 0.0, 0.5))
    return Paired(
        difference=bootstrap(difference, groups),
        win_rate=bootstrap(wins, groups) if direction else None,
    )
