"""Videos: what is read, what is refused and with which words, and that browsers play what is written."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from test_media import close, two_halves

from likeness.errors import UserError
from likeness.media import read_video, sha256_file, write_video
from likeness.types import Video


def moving_square(num_frames: int = 9, size: int = 64) -> np.ndarray:
    """A white square that walks to the right over a colour ramp."""
    ramp = np.linspace(40, 200, size, dtype=np.uint8)
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    frames[..., 0], frames[..., 1], frames[..., 2] = ramp, ramp[:, None], 90
    for index in range(num_frames):
        frames[index, 20:40, 4 * index : 4 * index + 16] = 255
    return frames


def test_a_video_comes_back_with_its_colours(tmp_path: Path) -> None:
    frames = moving_square()
    write_video(tmp_path / "out.mp4", Video(frames, 8.0))
    video = read_video(tmp_path / "out.mp4")
    assert video.fps == 8 and video.frames.shape == frames.shape
    error = video.frames.astype(float) - frames
    psnr_db = 10 * np.log10(255**2 / np.mean(error**2))
    # A wrong matrix (BT.601 read as BT.709) gives 31.8 dB, swscale's quick rounding 43.3 dB, this 43.9 dB.
    assert psnr_db > 43.5


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (5, 64, 96, 3), dtype=np.uint8)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, Video(noise, 8.0), metadata={"comment": "note"})
    assert sha256_file(tmp_path / "a.mp4") == sha256_file(tmp_path / "b.mp4")
    write_video(tmp_path / "c.mp4", Video(255 - noise, 8.0), metadata={"comment": "note"})
    assert sha256_file(tmp_path / "a.mp4") != sha256_file(tmp_path / "c.mp4")


def test_the_file_is_what_browsers_play(tmp_path: Path) -> None:
    import av

    path = tmp_path / "out.mp4"
    write_video(path, Video(moving_square(), 23.976), metadata={"comment": "Made by AI: no such person"})
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat"), "the index must lie before the pictures"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.profile, context.pix_fmt) == ("h264", "High", "yuv420p")
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        assert [int(tag) for tag in tags] == [1, 1, 1, 1]
        assert container.metadata["comment"] == "Made by AI: no such person"
        assert stream.average_rate is not None and abs(stream.average_rate - Fraction(24000, 1001)) < 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 63}, "Use 64 x 64 px"),
        ({"crf": 52}, "1 .* to 51"),
        ({"name": "out.avi"}, r"must end in \.mp4"),
        ({"metadata": {"camera": "none"}}, "keeps no metadata named camera"),
    ],
)
def test_a_video_that_cannot_be_written_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    video = Video(np.zeros((2, change.get("height", 64), 64, 3), np.uint8), 8.0)
    with pytest.raises(UserError, match=message):
        write_video(
            tmp_path / change.get("name", "out.mp4"),
            video,
            crf=change.get("crf", 16),
            metadata=change.get("metadata"),
        )
    assert os.listdir(tmp_path) == []


def test_a_telephone_video_is_turned(tmp_path: Path) -> None:
    """Telephones store landscape frames and a display matrix; it is written into the track header here."""
    path = tmp_path / "phone.mp4"
    stored = np.rot90(two_halves(96, 64), 1)  # portrait, as the sensor sees it: turned to the left
    write_video(path, Video(np.stack([stored] * 3), 8.0))
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes of fields lie before the 3 x 3 matrix
    assert struct.unpack_from(">9i", data, matrix) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", data, matrix, 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)  # shown turned to the right
    path.write_bytes(data)
    frame = read_video(path).frames[0]
    assert frame.shape == (96, 64, 3)
    assert close(frame[:, :24], two_halves(96, 64)[:, :24], 6)


def silent_wav() -> bytes:
    samples = bytes(16_000)
    fields = struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16_000, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + len(samples))
        + b"WAVEfmt "
        + fields
        + b"data"
        + struct.pack("<I", 16_000)
        + samples
    )


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", Video(moving_square(), 8.0))
    good = (tmp_path / "good.mp4").read_bytes()
    for name, data, message in [
        ("empty.mp4", b"", "0 bytes"),
        ("text.mp4", b"not a film " * 50, "not a video"),
        ("cut.mp4", good[: len(good) // 2], "damaged"),
        ("sound.wav", silent_wav(), "only sound"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=message):
            read_video(tmp_path / name)
    with pytest.raises(UserError, match="There is no file"):
        read_video(tmp_path / "nothing.mp4")
