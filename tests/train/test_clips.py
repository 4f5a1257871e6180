"""Clips as a model wants them: the right frames by time, upright, cropped; damage is seen."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from likeness.errors import UserError
from likeness.train.clips import Crop, FrameRule, aspect_of, nearest_bucket, read_clip

STEP = 4  # grey levels between frames: a frame's mean tells its number


def write_clip(path, times_ms, size=(48, 64), aspect=None, group=250):
    """A clip whose frame i is plain grey STEP * i + 16, shown at times_ms[i]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000, options={"crf": "4", "bf": "2", "g": str(group)})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv444p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        noise = np.random.default_rng(0).integers(0, 40, (*size, 3), dtype=np.uint8)
        for index, time in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(noise + np.uint8(STEP * index), format="rgb24")
            frame.pts, frame.time_base = int(time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbers(clip):
    """Frame numbers as the pictures tell them."""
    means = clip.frames.astype(float).mean((1, 2, 3))
    return np.round((means - 19.5) / STEP).astype(int).tolist()


def at(fps, count):
    return [round(1000 * index / fps) for index in range(count)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("fps", "rule", "wanted"),
    [
        (8, FrameRule(5, 8), [0, 1, 2, 3, 4]),
        (24, FrameRule(9, 24), list(range(9))),
        (24, FrameRule(5, 8), [0, 3, 6, 9, 12]),
        (30, FrameRule(5, 24), [0, 1, 2, 3, 5]),
        (12, FrameRule(5, 24), [0, 0, 1, 1, 2]),
        (29.97, FrameRule(9, 29.97), list(range(9))),
    ],
)
def test_frames_are_chosen_by_time(tmp_path, suffix, fps, rule, wanted):
    clip = read_clip(write_clip(tmp_path / f"a.{suffix}", at(fps, 20)), rule, 48, 64)
    assert list(clip.indices) == wanted == numbers(clip)
    assert clip.frames.shape == (rule.num_frames, 48, 64, 3) and clip.frames.dtype == np.uint8


def test_changing_frame_rate(tmp_path):
    # Four frames in the first 0.2 s, then one that stands for a second, then the rest.
    times = [0, 50, 100, 150, 200, 1200, 1300, 1400, 1500, 1600]
    clip = read_clip(write_clip(tmp_path / "a.mkv", times), FrameRule(13, 8), 48, 64)
    assert numbers(clip) == list(clip.indices) == [0, 2, 4, 4, 4, 4, 4, 4, 4, 4, 5, 6, 8]


@pytest.mark.parametrize("start_ms", [0, 5000])
def test_a_clip_starts_where_its_first_frame_is(tmp_path, start_ms):
    clip = read_clip(write_clip(tmp_path / "a.mkv", [start_ms + time for time in at(8, 6)]), FrameRule(5, 8), 48, 64)
    assert clip.indices == (0, 1, 2, 3, 4)


def test_a_clip_that_is_just_long_enough(tmp_path):
    path = write_clip(tmp_path / "a.mp4", at(8, 5))
    assert read_clip(path, FrameRule(5, 8), 48, 64).indices == (0, 1, 2, 3, 4)
    with pytest.raises(UserError, match=r"0\.5\d s \(5 frames\); 9 frames at 8 a second need more than 1\.00 s"):
        read_clip(path, FrameRule(9, 8), 48, 64)


def test_crop_and_size(tmp_path):
    """A bright column in the middle third stays; what is left and right of the bucket's shape goes."""
    clip = read_clip(write_clip(tmp_path / "a.mp4", at(8, 6)), FrameRule(5, 8), 24, 16)
    assert clip.frames.shape == (5, 24, 16, 3)
    assert (clip.crop.left, clip.crop.top, clip.crop.width, clip.crop.height) == (16, 0, 32, 48)
    np.testing.assert_allclose(clip.crop.points(np.array([[16.0, 0.0], [48.0, 48.0], [np.nan, np.nan]])),
                               [[0, 0], [16, 24], [np.nan, np.nan]])  # fmt: skip


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = Crop.centred((64, 64), (8, 8)).picture(stripes)
    assert np.abs(small.astype(int)[:, 1:-1] - 127.5).max() < 8


def test_pixels_that_are_not_square(tmp_path):
    path = write_clip(tmp_path / "a.mp4", at(8, 6), aspect=Fraction(2, 1))
    assert aspect_of(path) == pytest.approx(128 / 48)
    crop = read_clip(path, FrameRule(5, 8), 48, 48).crop
    assert (crop.width, crop.height) == (24, 48)


def test_a_telephone_clip_is_turned(tmp_path):
    path = write_clip(tmp_path / "a.mp4", at(8, 6), size=(48, 64))
    plain = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    turned = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000)
    data = path.read_bytes()
    place = data.index(plain, data.index(b"tkhd"))
    path.write_bytes(data[:place] + turned + data[place + 36 :])
    assert aspect_of(path) == pytest.approx(48 / 64)
    clip = read_clip(path, FrameRule(5, 8), 64, 48)
    assert (clip.crop.width, clip.crop.height) == (48, 64) and numbers(clip) == [0, 1, 2, 3, 4]


def damaged(path, start, stop):
    """Bytes overwritten within the stream's data."""
    data = bytearray(path.read_bytes())
    place = data.index(b"mdat") + 4
    length = len(data) - place
    first, last = place + int(start * length), place + int(stop * length)
    data[first:last] = np.random.default_rng(1).integers(0, 255, last - first, dtype=np.uint8).tobytes()
    path.write_bytes(data)


@pytest.mark.parametrize("span", [(0.3, 0.5), (0.6, 0.61), (0.1, 0.12)])
def test_damage_is_seen(tmp_path, span):
    path = write_clip(tmp_path / "a.mp4", at(8, 40))
    damaged(path, *span)
    with pytest.raises(UserError, match=r"a\.mp4 is damaged"):
        read_clip(path, FrameRule(37, 8), 48, 64)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_clip_that_is_cut_short_is_seen(tmp_path, share, suffix):
    path = write_clip(tmp_path / f"a.{suffix}", at(8, 40))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError):
        read_clip(path, FrameRule(37, 8), 48, 64)


@pytest.mark.parametrize("content", [None, b"", b"not a clip" * 100])
def test_what_is_no_clip(tmp_path, content):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    for read in (lambda: read_clip(path, FrameRule(5, 8), 48, 64), lambda: aspect_of(path)):
        with pytest.raises(UserError, match=r"a\.mp4"):
            read()


def test_buckets():
    buckets = [(480, 832), (640, 640), (832, 480)]
    assert nearest_bucket(16 / 9, buckets) == (480, 832)
    assert nearest_bucket(1.1, buckets) == (640, 640)
    assert nearest_bucket(0.4, buckets) == (832, 480)


@pytest.mark.parametrize(("frames", "fps"), [(0, 8), (5, 0), (5, float("nan"))])
def test_rules_that_make_no_sense(frames, fps):
    with pytest.raises(UserError):
        FrameRule(frames, fps)
