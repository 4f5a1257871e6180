"""The tables of `likeness.recipes.evaluation`: means with intervals, differences by pairs, what copying a pose amounts to, cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from likeness.evaluate.compare import compare
from likeness.evaluate.record import Report, Row
from likeness.evaluate.statistics import table
from likeness.media import atomic_write

Name = tuple[str, str]  # model and condition
_RESAMPLES = 2000


@dataclass(frozen=True)
class Correlation:
    """A correlation over videos, with its 95 % bootstrap interval over people."""

    r: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.r:.2f} [{self.low:.2f}, {self.high:.2f}]"


def pose_copied(report: Report) -> Correlation | None:
    """Correlation of the head's yaw in the photograph with its mean yaw in the video; None with fewer than three people.

    One video cannot tell a copied pose from a prompted one; over many prompts that have nothing to do with the
    photographs, only copying correlates them.
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    for row in report.rows:
        shown, seen = (_only(row, name) for name in ("reference_yaw_deg", "yaw_deg"))
        if row.metric == "copying" and shown is not None and seen is not None:
            pairs.setdefault(report.items[row.id].group, []).append((shown, seen))
    groups = [np.array(values) for values in pairs.values()]
    if len(groups) < 3:
        return None
    random = np.random.default_rng(0)
    drawn = [
        _correlation(np.concatenate([groups[index] for index in random.integers(len(groups), size=len(groups))]))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Correlation(_correlation(np.concatenate(groups)), float(low), float(high))


def _only(row: Row, name: str) -> float | None:
    """The one number of a list in a row's details."""
    values = row.details.get(name)
    return values[0] if isinstance(values, list) and len(values) == 1 else None


def _correlation(pairs: np.ndarray) -> float:
    """Pearson's r of ``pairs [N, 2]``; nan where one side does not vary."""
    if (np.ptp(pairs, axis=0) == 0).any():
        return float("nan")
    return float(np.corrcoef(pairs.T)[0, 1])


def seconds_a_video(report: Report) -> dict[str, float]:
    """Mean time of each metric on a video; detection and recognition count for the first metric that asks for them."""
    spent: dict[str, list[float]] = {}
    for row in report.rows:
        if row.status == "ok":
            spent.setdefault(row.metric, []).append(row.seconds)
    return {metric: float(np.mean(values)) for metric, values in spent.items()}


def write_tables(reports: Mapping[Name, Report], run: Path) -> str:
    """Writes `table.json` and `table.md` to `run`, and gives the latter's text."""
    names = [" ".join(name).strip() for name in reports]
    lines: dict[tuple[str, str, str, str], dict[str, str]] = {}
    record: dict[str, object] = {}
    for name, report in zip(names, reports.values(), strict=True):
        means = table(report)
        record[name] = {
            "lines": [asdict(line) for line in means],
            "seconds a video": seconds_a_video(report),
            "pose copied": None if (pose := pose_copied(report)) is None else asdict(pose),
        }
        for line in means:
            key = (line.what.metric, line.what.protocol, line.value, line.direction)
            lines.setdefault(key, {})[name] = str(line.interval)
        lines.setdefault(("copying", "correlation of yaw", "pose copied, r", "nearer 0"), {})[name] = str(pose or "")
    rows = [[*key, *(cells.get(name, "") for name in names)] for key, cells in lines.items()]
    videos = len(next(iter(reports.values())).items)
    people = len({item.group for item in next(iter(reports.values())).items.values()})
    absent = sorted({f"{metric} ({option})" for report in reports.values() for metric, option in report.absent.items()})
    text = "\n".join(
        [
            f"{videos} videos of {people} people each; means with 95 % bootstrap intervals over people.",
            "",
            *_markdown(["metric", "protocol", "value", "better", *names], rows),
            "",
            f"Not measured for want of weights: {', '.join(absent) or 'nothing'}.",
            "",
            *_differences(reports),
            *_cost(reports, names),
        ]
    )
    for file, content in (("table.json", json.dumps(record, indent=2)), ("table.md", text)):
        with atomic_write(run / file) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")
    return text


def _differences(reports: Mapping[Name, Report]) -> list[str]:
    """For each model, what its reference changes, by pairs of the same prompt and noise."""
    parts = []
    for (model, condition), report in reports.items():
        if condition in ("", "reference") or (model, "reference") not in reports:
            continue
        compared = compare([report, reports[model, "reference"]])
        rows = []
        for line in compared.lines:
            pair = line.against_first[0]
            rows.append([line.metric, line.value, str(pair.difference), str(pair.win_rate or ""), pair.verdict])
        parts += [f"{model}: the reference against {condition}, pair by pair.", ""]
        parts += [*_markdown(["metric", "value", "difference", "share better", "it is"], rows), ""]
    return parts


def _cost(reports: Mapping[Name, Report], names: Sequence[str]) -> list[str]:
    spent = [seconds_a_video(report) for report in reports.values()]
    metrics = dict.fromkeys(metric for times in spent for metric in times)
    rows = [[metric, *(f"{times[metric]:.2f}" if metric in times else "" for times in spent)] for metric in metrics]
    rows.append(["together", *(f"{sum(times.values()):.2f}" for times in spent)])
    return ["Seconds a video, decoding apart.", "", *_markdown(["metric", *names], rows)]


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
