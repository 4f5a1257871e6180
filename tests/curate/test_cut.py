"""Shots as files: the frames of the span and no others, at their own times, upright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planted import RATE, Writer, ten_bit, text, turned, variable_rate, video

from likeness.curate.cut import cut
from likeness.curate.types import ClipError
from likeness.media import read_video


def times_s(path: Path) -> list[float]:
    import av

    with av.open(str(path)) as container:
        return [frame.time or 0.0 for frame in container.decode(video=0)]


@pytest.fixture
def frames() -> np.ndarray:
    """A bright bar that moves a step a frame; taller than wide, and darker at the top."""
    frames = np.full((20, 64, 48, 3), 40, np.uint8)
    frames[:, 32:] = 90
    for index in range(20):
        frames[index, :, 2 * index : 2 * index + 8] = 230
    return frames


@pytest.mark.parametrize(
    ("write", "start_s", "end_s"),
    [(video, 0.0, 0.7), (video, 1.4, None), (turned, 0.9, 2.1), (variable_rate, 0.9, 2.1), (ten_bit, 1.4, None)],
)
def test_a_shot_has_the_frames_of_its_span(
    write: Writer, start_s: float, end_s: float | None, frames: np.ndarray, tmp_path: Path
) -> None:
    source, output = tmp_path / "long.mp4", tmp_path / "shots" / "shot.mp4"
    write(source, frames)
    cut(source, start_s, end_s, output)
    times = times_s(source)
    inside = [index for index, time in enumerate(times) if time >= start_s and (end_s is None or time < end_s)]
    assert 0 < len(inside) < len(times)
    assert times_s(output) == pytest.approx([times[index] - times[inside[0]] for index in inside], abs=1e-3)
    shot, whole = read_video(output).frames, read_video(source).frames[inside]
    assert shot.shape == whole.shape
    assert np.abs(shot.astype(float) - whole).mean() < 4, "a neighbouring frame is 12 off"


def test_a_span_without_frames_and_a_file_that_is_no_video_are_the_clips_fault(
    frames: np.ndarray, tmp_path: Path
) -> None:
    video(tmp_path / "long.mp4", frames)
    text(tmp_path / "text.mp4", frames)
    with pytest.raises(ClipError, match=r"no frame from 60\.0 s"):
        cut(tmp_path / "long.mp4", 60.0, None, tmp_path / "shot.mp4")
    with pytest.raises(ClipError, match="cannot be read"):
        cut(tmp_path / "text.mp4", 0.0, None, tmp_path / "shot.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.mp4", "text.mp4"]
    assert len(times_s(tmp_path / "long.mp4")) == 20 and RATE == 4
