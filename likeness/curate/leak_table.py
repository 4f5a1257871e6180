"""What is known of leaks, as a table of a dataset: who resembles whom, and who was taken out.

Apart from what finds them (:mod:`likeness.curate.leaks`), since every decision about clips reads it.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from likeness.curate.record import Dataset, read_table

LEAKS = "leaks.parquet"
SCHEMA = pa.schema(
    [("side", pa.string()), ("picture", pa.string()), ("identity", pa.string()), ("key", pa.string()), ("clip", pa.int64()),
     ("face", pa.int64()), ("cosine", pa.float64()), ("threshold", pa.float64()), ("dropped", pa.bool_())]
)  # fmt: skip


def leaked_clips(folder: Path) -> dict[str, tuple[float, float | None]]:
    """Clips that were taken out of a dataset for showing somebody of a benchmark: by their keys the cosine and what it is above,
    None where somebody's eyes decided."""
    if not (folder / LEAKS).exists():
        return {}
    rows = read_table(folder / LEAKS, ["side", "key", "cosine", "threshold", "dropped"]).to_pylist()
    return {r["key"]: (r["cosine"], r["threshold"]) for r in rows if r["side"] == "training" and r["dropped"]}


def is_outdated(dataset: Dataset) -> bool:
    """Whether other clips are kept than those whose faces were compared with a benchmark; False where none was."""
    path = dataset.folder / LEAKS
    if not path.exists():
        return False
    compared = (read_table(path, ["side"]).schema.metadata or {}).get(b"faces", b"").decode()
    return compared != dataset.made.get("faces", "")
