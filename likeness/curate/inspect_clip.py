"""One clip of a dataset measured again, to see why it was dropped or what it crashes."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict
from typing import Any

from likeness.curate.record import Dataset
from likeness.curate.rules import decide, judge_quality, unchecked
from likeness.curate.types import ClipSource
from likeness.curate.worker import WorkerSpec
from likeness.errors import UserError


def inspect_clip(folder: str | os.PathLike[str], key: str) -> dict[str, Any]:
    """Measure a clip as a worker of the dataset would, in this process, and leave the dataset alone.

    Args:
        folder: of the dataset.
        key: of the clip: 16 hex digits, or as many of the first as tell it from the others.

    Returns:
        source, verdict and measures as plain values; ``tradeoff`` is the verdict about its being in trade-off pairs, ``unchecked``
        names the rules that did not apply.

    Raises:
        UserError: no dataset, or not exactly one clip with that key.
        ClipError: the clip cannot be read.
    """
    dataset = Dataset.open(folder)
    sources = dataset.sources()
    found = [row for row, other in enumerate(sources.column("key").to_pylist()) if key and other.startswith(key)]
    if len(found) != 1:
        raise UserError(
            f"{len(found)} clips of {dataset.folder} have a key that begins with {key!r}; give a key of clips.parquet or of the report."
        )
    source = ClipSource(
        **{name: value for name, value in sources.slice(found[0], 1).to_pylist()[0].items() if name != "key"}
    )
    with tempfile.TemporaryDirectory() as crops:
        spec = WorkerSpec(config=dataset.config.to_dict(), faces=dataset.faces, dataset=crops)
        measures = spec()(source).measures
    return {
        "source": asdict(source),
        "verdict": asdict(decide(measures, dataset.config, source.caption)),
        "tradeoff": asdict(judge_quality(dataset.config)(measures, source.caption)),
        "unchecked": list(unchecked(measures, dataset.config, source.caption)),
        "measures": asdict(measures),
    }
