"""The benchmark of mining runs at a small size, and every exact way sees the same pairs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_ways_take_turns_and_miss_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "mining", raising=False)
    import mining

    faces = mining.made_up_faces(1500, width=64)
    calls: list[str] = []
    original = mining.ways

    def counted(*arguments):
        rows = original(*arguments)
        for row in rows:
            object.__setattr__(row, "run", lambda name=row.name, run=row.run: (calls.append(name), run()))
        return rows

    monkeypatch.setattr(mining, "ways", counted)
    monkeypatch.setattr(mining, "faiss_ways", lambda *_: [])
    lines = mining.table(faces, num_tiles=2, runs=2, prefilters=["int8", "bfloat16"]).split("\n")
    names = ["float32 blocks", "likeness, int8", "likeness, bfloat16"]
    assert calls == names * 2
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:5]]
    assert [row[0] for row in rows] == names
    assert all(row[4] == "67 %" and float(row[5]) == 1.0 for row in rows), "two of three tiles, every pair"
    assert len(lines) == 7 and lines[-1].endswith("core-hours")


def test_recall_sees_what_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import mining

    search = mining.Search.prepare(
        mining.made_up_faces(600, width=64), np.arange(600), mining.BANDS, device="cpu", block=256
    )
    tiles = search.tiles()
    true = mining.pairs_of(search, tiles)
    assert len(true) > 100 and mining.recall_of(search, tiles, true) == 1.0
    half = mining.recall_of(search, tiles[::2], true)
    assert 0 < half < 1
