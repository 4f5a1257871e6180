"""Which of the trade-off pairs are used: the last paragraph of Concat-ID's section 4.2.

The paper filters these pairs alone by the area of faces and ranks what is left. A pair that is not used keeps its row with the
reason, so that other limits are decided by without comparing faces again.
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from likeness.curate.record import Dataset, read_table, write_table
from likeness.curate.rules import is_of_pairs, rank
from likeness.curate.tables import PAIRS

TRADEOFF = "tradeoff"


def choose_tradeoff(dataset: Dataset, clips: pa.Table) -> Counter[str]:
    """Say of each trade-off pair of a dataset whether it is used, and if not, why, in ``pairs/tradeoff.parquet``.

    Args:
        clips: the verdicts about the dataset's clips, as :func:`~likeness.curate.verdicts.decided_clips` makes them.

    Returns:
        How many there are by reason; those that are used have none.

    Raises:
        CheckpointError: the table of pairs is lost or damaged.
        UserError: the disk is full.
    """
    path = dataset.folder / "pairs" / f"{TRADEOFF}.parquet"
    pairs = read_table(path)
    found = clips.select(["key", "tradeoff", "value", "threshold", "score"]).take(pairs.column("clip")).to_pydict()
    lines = {"reason": found["tradeoff"], "value": found["value"], "threshold": found["threshold"]}
    fit = [place for place, reason in enumerate(lines["reason"]) if not reason]
    top = dataset.config.ranking.top if is_of_pairs(dataset.config) else None
    for place, verdict in zip(
        fit, rank([found["key"][n] for n in fit], [found["score"][n] for n in fit], top), strict=True
    ):
        lines["reason"][place], lines["value"][place], lines["threshold"][place] = (
            verdict.reason, verdict.value, verdict.threshold,
        )  # fmt: skip
    columns = [
        pa.array(lines[field.name], field.type) if field.name in lines else pairs.column(field.name) for field in PAIRS
    ]
    write_table(path, pa.table(columns, schema=PAIRS))
    return Counter(lines["reason"])
