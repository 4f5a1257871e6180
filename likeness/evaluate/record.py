"""The record of an evaluation: one line of JSON for each metric of each video, only ever appended to.

``results.jsonl`` lies in the report's folder. A row is known by its key, a digest of everything that decides it: the row of
the benchmark, the bytes of the video, the bytes of the references, the prompt, the metric, its protocol and its weights.
What is there under its key is not computed again, so a stopped evaluation goes on where it was, and a video that was
replaced is measured anew. Of several rows for one metric of one item, the last one counts.

``run.json`` beside it says what was asked for: the items with their paths, and which metrics there were.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from likeness.errors import UserError
from likeness.evaluate.types import Direction, Item, Metric, Status
from likeness.sidecar import portable_path, write_json

FORMAT = 1
RESULTS, RUN = "results.jsonl", "run.json"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one metric says of one video.

    Attributes:
        key: 32 hex digits; see :func:`row_key`.
        id: of the item.
        metric, protocol, weights: of the metric.
        status, reason, values, curves, details: its result.
        video_sha256: of the file's bytes; "" for a video that is missing.
        width, height, num_frames, fps: of the video; 0 where it could not be read.
        seconds: the metric's time for this video; decoding is not in it, and what metrics share is with the first of them.
    """

    key: str
    id: str
    metric: str
    protocol: str
    weights: str
    status: Status
    reason: str = ""
    values: Mapping[str, float | None] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    details: Mapping[str, object] = field(default_factory=dict)
    video_sha256: str = ""
    width: int = 0
    height: int = 0
    num_frames: int = 0
    fps: float = 0.0
    seconds: float = 0.0


def row_key(item: Item, metric: Metric, video_sha256: str, references_sha256: Sequence[str]) -> str:
    """32 hex digits of the SHA-256 of everything that decides a row."""
    decides = [
        item.id,
        video_sha256,
        [*references_sha256],
        [*item.people],
        item.prompt,
        metric.name,
        metric.protocol,
        metric.weights,
    ]
    return hashlib.sha256(json.dumps(decides, ensure_ascii=False).encode()).hexdigest()[:32]


class Record:
    """The rows of a report's folder, open for more. Use as a context manager.

    Raises:
        UserError: a file of another format, with a line that is not one of ours, or written by another process now.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RESULTS
        self._rows: dict[str, Row] = {}
        self._last: dict[tuple[str, str, str], str] = {}  # (id, metric, protocol) -> key of the row that counts

    def __enter__(self) -> Record:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
        except OSError as error:
            raise UserError(
                f"The record {self.path} cannot be written: {error.strerror}. Choose another --output."
            ) from error
        _lock(self._file, self.path)
        try:
            self._file.truncate(_whole_lines(self.path))
            for row in read_rows(self.path):
                self._remember(row)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def get(self, key: str) -> Row | None:
        """The row of this key, if it is known."""
        return self._rows.get(key)

    def counts(self, row: Row) -> bool:
        """Whether no later row took the place of this one. One that shall count again is to be appended again."""
        return self._last[row.id, row.metric, row.protocol] == row.key

    def append(self, rows: Iterable[Row]) -> None:
        """Write rows to the disk; when this returns they survive a power cut."""
        lines = b""
        for row in rows:
            lines += json.dumps(asdict(row), ensure_ascii=False, allow_nan=False).encode() + b"\n"
            self._remember(row)
        self._file.write(lines)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _remember(self, row: Row) -> None:
        self._rows[row.key] = row
        self._last[row.id, row.metric, row.protocol] = row.key


def _lock(file: Any, path: Path) -> None:
    try:
        import fcntl
    except ImportError:
        return  # Windows: two evaluations into one folder are the user's to avoid
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise UserError(
            f"Another evaluation is writing {path}. Wait until it ends, or choose another --output."
        ) from None


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last whole line: a killed process may leave half of one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        end = size
        while end:
            start = max(0, end - 2**16)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def read_rows(path: Path) -> list[Row]:
    """Every whole line of a record, in the order of writing; a half last line is left out.

    Raises:
        UserError: no such file, or a line that is not one of ours.
    """
    rows = []
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"The record {path} cannot be read: {error.strerror}. Check the path.") from error
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError):
            raise UserError(
                f"Line {number} of {path} is not a row of an evaluation. Was it edited, or written by another version? "
                "Remove the line, or choose another --output."
            ) from None
    return rows


# ---------------------------------------------------------------------------------------------------------- a report


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """An evaluation as it lies on the disk.

    Attributes:
        folder: where it lies.
        items: by id, in the order of the benchmark.
        rows: those that count, one for each item, metric and protocol; in the order of items, then of metrics.
        directions: by metric and value, which way is better.
        absent: by metric, the option that would give its weights.
    """

    folder: Path
    items: Mapping[str, Item]
    rows: Sequence[Row]
    directions: Mapping[str, Mapping[str, Direction]]
    absent: Mapping[str, str]

    @property
    def name(self) -> str:
        """The folder's own name, which a table calls the run by."""
        return self.folder.resolve().name

    @property
    def num_unmeasured(self) -> int:
        """Items that some metric of the report has no row for: the evaluation was stopped, or had other items before."""
        known = {(row.id, row.metric) for row in self.rows}
        return sum(any((id, metric) not in known for metric in self.directions) for id in self.items)


