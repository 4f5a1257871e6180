"""The benchmark of decoding runs at tiny size, and its planned way changes no pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def decoding(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import decoding

    return decoding


def test_every_way_sees_the_same_frames(decoding, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    decoding.encode(path, seconds=2, height=72, gop=30)
    found = {"planned": decoding.planned, "all": decoding.everything, "OpenCV": decoding.opencv}
    figures = decoding.measure(path, found, rounds=1)
    assert set(figures) == set(found) and min(figures.values()) > 0
    planned, opencv = decoding.planned(path), decoding.opencv(path)
    assert len(planned) == len(opencv) == 4
    for index, picture in enumerate(opencv):  # another conversion to RGB, the same frame
        distances = [np.abs(other.astype(float) - picture).mean() for other in planned]
        assert int(np.argmin(distances)) == index


def test_a_way_that_changes_a_pixel_is_refused(decoding, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    decoding.encode(path, seconds=1, height=72, gop=30)
    with pytest.raises(AssertionError, match="no pixel"):
        decoding.measure(path, {"planned": lambda p: [255 - picture for picture in decoding.planned(p)]}, rounds=1)
