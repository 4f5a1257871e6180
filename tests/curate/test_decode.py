"""Planned decoding: the samples of a whole decode to the bit, whatever the codec; what is damaged is said so."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted import Writer, flipped, ten_bit, turned, variable_rate, video

from likeness.curate.decode import (
    Sample,
    Timeline,
    decoded_frames,
    due_times,
    read_samples,
    read_timeline,
    shown_picture,
)
from likeness.curate.gops import Use, plan, segment_starts
from likeness.curate.types import ClipSource

NUM_FRAMES, RATE = 36, 12


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """A texture that moves, with noise that no frame shares: ``uint8 [F, 48, 64, 3]``."""
    noise = np.random.default_rng(0)
    smooth = np.kron(noise.integers(0, 255, (12, 20, 3)), np.ones((8, 8, 1)))
    moved = np.stack([smooth[i // 2 : i // 2 + 48, i : i + 64] for i in range(NUM_FRAMES)])
    return np.clip(moved + noise.integers(-9, 9, moved.shape), 0, 255).astype(np.uint8)


def encode(path: Path, frames: np.ndarray, codec: str, options: dict[str, str], container: str | None = None) -> Path:
    import av

    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def decoded_whole(path: Path) -> list[tuple[float, np.ndarray]]:
    """Every frame with its time, by a decoder that leaves nothing out."""
    import av

    with av.open(str(path)) as file:
        shown = [(frame.time, shown_picture(frame)[0]) for frame in file.decode(video=0)]
    first = shown[0][0]
    if first is None:
        return [(index / RATE, picture) for index, (_, picture) in enumerate(shown)]
    return [((time or 0.0) - first, picture) for time, picture in shown]


def sampled(path: Path, **span: float) -> tuple[Timeline, list[Sample]]:
    source = ClipSource(path=str(path), **span)  # pyright: ignore[reportArgumentType]
    timeline = read_timeline(source, 2.0)
    return timeline, list(read_samples(source, timeline))


def assert_equal_to_whole(path: Path, samples: list[Sample]) -> None:
    whole = decoded_whole(path)
    for sample in samples:
        expected = [picture for time, picture in whole if time <= sample.time_s + 1e-3][-1]
        assert np.array_equal(sample.picture, expected), sample.number
        assert not sample.corrupt


X264 = {"preset": "fast", "g": "12", "keyint_min": "12", "bf": "2"}
STREAMS = {
    "h264": ("libx264", X264, ".mp4", 3),
    "h264 in Matroska": ("libx264", X264, ".mkv", 3),
    "h264 in a transport stream": ("libx264", X264, ".ts", 3),
    "h264, open groups": ("libx264", X264 | {"x264-params": "open-gop=1:scenecut=0"}, ".mp4", 1),
    "h264, gradual refresh": ("libx264", X264 | {"x264-params": "intra-refresh=1:bframes=0"}, ".mp4", 1),
    "h265, closed groups": ("libx265", {"preset": "ultrafast", "x265-params": "keyint=12:open-gop=0:log-level=0"}, ".mp4", 3),
    "h265, open groups": ("libx265", {"preset": "ultrafast", "x265-params": "keyint=12:open-gop=1:log-level=0"}, ".mp4", 1),
    "mpeg4": ("mpeg4", {"g": "12", "bf": "2"}, ".mp4", None),
    "mpeg2": ("mpeg2video", {"g": "12", "bf": "2"}, ".mpg", None),
    "vp9": ("libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}, ".webm", 3),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_samples_equal_those_of_a_whole_decode(name: str, frames, tmp_path) -> None:
    codec, options, suffix, segments = STREAMS[name]
    path = encode(tmp_path / f"clip{suffix}", frames, codec, options)
    timeline, samples = sampled(path)
    assert [sample.number for sample in samples] == list(range(6))
    assert_equal_to_whole(path, samples)
    if segments:
        assert len(segment_starts(timeline.entries)) == segments
    uses = plan(timeline.entries, {pts for pts in timeline.shown if pts is not None})
    assert uses.count(Use.WANTED) == 6
    if segments == 3:
        assert uses.count(Use.LEAVE) >= 3, "what follows the last wanted frame of each group is left alone"


def test_frames_that_nothing_refers_to_are_not_decoded(frames, tmp_path) -> None:
    """They are handed to the decoder, and only references and wanted frames come out of it."""
    plain = X264 | {"g": "250", "bf": "3", "x264-params": "b-pyramid=none:b-adapt=0:scenecut=0"}
    path = encode(tmp_path / "clip.mp4", frames, "libx264", plain)
    timeline, samples = sampled(path)
    source = ClipSource(path=str(path))
    shown = {pts for pts in timeline.shown if pts is not None}
    counts = {
        skips: sum(1 for _ in decoded_frames(source, replace(timeline, skips=skips), shown, {}))
        for skips in (True, False)
    }
    before = sum(time < timeline.due[-1] for time, _ in decoded_whole(path))
    assert counts[False] >= before and counts[True] < 0.6 * counts[False]
    assert_equal_to_whole(path, samples)


def test_a_stream_without_times_is_sampled_by_its_order(frames, tmp_path) -> None:
    path = encode(tmp_path / "clip.h264", frames, "libx264", X264, container="h264")
    timeline, samples = sampled(path)
    assert timeline.ordered and len(timeline.entries) == NUM_FRAMES
    assert len(samples) == len(timeline.due) >= 3
    whole = decoded_whole(path)
    for sample in samples:
        number = int((sample.time_s + 1e-3) * timeline.fps)
        assert np.array_equal(sample.picture, whole[number][1])


@pytest.mark.parametrize("write", [variable_rate, turned, ten_bit, video])
def test_rates_turns_and_depths(write: Writer, frames, tmp_path) -> None:
    path = tmp_path / "clip.mp4"
    write(path, frames)
    timeline, samples = sampled(path)
    assert len(samples) == len(timeline.due) == len(due_times(0.0, timeline.duration_s, 2.0))
    assert_equal_to_whole(path, samples)
    assert {sample.picture.shape[:2] for sample in samples} == {(48, 64)}
    if write is turned:
        assert {sample.rotation for sample in samples} == {90}
        assert np.abs(samples[0].picture.astype(float) - frames[0]).mean() < 30, "it stands upright"


def test_pixels_become_square(frames, tmp_path) -> None:
    """As DVDs have them: stored 64 px wide, shown 128."""
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for pixels in frames[:8]:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    _, samples = sampled(path)
    assert samples[0].picture.shape == (48, 128, 3)
    wide = np.asarray(Image.fromarray(frames[0]).resize((128, 48), Image.Resampling.BILINEAR), float)
    assert np.abs(samples[0].picture - wide).mean() < 12


def test_a_frame_stands_until_the_next(frames, tmp_path) -> None:
    """Frames at 0, 0.1, 1.4 and 2.0 s: what is due in between shows the second."""
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(1000), options={"bf": "0", "crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, time in zip(frames[::9], (0, 100, 1400, 2000), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    _, samples = sampled(path)
    assert [sample.time_s for sample in samples] == [0.0, 0.5, 1.0, 1.5]
    nearest = [int(np.abs(frames[::9].astype(float) - s.picture).mean((1, 2, 3)).argmin()) for s in samples]
    assert nearest == [0, 1, 1, 2]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_span_has_the_samples_of_the_whole_at_its_times(suffix: str, frames, tmp_path) -> None:
    path = encode(tmp_path / f"clip{suffix}", frames, "libx264", X264)
    _, whole = sampled(path)
    timeline, samples = sampled(path, start_s=1.5, end_s=2.5)
    assert [sample.time_s for sample in samples] == [1.5, 2.0] and timeline.duration_s == pytest.approx(1.0)
    assert timeline.seek is not None and len(timeline.entries) < NUM_FRAMES
    assert timeline.fps == pytest.approx(RATE, rel=0.01)
    for sample, expected in zip(samples, whole[3:5], strict=True):
        assert np.array_equal(sample.picture, expected.picture)


def test_a_span_of_an_open_stream_starts_where_decoding_can(frames, tmp_path) -> None:
    path = encode(tmp_path / "clip.mp4", frames, *STREAMS["h264, gradual refresh"][:2])
    _, samples = sampled(path, start_s=1.5, end_s=2.5)
    assert_equal_to_whole(path, samples)


def test_flipped_bits_are_seen(frames, tmp_path) -> None:
    path = tmp_path / "clip.mp4"
    flipped(path, frames)
    timeline, samples = sampled(path)
    assert len(samples) < len(timeline.due) or any(sample.corrupt for sample in samples)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_what_is_cut_off_is_missed(suffix: str, share: float, frames, tmp_path) -> None:
    path = encode(tmp_path / f"clip{suffix}", frames, "libx264", X264 | {"movflags": "+faststart"})
    if suffix == ".mp4":
        video(path, frames)  # with its index in front
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    timeline, samples = sampled(path)
    assert len(timeline.due) == 6 if suffix == ".mkv" else len(timeline.due) > len(samples)
    assert sum(not sample.corrupt for sample in samples) < len(timeline.due)


def test_due_times_leave_out_the_end() -> None:
    assert due_times(0.0, 2.0, 2.0) == (0.0, 0.5, 1.0, 1.5)
    assert due_times(1.0, 2.2, 2.0) == (1.0, 1.5, 2.0)
    assert due_times(0.0, 0.04, 2.0) == (0.0,)
    assert due_times(3.0, 3.0, 2.0) == ()
