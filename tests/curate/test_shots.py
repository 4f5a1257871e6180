"""Long videos become shots: where the picture changes, whatever the file's own times."""

from __future__ import annotations

import builtins
import os
import signal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from likeness.curate.decode import read_samples, read_timeline
from likeness.curate.shots import cut_into_shots, cuts_of
from likeness.curate.sources import read_sources
from likeness.curate.types import ClipSource
from likeness.errors import UserError
from likeness.media import write_video
from likeness.types import Video

pytest.importorskip("scenedetect")
RATE, SHOT = 10, 20  # frames a second, frames a shot


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Three shots of two seconds, each of its own colours, moving a little."""
    noise = np.random.default_rng(0)
    places = [np.kron(noise.integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(3)]
    frames = np.stack([np.roll(place, step // 4, 1) for place in places for step in range(SHOT)])
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(path, Video(frames, RATE))
    return path


def test_shots_are_cut_where_the_picture_changes(film: Path) -> None:
    assert cuts_of(str(film)) == pytest.approx([2.0, 4.0])
    shots = read_sources([film], shots=True)
    assert [(shot.start_s, shot.end_s) for shot in shots] == [(0.0, 2.0), (2.0, 4.0), (4.0, None)]
    assert [shot.origin for shot in shots] == [f"film.mp4, shot {number}" for number in (1, 2, 3)]
    assert len({shot.key for shot in shots}) == 3
    pictures = []
    for shot in shots:
        samples = list(read_samples(shot, read_timeline(shot, 2.0)))
        assert len(samples) == 4
        pictures.append([sample.picture.astype(float) for sample in samples])
    within = max(np.abs(shot[0] - shot[-1]).mean() for shot in pictures)
    between = min(np.abs(a[-1] - b[0]).mean() for a, b in pairwise(pictures))
    assert within < 0.7 * between, "no shot reaches into the next"


def test_what_needs_no_cutting_stays_as_it_is(film: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    sources = [
        ClipSource(path=str(film), start_s=1.0, end_s=3.0),
        ClipSource(path=str(text), caption="A man."),
        ClipSource(path=str(tmp_path / "gone.mp4")),
    ]
    done = []
    assert cut_into_shots(sources, progress=lambda *counts: done.append(counts)) == sources
    assert done == [(1, 2), (2, 2)]


def cuts_or_crash(path: str) -> list[float]:
    if "poison" in path:
        os.kill(os.getpid(), signal.SIGKILL)
    return [1.0]


def test_a_file_that_crashes_its_process_costs_its_own_cuts(monkeypatch) -> None:
    monkeypatch.setattr("likeness.curate.shots.cuts_of", cuts_or_crash)
    found = cut_into_shots([ClipSource(path=f"/{name}.mp4") for name in ("a", "poison", "b")], workers=2)
    assert [(Path(shot.path).stem, shot.start_s) for shot in found] == [
        ("a", 0.0), ("a", 1.0), ("poison", 0.0), ("b", 0.0), ("b", 1.0),
    ]  # fmt: skip


def test_the_missing_package_is_named(film: Path, monkeypatch) -> None:
    plain = builtins.__import__

    def without(name, *rest):
        if name == "scenedetect":
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"likeness\[curate\]"):
        cut_into_shots([ClipSource(path=str(film))])
