"""Rows of the record decided, some shards at a time: here, or in processes that share them.

Each portion is decided by itself and comes back in its place, so the result is the same to the byte whoever decided it. A process
holds one portion at a time, and few wait for whoever collects them, so memory does not grow with the number of clips but by what
is collected.
"""

from __future__ import annotations

import gc
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa

from likeness.curate.config import CurationConfig
from likeness.curate.record import read_shard
from likeness.curate.rules import judge, judge_quality, score
from likeness.curate.tables import FOUND, MEASURES, measures_of
from likeness.errors import UserError
from likeness.threads import end_with_parent

# What is decided of each row, before clips are compared with one another. `tradeoff` is why a clip that is kept may be in no
# trade-off pair, empty for one that may; `value` and `threshold` are those of the one reason or the other.
VERDICT = pa.schema(
    [("status", pa.string()), ("reason", pa.string()), ("tradeoff", pa.string()), ("value", pa.float64()),
     ("threshold", pa.float64()), ("score", pa.float64())]
)  # fmt: skip
KEPT_COLUMNS = ("clip_id", "detail", *MEASURES.names)
PORTION = 4096  # rows, about: some MB, and a fraction of a second of work
_PORTIONS_A_WORKER = 8  # with fewer, starting a process costs more than it saves


@dataclass(frozen=True, kw_only=True)
class Share:
    """Rows of one shard.

    Attributes:
        path: of the shard.
        rows: ``int64``, those that are wanted.
        captions: of each of them.
    """

    path: Path
    rows: np.ndarray
    captions: Sequence[str | None]


def decide_shares(
    shares: Iterable[Share], config: CurationConfig, *, num_rows: int, workers: int
) -> Generator[pa.Table, None, None]:
    """Decide about the clips of shards; closing the iterator ends the processes.

    Args:
        num_rows: of all shares together, which says how many processes are worth their start.
        workers: processes at most; 1 for none but this.

    Yields:
        A table of ``KEPT_COLUMNS`` and ``VERDICT`` a portion; their rows are those of the shares, in order.

    Raises:
        CheckpointError: a shard is lost or damaged.
        UserError: a process died.
    """
    portions = _portions(shares)
    workers = min(workers, num_rows // (PORTION * _PORTIONS_A_WORKER))
    if workers < 2:
        yield from (_decided(portion, config) for portion in portions)
    else:
        yield from _spread(portions, config, workers)


def _portions(shares: Iterable[Share]) -> Iterator[list[Share]]:
    portion: list[Share] = []
    for share in shares:
        portion.append(share)
        if sum(len(one.rows) for one in portion) >= PORTION:
            yield portion
            portion = []
    if portion:
        yield portion


def _spread(portions: Iterable[list[Share]], config: CurationConfig, workers: int) -> Generator[pa.Table, None, None]:
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin)
    waiting: deque[Future[pa.Table]] = deque()
    try:
        for portion in portions:
            waiting.append(pool.submit(_decided, portion, config))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            f"One of {workers} processes that decide about clips died, most likely of too little memory. Nothing was changed; "
            "try again with --workers 1."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent ends the work
    gc.disable()  # as in the first process: millions of small values, and none of them in a cycle
    end_with_parent()


def _decided(portion: Sequence[Share], config: CurationConfig) -> pa.Table:
    tables = [read_shard(share.path, [*FOUND.names, *MEASURES.names], share.rows) for share in portion]
    captions = [caption for share in portion for caption in share.captions]
    table = pa.concat_tables(tables).combine_chunks()
    verdicts = _verdicts(table, captions, config)
    return pa.table([*table.select(KEPT_COLUMNS).columns, *verdicts], names=[*KEPT_COLUMNS, *VERDICT.names])


def _verdicts(table: pa.Table, captions: Sequence[str | None], config: CurationConfig) -> list[pa.Array]:
    """``VERDICT`` of each row; the best have not been chosen yet."""
    decide, decide_quality, ranking = judge(config), judge_quality(config), config.ranking
    statuses, reasons = table.column("status").to_pylist(), table.column("reason").to_pylist()
    rows = []
    for measures, caption, status, reason in zip(measures_of(table), captions, statuses, reasons, strict=True):
        if measures is None:
            rows.append((status, reason, None, None, None, None))
            continue
        verdict = decide(measures, caption)
        if verdict.keep:
            quality = decide_quality(measures, caption)
            rows.append(("ok", "", quality.reason, quality.value, quality.threshold, score(measures, ranking)))
        else:
            rows.append(("dropped", verdict.reason, None, verdict.value, verdict.threshold, None))
    columns = zip(*rows, strict=True) if rows else ([] for _ in VERDICT)
    return [pa.array(values, field.type) for values, field in zip(columns, VERDICT, strict=True)]
