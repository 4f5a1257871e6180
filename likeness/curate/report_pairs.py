"""The pairs that a report shows: some of each kind in each band of cosines, with the pictures of both sides."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from likeness.curate.export import used_pairs
from likeness.curate.record import read_table
from likeness.curate.report_choice import evenly
from likeness.curate.report_page import Band, Strip
from likeness.curate.verdicts import FACES

_SIDE_PX, _QUALITY = 192, 80
_NUM_BANDS, _SHOWN = 4, 6


def shrunk(picture: bytes | Path) -> bytes:
    """A picture as a JPEG of the size that reports show; empty where it cannot be read."""
    try:
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
            image = image.convert("RGB")
            image.thumbnail((_SIDE_PX, _SIDE_PX))
            file = io.BytesIO()
            image.save(file, "JPEG", quality=_QUALITY)
            return file.getvalue()
    except OSError:
        return b""


@dataclass(frozen=True, eq=False)
class _Shown:
    """A pair that is shown: the row of its clip, the pictures of its references, lines about them."""

    clip: int
    references: tuple[bytes, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ChosenPairs:
    """Pairs to show.

    Attributes:
        counts: of the pairs that are used, by kind.
        left_out: trade-off pairs that are not, by reason.
        groups: a title, how many pairs it stands for, and those that are shown.
    """

    counts: Mapping[str, int]
    left_out: Mapping[str, int]
    groups: tuple[tuple[str, int, tuple[_Shown, ...]], ...]

    @property
    def clips(self) -> set[int]:
        """Rows of the clips that are shown."""
        return {pair.clip for _, _, pairs in self.groups for pair in pairs}

    def bands(self, jpegs: Mapping[int, bytes]) -> tuple[Band, ...]:
        """For the page, with the pictures of the clips by their rows."""
        return tuple(
            Band(
                title=title,
                count=count,
                strips=tuple(Strip(references=p.references, clip=jpegs.get(p.clip, b""), lines=p.lines) for p in pairs),
            )
            for title, count, pairs in self.groups
        )


def choose_pairs(folder: Path) -> ChosenPairs:
    """Choose among the pairs of a dataset.

    Raises:
        CheckpointError: a table is damaged.
    """
    counts, left_out, groups = {}, Counter(), []
    paths = sorted((folder / "pairs").glob("*.parquet"))
    crops = read_table(folder / FACES, ["crop"]).column("crop") if paths else None
    for path in paths:
        pairs = read_table(path)
        left_out.update(reason for reason in pairs.column("reason").to_pylist() if reason)
        pairs = used_pairs(pairs)
        counts[path.stem] = len(pairs)
        for title, rows in _bands(path.stem, pairs):
            shown = tuple(
                _shown(folder, crops, pairs.slice(int(row), 1).to_pylist()[0]) for row in evenly(rows, _SHOWN)
            )
            groups.append((title, len(rows), shown))
    return ChosenPairs(counts, left_out, tuple(groups))


def _bands(kind: str, pairs: pa.Table) -> list[tuple[str, np.ndarray]]:
    """Rows by the smallest cosine of their references, in bands of equal width; together where there are no cosines."""
    least = np.array(
        [min((c for c in row if c is not None), default=np.nan) for row in pairs.column("cosines").to_pylist()]
    )
    rows = np.flatnonzero(np.isfinite(least))
    if not len(rows):
        return [(kind, np.arange(len(pairs)))] if len(pairs) else []
    edges = np.linspace(least[rows].min(), least[rows].max(), _NUM_BANDS + 1)
    places = np.clip(np.searchsorted(edges, least[rows], side="right") - 1, 0, _NUM_BANDS - 1)
    named = [(f"{kind}, cosine {edges[n]:.2f} to {edges[n + 1]:.2f}", rows[places == n]) for n in range(_NUM_BANDS)]
    return [(title, chosen) for title, chosen in named if len(chosen)]


def _shown(folder: Path, crops: pa.ChunkedArray, pair: Mapping) -> _Shown:
    cosines = [c for c in pair["cosines"] if c is not None]
    lines = [f"cosine {', '.join(f'{c:.3f}' for c in cosines)}"] if cosines else []
    lines += ["of the same source video"] if pair["same_source"] else []
    references = tuple(shrunk(folder / crops[row].as_py()) for row in pair["references"])
    return _Shown(clip=pair["clip"], references=references, lines=tuple(lines))
