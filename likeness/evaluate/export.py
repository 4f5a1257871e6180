"""What follows from the record: the table of means, and every number in one long table for other programs.

``table.json``: the means with their intervals. ``results.csv``: one line for each value of each metric of each video, and one
for each metric that has none, with its status and reason. ``results.parquet``: the same with types. All of them can be made
again from ``results.jsonl`` at any time.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from likeness.errors import UserError
from likeness.evaluate.record import Report
from likeness.evaluate.statistics import LEVEL, RESAMPLES, SEED, Line
from likeness.media import atomic_write
from likeness.sidecar import write_json

TABLE, CSV, PARQUET = "table.json", "results.csv", "results.parquet"
_COLUMNS: dict[str, type] = {
    "id": str,
    "group": str,
    "metric": str,
    "protocol": str,
    "weights": str,
    "value_name": str,
    "value": float,
    "status": str,
    "reason": str,
    "width": int,
    "height": int,
    "num_frames": int,
    "fps": float,
    "video_sha256": str,
}


def write_tables(report: Report, lines: list[Line], *, parquet: bool = False) -> None:
    """Write the tables into the report's folder, each atomically.

    Args:
        lines: from :func:`likeness.evaluate.statistics.table`.
        parquet: write ``results.parquet`` too.

    Raises:
        UserError: Parquet without pyarrow, or a folder that cannot be written.
    """
    write_json(report.folder / TABLE, _table_json(report, lines))
    values = list(_values(report))
    with atomic_write(report.folder / CSV) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows(values)
    if parquet:
        _write_parquet(report.folder / PARQUET, values)


def check_parquet() -> None:
    """Refuse before the work where Parquet could not be written after it.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(
            "Parquet needs pyarrow, which is not installed: pip install pyarrow. results.csv needs none."
        ) from None


def _table_json(report: Report, lines: list[Line]) -> dict[str, Any]:
    statuses: dict[str, Counter[str]] = {}
    for row in report.rows:
        statuses.setdefault(row.metric, Counter())[row.status] += 1
    return {
        "num_items": len(report.items),
        "num_groups": len({item.group for item in report.items.values()}),
        "bootstrap": {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED, "over": "groups"},
        "lines": [
            {
                **asdict(line.what),
                "value": line.value,
                "direction": line.direction,
                **asdict(line.interval),
                "num_without": line.num_without,
            }
            for line in lines
        ],
        "statuses": {metric: dict(sorted(counts.items())) for metric, counts in statuses.items()},
        "seconds_a_video": _seconds(report),
        "absent": dict(report.absent),
    }


def _seconds(report: Report) -> dict[str, float]:
    """By metric, mean seconds of a video that was measured."""
    spent: dict[str, list[float]] = {}
    for row in report.rows:
        if row.num_frames:
            spent.setdefault(row.metric, []).append(row.seconds)
    return {metric: round(sum(seconds) / len(seconds), 4) for metric, seconds in spent.items()}


def _values(report: Report) -> Iterator[list[Any]]:
    for row in report.rows:
        for name, value in (row.values or {"": None}).items():
            yield [
                row.id,
                report.items[row.id].group,
                row.metric,
                row.protocol,
                row.weights,
                name,
                value,
                row.status,
                row.reason,
                row.width,
                row.height,
                row.num_frames,
                row.fps,
                row.video_sha256,
            ]


def _write_parquet(path: Path, values: list[list[Any]]) -> None:
    check_parquet()
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    columns = {
        name: pa.array([row[place] for row in values], kinds[kind])
        for place, (name, kind) in enumerate(_COLUMNS.items())
    }
    with atomic_write(path) as temporary:
        parquet.write_table(pa.table(columns), temporary)