def write_run(folder: Path, items: Sequence[Item], metrics: Sequence[Metric], absent: Mapping[str, str]) -> None:
    """Write ``run.json``. Metrics that an earlier evaluation into the same folder had are kept."""
    path = folder / RUN
    before = _read_run(path)["metrics"] if path.exists() else {}
    mine = {
        metric.name: {
            "protocol": metric.protocol,
            "weights": metric.weights,
            "directions": dict(metric.directions),
        }
        for metric in metrics
    }
    record = {
        "format": FORMAT,
        "items": [_item_to_json(item, path) for item in items],
        "metrics": {**before, **mine},
        "absent": {name: option for name, option in absent.items() if name not in before},
    }
    write_json(path, record)


def load_report(folder: Path) -> Report:
    """Read a report's folder, or the folder of its ``results.jsonl``.

    Raises:
        UserError: not the folder of an evaluation.
    """
    folder = folder.parent if folder.name == RESULTS else folder
    run = _read_run(folder / RUN)
    items = {entry["id"]: _item_from_json(entry, folder) for entry in run["items"]}
    order = {name: place for place, name in enumerate(run["metrics"])}
    last = {(row.id, row.metric, row.protocol): row for row in read_rows(folder / RESULTS)}
    rows = [row for row in last.values() if row.id in items and row.metric in order]
    places = {id: place for place, id in enumerate(items)}
    rows.sort(key=lambda row: (places[row.id], order[row.metric], row.protocol))
    directions = {name: entry["directions"] for name, entry in run["metrics"].items()}
    return Report(folder=folder, items=items, rows=rows, directions=directions, absent=run["absent"])


def _read_run(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["format"] == FORMAT and {"items", "metrics", "absent"} <= run.keys():
            return run
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} is not the folder of an evaluation: it has no {path.name}. Give the --output of `likeness "
            "evaluate`."
        ) from None
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise UserError(f"{path} is damaged, or written by another version. Run `likeness evaluate` again.")


def _item_to_json(item: Item, beside: Path) -> dict[str, Any]:
    known = {entry.name: getattr(item, entry.name) for entry in fields(item)}
    return {
        **known,
        "video": portable_path(item.video, beside),
        "references": [portable_path(path, beside) for path in item.references],
        "tags": dict(item.tags),
    }


def _item_from_json(entry: Mapping[str, Any], folder: Path) -> Item:
    return Item(
        **{
            **entry,
            "video": folder / entry["video"],
            "references": tuple(folder / path for path in entry["references"]),
            "people": tuple(entry["people"]),
        }
    )
