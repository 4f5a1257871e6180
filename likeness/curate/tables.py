"""What is known of clips as Arrow tables: values to columns, and columns back to values.

Rows are converted by whole columns, never one by one: a million clips have to be decided again within a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from likeness.curate.supervise import Outcome
from likeness.curate.types import ClipSource, Measures

SOURCE = pa.schema(
    [("key", pa.string()), ("path", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64()),
     ("caption", pa.string()), ("origin", pa.string())]
)  # fmt: skip
# What was found of a clip before any rule: `status` is "ok" for one that was measured, `reason` and `detail` say why one was not.
FOUND = pa.schema(
    [("status", pa.string()), ("reason", pa.string()), ("detail", pa.string()), ("clip_id", pa.string())]
)  # fmt: skip
MEASURES = pa.schema(
    [("width", pa.int32()), ("height", pa.int32()), ("fps", pa.float64()), ("duration_s", pa.float64()),
     ("rotation", pa.int16()), ("num_expected", pa.int32()), ("num_delivered", pa.int32()), ("num_corrupt", pa.int32()),
     ("num_people", pa.list_(pa.int32())), ("cosines", pa.list_(pa.list_(pa.float64()))),
     ("areas", pa.list_(pa.list_(pa.float64()))), ("flow", pa.float64()), ("motion", pa.float64()),
     ("aesthetics", pa.float64()), ("bridge", pa.float64())]
)  # fmt: skip
TRACKED_FACE = pa.struct(
    [("sample", pa.int32()), ("track", pa.int16()), ("box", pa.list_(pa.float32(), 4)), ("score", pa.float32()),
     ("area", pa.float32()), ("centre_x", pa.float32())]
)  # fmt: skip
REFERENCE = pa.struct(
    [("track", pa.int16()), ("number", pa.int16()), ("sample", pa.int32()), ("time_s", pa.float64()),
     ("box", pa.list_(pa.float32(), 4)), ("keypoints", pa.list_(pa.float32(), 10)), ("score", pa.float32()),
     ("area", pa.float32()), ("mean_x", pa.float64()), ("embedding", pa.list_(pa.float16())), ("crop", pa.string())]
)  # fmt: skip
# A pair of a clip and its references, as likeness.curate.pairs makes them. `reason` is why it is not used, empty for one that is;
# value and threshold are what decided.
PAIRS = pa.schema(
    [("kind", pa.string()), ("clip", pa.int64()), ("references", pa.list_(pa.int64())),
     ("cosines", pa.list_(pa.float64())), ("same_source", pa.bool_()), ("reason", pa.string()), ("value", pa.float64()),
     ("threshold", pa.float64())]
)  # fmt: skip
# A row of a shard. `size` and `mtime_ns` are the file's as it was measured, -1 for one that was not there; `attempts` is how often
# it was begun, which depends on what was killed meanwhile and so stands in no final table.
ROW = pa.schema(
    [("key", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("attempts", pa.int16()), *FOUND, *MEASURES,
     ("thumbnail", pa.binary()), ("faces", pa.list_(TRACKED_FACE)), ("references", pa.list_(REFERENCE))]
)  # fmt: skip


class FileState(NamedTuple):
    """Size in bytes and time of a file; -1 for one that is not there."""

    size: int = -1
    mtime_ns: int = -1


def sources_table(sources: Sequence[ClipSource]) -> pa.Table:
    """The clips of a dataset, in the order of their paths and spans, which is that of every final table."""
    rows = sorted(
        sources, key=lambda s: (s.path, s.start_s, float("inf") if s.end_s is None else s.end_s, s.caption or "", s.key)
    )
    columns = {name: [getattr(source, name) for source in rows] for name in SOURCE.names}
    return pa.table(columns, schema=SOURCE)


def rows_table(rows: Sequence[tuple[FileState, Outcome]], stamp: str) -> pa.Table:
    """Rows of a shard; ``stamp`` says what they were measured with."""
    outcomes = [outcome for _, outcome in rows]
    measured = [outcome.measured for outcome in outcomes]
    columns: dict[str, Any] = {
        "key": [outcome.source.key for outcome in outcomes],
        "size": [state.size for state, _ in rows],
        "mtime_ns": [state.mtime_ns for state, _ in rows],
        "clip_id": [m and m.clip_id for m in measured],
        "thumbnail": [m and m.thumbnail for m in measured],
        "faces": _listed([() if m is None else m.faces for m in measured], TRACKED_FACE),
        "references": _listed([() if m is None else m.references for m in measured], REFERENCE),
    }
    columns |= {name: [getattr(o, name) for o in outcomes] for name in ("status", "reason", "detail", "attempts")}
    columns |= {name: [m and getattr(m.measures, name) for m in measured] for name in MEASURES.names}
    arrays = [_array(columns[field.name], field.type) for field in ROW]
    return pa.Table.from_arrays(arrays, schema=ROW.with_metadata({"stamp": stamp}))


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _listed(items: Sequence[Sequence[Any]], kind: pa.StructType) -> pa.Array:
    """A list of structs a row, each field converted as one column."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in items])]).astype(np.int32)
    flat = list(chain.from_iterable(items))
    fields = [_field(flat, field) for field in kind]
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, fields=list(kind)), type=pa.list_(kind))


def _field(flat: list[Any], field: pa.Field) -> pa.Array:
    values = [getattr(item, field.name) for item in flat]
    if pa.types.is_fixed_size_list(field.type):
        numbers = np.asarray(values, np.float32).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(numbers), type=field.type)
    if pa.types.is_list(field.type):
        offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)
        numbers = np.concatenate([np.zeros(0, np.float16), *values]).astype(np.float16)
        return pa.ListArray.from_arrays(offsets, pa.array(numbers), type=field.type)
    return pa.array(values, field.type)


def measures_of(table: pa.Table) -> Iterator[Measures | None]:
    """The measures of each row of a table that has their columns; None for a clip that was not measured."""
    names = MEASURES.names
    columns = [_values(table.column(field.name), field.type) for field in MEASURES]
    for is_measured, *values in zip(table.column("width").is_valid().to_pylist(), *columns, strict=True):
        yield _measures(zip(names, values, strict=True)) if is_measured else None


def _measures(values: Iterable[tuple[str, Any]]) -> Measures:
    """All fields at once; the constructor of a frozen class sets them one by one, which takes ten times as long."""
    made = object.__new__(Measures)
    made.__dict__.update(values)
    return made


def _values(column: pa.ChunkedArray, kind: pa.DataType) -> list[Any]:
    """A column as Python values, lists as tuples. Arrow's own way makes an object of every number in between: ten times slower."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # without a chunk, or with too many bytes for one
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], kind)
    if not pa.types.is_list(kind):
        return array.to_numpy(zero_copy_only=False).tolist() if not array.null_count else array.to_pylist()
    inner = _values(pa.chunked_array([array.values]), kind.value_type)
    ends = array.offsets.to_pylist()
    return [tuple(inner[start:end]) for start, end in pairwise(ends)]


def reference_columns(references: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """A table of reference faces without their embeddings, and these as ``float16 [N, D]``."""
    embeddings = references.column("embedding").combine_chunks()
    values = np.concatenate([c.flatten().to_numpy(zero_copy_only=False) for c in _chunks(embeddings)] or [np.zeros(0)])
    matrix = (
        values.astype(np.float16, copy=False).reshape(len(references), -1) if len(references) else values.reshape(0, 0)
    )
    return references.drop_columns(["embedding"]), matrix


def _chunks(array: Any) -> list[Any]:
    return array.chunks if isinstance(array, pa.ChunkedArray) else [array]
