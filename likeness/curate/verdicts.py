"""From the record to the final tables: what is decided about each clip, and the faces of those that are kept.

Nothing is decoded. Rows stand in the order of the clips' paths and hold nothing that depends on the order of work, so the tables
are the same whatever was interrupted on the way.
"""

from __future__ import annotations

import gc
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from likeness.curate.config import CurationConfig
from likeness.curate.deciding import KEPT_COLUMNS, VERDICT, Share, decide_shares
from likeness.curate.record import Current, Dataset
from likeness.curate.rules import LEAK, RULES, decide, is_of_pairs, rank
from likeness.curate.tables import FOUND, MEASURES, REFERENCE, SOURCE, reference_columns
from likeness.curate.types import Measures, Verdict
from likeness.disk import full_disk_told
from likeness.errors import UserError
from likeness.media import atomic_write

CLIPS, FACES = "clips.parquet", "faces.parquet"
_AT_ONCE = 65536  # rows of faces
_UNSEEN = Measures(
    width=0, height=0, fps=0.0, duration_s=0.0, rotation=0, num_expected=0, num_delivered=0, num_corrupt=0, num_people=(),
    cosines=(), areas=(), flow=0.0, motion=0.0, aesthetics=None,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of the clips of a dataset.

    Attributes:
        clips: all of them.
        statuses: clips by status; sums to ``clips``.
        reasons: those that are not kept, by status and reason.
        faces: reference faces of those that are kept or leak.
        uncaptioned: clips without a caption.
    """

    clips: int
    statuses: dict[str, int]
    reasons: dict[tuple[str, str], int]
    faces: int = 0
    uncaptioned: int = 0


def dropped_unseen(caption: str | None, config: CurationConfig) -> bool:
    """Whether a clip's caption alone decides against it, so that it need not be decoded. It is the first rule of the table."""
    return decide(_UNSEEN, config, caption).reason == RULES[0].reason


def decided_clips(
    dataset: Dataset, current: Current, *, leaked: Mapping[str, tuple[float, float | None]], workers: int = 1
) -> tuple[pa.Table, Counts]:
    """Decide about every clip: what is to be written as ``clips.parquet``, source, verdict and measures of each.

    Args:
        leaked: clips that leak, as of :func:`likeness.curate.leak_table.leaked_clips`.
        workers: processes that share a large record; the table does not depend on it.

    Raises:
        UserError: for clips that were not measured yet.
    """
    with _without_collector():
        table = _decided(dataset, current, leaked, workers)
    statuses, reasons = table.column("status").to_pylist(), table.column("reason").to_pylist()
    counts = Counts(
        clips=len(table),
        statuses=dict(Counter(statuses)),
        reasons=dict(Counter((s, r) for s, r in zip(statuses, reasons, strict=True) if s != "ok")),
        uncaptioned=table.column("caption").null_count,
    )
    return table, counts


def table_stamps(dataset: Dataset, clips: pa.Table) -> dict[str, str]:
    """What the tables of faces and of pairs follow from, as short hashes."""
    said = hashlib.sha256(dataset.basis.stamp.encode())
    shown, leaking = faces_shown(clips), []
    columns = (clips.column(name).to_pylist() for name in ("status", "key", "clip_id"))
    for place, (status, key, clip_id) in enumerate(zip(*columns, strict=True)):
        if shown[place]:
            said.update(f"{place} {key} {clip_id}\n".encode())
            if status != "ok":
                leaking.append(place)
    faces = said.hexdigest()[:16]
    said.update(json.dumps(leaking).encode())
    said.update(json.dumps(dataset.config.to_dict()["pairing"], sort_keys=True).encode())
    return {"faces": faces, "pairs": said.hexdigest()[:16]}


def faces_shown(clips: pa.Table) -> np.ndarray:
    """Which clips have their faces in ``faces.parquet``, ``bool [N]``: those that are kept, and those that leak, by whose faces
    the next check will find them again."""
    statuses, reasons = clips.column("status").to_pylist(), clips.column("reason").to_pylist()
    return np.array([s == "ok" or r == LEAK for s, r in zip(statuses, reasons, strict=True)], bool)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Millions of small values are made here and none of them in a cycle; the collector would look at all of them time and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _decided(
    dataset: Dataset, current: Current, leaked: Mapping[str, tuple[float, float | None]], workers: int
) -> pa.Table:
    sources = dataset.sources()
    captions = sources.column("caption").to_pylist()
    index = {key: number for number, key in enumerate(sources.column("key").to_pylist())}
    places = [_looked_up(keys, index) for keys in current.keys]  # of the rows of each shard among the sources
    shares = (
        Share(path=path, rows=rows[at >= 0], captions=[captions[place] for place in at[at >= 0].tolist()])
        for path, rows, at in zip(current.paths, current.rows, places, strict=True)
        if (at >= 0).any()
    )
    at = np.concatenate([np.zeros(0, np.int64), *places])
    at = at[at >= 0]  # without clips that were named once and are no longer
    is_seen = np.zeros(len(sources), bool)
    is_seen[at] = True
    unseen = np.flatnonzero(~is_seen)
    rest = _unseen([captions[place] for place in unseen.tolist()], dataset, len(sources))
    with closing(decide_shares(shares, dataset.config, num_rows=len(at), workers=workers)) as tables:
        found = [*tables, rest]
    order = np.argsort(np.concatenate([at, unseen]), kind="stable")
    rows = pa.concat_tables(found).take(pa.array(order))
    verdicts = _compared(rows.select(VERDICT.names), sources.column("key"), leaked, dataset.config)
    names = [*SOURCE.names, *VERDICT.names, *KEPT_COLUMNS]
    return pa.table([*sources.columns, *verdicts, *rows.select(KEPT_COLUMNS).columns], names=names)


def _looked_up(keys: Sequence[str], index: Mapping[str, int]) -> np.ndarray:
    """Rows of the sources with these keys, ``int64``; -1 for a clip that is not among them."""
    return np.array([index.get(key, -1) for key in keys], np.int64)


def _unseen(captions: Sequence[str | None], dataset: Dataset, num_clips: int) -> pa.Table:
    """Verdicts about clips that were never decoded.

    Raises:
        UserError: for one that its caption alone does not rule out.
    """
    verdicts = [decide(_UNSEEN, dataset.config, caption) for caption in captions]
    if missing := sum(verdict.reason != RULES[0].reason for verdict in verdicts):
        raise UserError(
            f"{missing} of the {num_clips} clips of {dataset.folder} have not been measured yet. Run the same `likeness curate` "
            "again, with the settings that you want; it measures these alone."
        )
    told = [pa.array([getattr(verdict, name) for verdict in verdicts], pa.float64()) for name in ("value", "threshold")]
    count = len(captions)
    reasons = [pa.array([value] * count, pa.string()) for value in ("dropped", RULES[0].reason, None)]
    nothing = _nulls([FOUND.field("clip_id"), FOUND.field("detail"), *MEASURES], count)
    return pa.table(
        [*nothing.columns, *reasons, *told, pa.nulls(count, pa.float64())], names=[*KEPT_COLUMNS, *VERDICT.names]
    )


def _compared(
    verdicts: pa.Table,
    keys: pa.ChunkedArray,
    leaked: Mapping[str, tuple[float, float | None]],
    config: CurationConfig,
) -> list[Any]:
    """The columns of verdicts, with those clips dropped that pass every rule and are not among the best, or that leak."""
    top = None if is_of_pairs(config) else config.ranking.top
    if top is None and not leaked:
        return verdicts.columns
    lines, names = verdicts.to_pydict(), keys.to_pylist()
    passed = [place for place, status in enumerate(lines["status"]) if status == "ok"]
    ranked = rank([names[place] for place in passed], [lines["score"][place] for place in passed], top)
    for place, verdict in zip(passed, ranked, strict=True):
        if verdict.keep and names[place] in leaked:
            value, threshold = leaked[names[place]]
            verdict = Verdict(keep=False, reason=LEAK, value=value, threshold=threshold)
        if not verdict.keep:
            lines["status"][place], lines["reason"][place], lines["tradeoff"][place] = "dropped", verdict.reason, None
            lines["value"][place], lines["threshold"][place] = verdict.value, verdict.threshold
    return [pa.array(lines[field.name], field.type) for field in VERDICT]


def _nulls(fields: Sequence[pa.Field], count: int) -> pa.Table:
    return pa.table([pa.nulls(count, field.type) for field in fields], schema=pa.schema(fields))


def write_faces(dataset: Dataset, current: Current, clips: pa.Table) -> int:
    """Write ``faces.parquet``: the reference faces of :func:`faces_shown`, in the order of ``clips.parquet``; ``clip`` is the number
    of the row there. Returns how many there are.

    Embeddings are by far the largest part; they pass through a file, so that memory does not bound the size of a dataset.

    Raises:
        UserError: the disk is full.
    """
    places = np.flatnonzero(faces_shown(clips))
    index = dict(zip(clips.column("key").take(pa.array(places)).to_pylist(), places.tolist(), strict=True))
    parts: list[pa.Table] = []
    owners: list[np.ndarray] = []
    width = 0
    with full_disk_told(dataset.folder), tempfile.TemporaryFile(dir=dataset.folder) as file:
        for table in current.tables(["key", "references"]):
            keys = table.column("key").to_pylist()
            wanted = [number for number, key in enumerate(keys) if key in index]
            lists = pa.concat_arrays(table.column("references").take(pa.array(wanted, pa.int64())).chunks)
            references = pa.Table.from_struct_array(lists.flatten())
            if len(references):
                part, embeddings = reference_columns(references)
                width = embeddings.shape[1]
                file.write(embeddings.tobytes())
                parts.append(part)
                owners.append(np.repeat([index[keys[number]] for number in wanted], np.diff(lists.offsets.to_numpy())))
        file.flush()
        count = sum(len(part) for part in parts)
        owner = np.concatenate([np.zeros(0, np.int64), *owners])
        order = np.argsort(owner, kind="stable")  # of one clip they stand in order already
        embeddings = (
            np.memmap(file, np.float16, "r", shape=(count, width))
            if count * width
            else np.zeros((count, width), np.float16)
        )
        _write_in_order(dataset.folder / FACES, parts, owner, embeddings, order)
    return count


def _write_in_order(
    path: Path, parts: list[pa.Table], owner: np.ndarray, embeddings: np.ndarray, order: np.ndarray
) -> None:
    plain = [field for field in REFERENCE if field.name != "embedding"]
    schema = pa.schema([("clip", pa.int64()), *plain, REFERENCE.field("embedding")])
    rows = pa.concat_tables([_nulls(plain, 0), *parts]).combine_chunks()
    with atomic_write(path) as temporary, pq.ParquetWriter(
        temporary, schema, compression="zstd", use_dictionary=False
    ) as writer:  # fmt: skip
        for start in range(0, len(order), _AT_ONCE):
            some = order[start : start + _AT_ONCE]
            values = embeddings[some]  # [n, D]
            offsets = np.arange(len(some) + 1, dtype=np.int32) * values.shape[1]
            lists = pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))
            columns = [pa.array(owner[some]), *rows.take(pa.array(some)).columns, lists]
            writer.write_table(pa.table(columns, schema=schema))
