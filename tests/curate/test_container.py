"""Files that are no clips: each told by its reason, with the file's name and where it was named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted import index_lost, no_frames, sound_alone, text, video, zero_bytes

from likeness.curate.container import opened
from likeness.curate.decode import read_timeline
from likeness.curate.types import ClipError, ClipSource

FRAMES = np.zeros((8, 32, 32, 3), np.uint8)


def missing(path: Path, frames: np.ndarray) -> None:
    pass


def folder(path: Path, frames: np.ndarray) -> None:
    path.mkdir()


def picture(path: Path, frames: np.ndarray) -> None:
    Image.fromarray(frames[0]).save(path, "PNG")


def playlist(path: Path, frames: np.ndarray) -> None:
    """A list that leads to another file, which FFmpeg would follow."""
    video(path.with_name("other.mp4"), frames)
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n")


def concat(path: Path, frames: np.ndarray) -> None:
    video(path.with_name("other.mp4"), frames)
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")


def first_bytes(path: Path, frames: np.ndarray) -> None:
    video(path, frames)
    path.write_bytes(path.read_bytes()[:100])


def unreadable_bytes(path: Path, frames: np.ndarray) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (missing, "missing"),
        (zero_bytes, "empty file"),
        (text, "not a video"),
        (unreadable_bytes, "not a video"),
        (picture, "not a video"),
        (playlist, "not a video"),
        (concat, "not a video"),
        (sound_alone, "no video stream"),
        (folder, "unreadable"),
        (index_lost, "corrupt"),
        (first_bytes, "corrupt"),
        (no_frames, "corrupt"),
    ],
)
def test_each_has_its_reason(write: Callable, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write(path, FRAMES)
    with pytest.raises(ClipError) as caught:
        read_timeline(ClipSource(path=str(path), origin="list.json, entry 3"), 2.0)
    assert caught.value.reason == reason
    assert str(path) in str(caught.value) and "list.json, entry 3" in str(caught.value)


def test_a_span_beyond_the_end_is_told(tmp_path: Path) -> None:
    video(tmp_path / "clip.mp4", FRAMES)
    with pytest.raises(ClipError, match="ends after 2") as caught:
        read_timeline(ClipSource(path=str(tmp_path / "clip.mp4"), start_s=99.0), 2.0)
    assert caught.value.reason == "unreadable"


def test_pictures_that_are_too_large_are_not_decoded(tmp_path: Path, monkeypatch) -> None:
    import likeness.curate.container as container

    video(tmp_path / "clip.mp4", FRAMES)
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 1000)
    with pytest.raises(ClipError, match="32 x 32 px, too many"), opened(ClipSource(path=str(tmp_path / "clip.mp4"))):
        pass


def test_the_error_travels_between_processes() -> None:
    error = copy.copy(ClipError("said", "corrupt"))  # made by the way in which it is sent
    assert (str(error), error.reason) == ("said", "corrupt")
