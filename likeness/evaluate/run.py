"""An evaluation: every metric on every video, each video decoded once, each row written as soon as it is known.

What can go wrong with one video is a row with a status and a reason. What concerns the whole evaluation (a benchmark whose
photographs are not there, weights that do not fit) is refused before the first video is opened.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from likeness.errors import UserError
from likeness.evaluate.decode import UnreadableVideo, read_frames
from likeness.evaluate.record import Record, Report, Row, load_report, row_key, write_run
from likeness.evaluate.types import Item, Metric, Result, Sample, Status
from likeness.media import read_picture, sha256_file

BATCH = 4  # videos a batch
_BATCH_BYTES = 2**30  # of decoded frames, after which a batch is not filled further

_T = TypeVar("_T")


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is.

    Attributes:
        done, total: videos.
        kept: videos among them of which every row was there before.
        without: videos among them without a number: missing or unreadable.
    """

    done: int
    total: int
    kept: int
    without: int


def evaluate(
    items: Sequence[Item],
    metrics: Sequence[Metric],
    folder: Path,
    *,
    absent: Mapping[str, str] | None = None,
    batch: int = BATCH,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Measure every video; what the folder holds already is not measured again.

    Args:
        items: the rows of a benchmark, ids unique.
        metrics: built, with their weights.
        folder: of the report; made if it is not there. Ended at any moment, the same call goes on.
        absent: metrics that were asked for and the option that would give their weights; noted in the report.
        batch: videos that are measured together, metric by metric; no number depends on it.
        progress: is told after every batch.

    Raises:
        UserError: no items, an id that comes twice, photographs that are not there, or a folder that cannot be written.
    """
    _check(items, metrics)
    with Record(folder) as record:
        write_run(folder, items, metrics, absent or {})
        done = kept = without = 0
        for group in _batched(_ahead(_prepared(items, metrics, record)), batch):
            rows = [row for prepared in group for row in prepared.rows]
            rows += _measured(group)
            record.append(rows)
            done += len(group)
            kept += sum(prepared.is_kept for prepared in group)
            without += sum(prepared.sample is None and not prepared.is_kept for prepared in group)
            if progress is not None:
                progress(Progress(done, len(items), kept, without))
    return load_report(folder)


def _check(items: Sequence[Item], metrics: Sequence[Metric]) -> None:
    """What would fail for many rows alike, before any work."""
    if not items:
        raise UserError("There is nothing to evaluate: the benchmark lists no videos.")
    if not metrics:
        raise UserError("There is nothing to measure: no metric was asked for, or the weights of none were given.")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UserError(f"The id {item.id} comes twice in the benchmark. Ids name the rows; make it unique.")
        seen.add(item.id)
    needing = [metric.name for metric in metrics if metric.needs_reference]
    gone = [(item, path) for item in items for path in item.references if not path.is_file()]
    if needing and gone:
        item, path = gone[0]
        others = f", and {len(gone) - 1} more are not there" if len(gone) > 1 else ""
        raise UserError(
            f"The reference {path} of {item.id} is not there{others}. {', '.join(needing[:3])} compare each video with it: "
            "put the pictures where the benchmark names them, or choose --metrics that need none."
        )


# --------------------------------------------------------------------------------------------- one video after another


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An item on its way: what is still to be measured, what is decided already.

    Attributes:
        sample: the decoded video; None where there is nothing to measure.
        pending: metrics to measure, with the key of their row.
        rows: those that need no measuring.
        is_kept: whether every row was there before.
        sha256: of the video.
    """

    item: Item
    sample: Sample | None
    pending: tuple[tuple[Metric, str], ...] = ()
    rows: list[Row] = field(default_factory=list)
    is_kept: bool = False
    sha256: str = ""


def _prepared(items: Iterable[Item], metrics: Sequence[Metric], record: Record) -> Iterator[_Prepared]:
    read = lru_cache(maxsize=32)(read_picture)  # rows beside each other often share their references
    digest = lru_cache(maxsize=4096)(_digest)
    for item in items:
        sha256 = _digest(item.video)
        digests = [digest(path) for path in item.references]
        keys = [(metric, row_key(item, metric, sha256, digests)) for metric in metrics]
        known = [(metric, key, record.get(key)) for metric, key in keys]
        again = [row for _, _, row in known if row is not None and not record.counts(row)]
        # A metric that failed may have lacked memory: it is tried again. What a file's bytes decide, stays.
        pending = [(metric, key) for metric, key, row in known if row is None or row.status == "failed"]
        if not pending:
            yield _Prepared(item, None, rows=again, is_kept=True)
        elif not sha256:
            told = "it is a folder, not a file" if item.video.is_dir() else "there is no such file"
            reason = f"{item.video.name}: {told}"
            rows = [_row(item, metric, key, "missing", reason) for metric, key in pending]
            yield _Prepared(item, None, rows=again + rows)
        else:
            yield _decoded(item, pending, sha256, again, read)


def _decoded(
    item: Item,
    pending: Sequence[tuple[Metric, str]],
    sha256: str,
    rows: list[Row],
    read: Callable[[Path], np.ndarray],
) -> _Prepared:
    def wanted(num_frames: int, fps: float) -> np.ndarray:
        return np.concatenate([metric.indices(num_frames, fps) for metric, _ in pending])

    try:
        video = read_frames(item.video, wanted)
    except UnreadableVideo as error:
        reason = f"{item.video.name}: {error}"
        rows += [_row(item, metric, key, "unreadable", reason, sha256=sha256) for metric, key in pending]
        return _Prepared(item, None, rows=rows, sha256=sha256)
    references, trouble = _references(item, read)
    sample = Sample(
        item=item,
        frames=video.frames,
        indices=video.indices,
        num_frames=video.num_frames,
        fps=video.fps,
        references=references,
    )
    left = []
    for metric, key in pending:
        if metric.needs_reference and trouble is not None:
            rows.append(_row(item, metric, key, *trouble, sha256=sha256, sample=sample))
        else:
            left.append((metric, key))
    return _Prepared(item, sample, tuple(left), rows, sha256=sha256)


def _references(
    item: Item, read: Callable[[Path], np.ndarray]
) -> tuple[tuple[np.ndarray, ...], tuple[Status, str] | None]:
    """The pictures; or none of them, and why metrics that need them cannot go on."""
    if not item.references:
        return (), ("no reference face", "the benchmark names no picture of a person for this row")
    try:
        return tuple(read(path) for path in item.references), None
    except UserError as error:
        return (), ("failed", f"reference: {error}")


def _digest(path: Path) -> str:
    return sha256_file(path) if path.is_file() else ""


def _ahead(values: Iterator[_T]) -> Iterator[_T]:
    """The same values, the next one made in a thread meanwhile: decoding and measuring overlap."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, values, end)
        while (value := coming.result()) is not end:
            coming = pool.submit(next, values, end)
            yield value  # pyright: ignore[reportReturnType]  (not the end)


def _batched(prepared: Iterable[_Prepared], size: int) -> Iterator[list[_Prepared]]:
    """Groups of ``size`` decoded videos, or fewer where those are large; videos without work come along."""
    group: list[_Prepared] = []
    num_decoded = num_bytes = 0
    for one in prepared:
        group.append(one)
        if one.sample is not None:
            num_decoded += 1
            num_bytes += one.sample.frames.nbytes
        if num_decoded >= size or num_bytes >= _BATCH_BYTES or len(group) >= 16 * size:
            yield group
            group, num_decoded, num_bytes = [], 0, 0
    if group:
        yield group


# ------------------------------------------------------------------------------------------------------------ measuring


def _measured(group: Sequence[_Prepared]) -> list[Row]:
    """The pending rows of a batch, metric by metric."""
    work: dict[int, tuple[Metric, list[tuple[_Prepared, str]]]] = {}
    for prepared in group:
        for metric, key in prepared.pending:
            work.setdefault(id(metric), (metric, []))[1].append((prepared, key))
    rows = []
    for metric, places in work.values():
        for prepared, key in places:
            assert prepared.sample is not None  # what could not be read is not pending
            start = time.perf_counter()
            result = _result(metric, prepared.sample)
            row = _row(
                prepared.item,
                metric,
                key,
                result.status,
                result.reason,
                sha256=prepared.sha256,
                sample=prepared.sample,
                result=result,
                seconds=time.perf_counter() - start,
            )
            rows.append(row)
    return rows


def _result(metric: Metric, sample: Sample) -> Result:
    """What a metric gives for a video; that it raised, where it did, so that one video takes no other with it."""
    try:
        return _checked(metric.measure(sample))
    except Exception as error:
        return Result(values={}, status="failed", reason=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _checked(result: Result) -> Result:
    """A number that is none cannot be averaged, nor written as JSON."""
    wrong = [name for name, value in result.values.items() if value is not None and not math.isfinite(value)]
    if wrong:
        return Result(values={}, status="failed", reason=f"{', '.join(wrong)} came out as no number")
    return result


def _row(
    item: Item,
    metric: Metric,
    key: str,
    status: Status,
    reason: str,
    *,
    sha256: str = "",
    sample: Sample | None = None,
    result: Result | None = None,
    seconds: float = 0.0,
) -> Row:
    height, width = sample.frames.shape[1:3] if sample is not None else (0, 0)
    return Row(
        key=key,
        id=item.id,
        metric=metric.name,
        protocol=metric.protocol,
        weights=metric.weights,
        status=status,
        reason=reason,
        values={name: _plain(value) for name, value in result.values.items()} if result else {},
        curves={name: [_plain(value) for value in curve] for name, curve in result.curves.items()} if result else {},
        details=result.details if result else {},
        video_sha256=sha256,
        width=width,
        height=height,
        num_frames=sample.num_frames if sample is not None else 0,
        fps=sample.fps if sample is not None else 0.0,
        seconds=round(seconds, 4),
    )


def _plain(value: float | None) -> float | None:
    """Numpy's numbers as Python's; what is no number in a curve becomes a gap."""
    return None if value is None or not math.isfinite(value) else float(value)
