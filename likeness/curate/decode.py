"""Frames of a clip at so many a second, decoding no more than they need (see :mod:`likeness.curate.gops`).

The file is read twice: once for the times of its packets, without decoding, and once for the frames. Times are the file's
own, so clips of changing frame rate are sampled as they play; sound is left alone; frames are turned as the file says.

Decoders conceal damage: they repeat or invent what is missing. Here they are told not to, a sample counts as damaged where the
container or the decoder says so of it or of what it may have been decoded from, and a file is held to the duration that it
promises. What still goes unnoticed are flipped bits that make another valid stream.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from likeness.curate.container import clip_error, opened, packets, promised_s
from likeness.curate.gops import SKIPPING_CODECS, Entry, UnitReader, Use, plan, segment_starts, shown_at
from likeness.curate.types import ClipSource

_ROUNDING_S = 1e-3  # containers round times, Matroska to a millisecond
_FPS_UNKNOWN = 25.0
_SQUARE = 0.01  # pixels that are square but for this much are left as they are
_MISSING_FRAMES = 1.5  # a file that ends this many frames before it promised to has lost some
_BACK_S = (
    0.0,
    10.0,
    60.0,
)  # how far before a span to look for a place where decoding can start; then the file's beginning


@dataclass(frozen=True, eq=False)
class Sample:
    """A frame of a clip.

    Attributes:
        number: 0 .. expected samples - 1.
        time_s: when it is due, seconds from the first frame of the file.
        picture: ``uint8 [H, W, 3]`` RGB as the video is shown: turned, with square pixels.
        rotation: degrees clockwise that the picture was turned by: 0, 90, 180 or 270.
        corrupt: whether it, or something that it was decoded from, is damaged.
    """

    number: int
    time_s: float
    picture: np.ndarray
    rotation: int
    corrupt: bool


@dataclass(frozen=True, eq=False)
class Timeline:
    """What a clip holds, known before a frame is decoded.

    Attributes:
        entries: packets in decoding order, from a place where decoding can start.
        seek: where that is, ticks; None for the beginning of the file.
        skips: whether frames that nothing refers to may be left out.
        ordered: whether frames have no times of their own and are known by their order.
        duration_s: length of the span, as the file promises it.
        fps: mean rate of the frames within the span.
        pixel_aspect: width of a stored pixel over its height.
        due: times of the samples, seconds from the first frame of the file.
        shown: pts of the frame on the screen at each of them; None beyond the last frame.
    """

    entries: tuple[Entry, ...]
    seek: int | None
    skips: bool
    ordered: bool
    duration_s: float
    fps: float
    pixel_aspect: float
    due: tuple[float, ...]
    shown: tuple[int | None, ...]


def due_times(start_s: float, end_s: float, per_second: float) -> tuple[float, ...]:
    """When samples are due: every ``1 / per_second`` s from the start on, before the end."""
    count = max(math.ceil((end_s - start_s - _ROUNDING_S) * per_second), 0)
    return tuple(start_s + number / per_second for number in range(count))


def read_timeline(source: ClipSource, per_second: float) -> Timeline:
    """The times of a clip's frames and samples.

    Raises:
        ClipError: missing, empty, not a video, without pictures, damaged beyond use, or a span beyond the end.
    """
    with opened(source) as container:
        stream = container.streams.video[0]
        base = float(stream.time_base)
        found = _entries(source, container, stream)
        times = sorted({entry.pts for entry in found.entries if not entry.hidden})
        if not times:
            raise clip_error(source, "corrupt", "it holds no frame that can be read")
        origin = stream.start_time if stream.start_time is not None and not found.ordered else times[0]
        promised = promised_s(container, stream)
    usual = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1 / base / _FPS_UNKNOWN  # ticks a frame
    last = next(entry for entry in found.entries if entry.pts == times[-1])
    observed_s = (times[-1] + (last.duration or usual) - origin) * base
    end_s = promised if promised > observed_s + _MISSING_FRAMES * usual * base else observed_s
    if source.end_s is not None:
        end_s = min(end_s, source.end_s)
    due = due_times(source.start_s, end_s, per_second)
    if not due:
        raise clip_error(source, "unreadable", f"it ends after {end_s:.2f} s, too early for the span asked for")
    inside = sum(source.start_s - _ROUNDING_S <= (time - origin) * base < end_s - _ROUNDING_S for time in times)
    shown = shown_at(times, [origin + (time + _ROUNDING_S) / base for time in due])
    return Timeline(
        entries=tuple(found.entries),
        seek=found.seek,
        skips=stream.codec_context.name in SKIPPING_CODECS and not found.layered and not found.ordered,
        ordered=found.ordered,
        duration_s=end_s - source.start_s,
        fps=inside / max(min(end_s, observed_s) - source.start_s, _ROUNDING_S),
        pixel_aspect=_pixel_aspect(stream),
        due=due,
        shown=tuple(pts if time < observed_s else None for pts, time in zip(shown, due, strict=True)),
    )


def read_samples(source: ClipSource, timeline: Timeline) -> Iterator[Sample]:
    """The samples of a clip in their order; those that cannot be decoded are left out.

    Every picture equals that of decoding the whole file.

    Raises:
        ClipError: the file can no longer be opened, or the size of its pictures changes.
    """
    numbers: dict[int, list[int]] = defaultdict(list)  # of the samples that show the frame with this pts
    for number, pts in enumerate(timeline.shown):
        if pts is not None:
            numbers[pts].append(number)
    damaged: dict[int, bool] = {}
    shape = None
    for pts, frame in decoded_frames(source, timeline, numbers, damaged):
        if pts not in numbers:
            continue
        picture, rotation = shown_picture(frame, timeline.pixel_aspect)
        shape = shape or picture.shape
        if picture.shape != shape:
            raise clip_error(source, "unreadable", "the size of its pictures changes; convert it to MP4 first")
        corrupt = bool(frame.is_corrupt) or damaged.get(pts, False)
        for number in numbers.pop(pts):
            yield Sample(number, timeline.due[number], picture, rotation, corrupt)
        if not numbers:
            return


def shown_picture(frame: Any, pixel_aspect: float = 1.0) -> tuple[np.ndarray, int]:
    """A decoded frame as it is shown, ``uint8 [H, W, 3]`` RGB, and the degrees clockwise that it was turned by.

    Colours are within 1/255 of those of :func:`likeness.media.read_video` nearly everywhere (53 dB), at half the cost.
    """
    from av.video.reformatter import Interpolation

    flags = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    width = max(round(frame.width * pixel_aspect), 1)
    picture = frame.to_ndarray(format="rgb24", interpolation=flags, width=width, height=frame.height)
    turns = round(frame.rotation / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(picture, k=turns)), (-90 * turns) % 360


def _pixel_aspect(stream: Any) -> float:
    """1 also where a file says what cannot be: nobody films with pixels of one to ten."""
    aspect = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
    return aspect if 0.1 < aspect < 10 and abs(aspect - 1) > _SQUARE else 1.0


@dataclass
class _Found:
    entries: list[Entry]
    seek: int | None
    layered: bool
    ordered: bool


def _entries(source: ClipSource, container: Any, stream: Any) -> _Found:
    """The packets that a span needs, from a place before it where decoding can start."""
    base, origin = float(stream.time_base), stream.start_time or 0
    end = math.inf if source.end_s is None else origin + source.end_s / base
    if stream.start_time is None or source.start_s <= 0:
        return _read_entries(container, stream, end)
    for back_s in (back_s for back_s in _BACK_S if back_s < source.start_s):
        seek = origin + int((source.start_s - back_s) / base)
        container.seek(seek, stream=stream)
        found = _read_entries(container, stream, end)
        first = found.entries[0] if found.entries else None
        # What the key frame's leading pictures lack is shown before it, and so before the span.
        if first and first.restarts and first.pts <= origin + source.start_s / base:
            found.seek = seek
            return found
    container.seek(origin, stream=stream)
    return _read_entries(container, stream, end)


def _read_entries(container: Any, stream: Any, end: float) -> _Found:
    units = UnitReader(stream.codec_context.name, stream.codec_context.extradata)
    entries: list[Entry] = []
    layered, timeless = False, False
    for packet in packets(container, stream):
        if packet.dts is not None and packet.dts > end:
            break  # frames are decoded before they are shown, so none from here on is shown before the end
        layered = layered or units.is_layered(packet)
        timeless = timeless or packet.pts is None
        entries.append(
            Entry(
                pts=packet.pts if packet.pts is not None else -1,
                duration=packet.duration or 0,
                restarts=packet.is_keyframe and units.restarts(packet),
                corrupt=packet.is_corrupt,
                hidden=packet.is_discard,
            )
        )
    if timeless:
        rate = float(stream.average_rate or stream.guessed_rate or _FPS_UNKNOWN)
        ticks = 1 / rate / float(stream.time_base)
        entries = [
            Entry(round(index * ticks), round(ticks), index == 0, entry.corrupt) for index, entry in enumerate(entries)
        ]
    return _Found(entries, None, layered, timeless)


def decoded_frames(
    source: ClipSource, timeline: Timeline, wanted: Collection[int], damaged: dict[int, bool]
) -> Iterator[tuple[int, Any]]:
    """What is decoded so that the frames shown at the ``wanted`` pts come out: them and their references, each with its pts.

    Args:
        damaged: is told of each pts, before its frame comes, whether the data that it may be decoded from were broken.
    """
    from av.error import FFmpegError

    entries = timeline.entries
    # Frames known by their order alone have to be counted, and the order of packets is another one.
    uses = [Use.WANTED] * len(entries) if timeline.ordered else plan(entries, wanted)
    starts = set(segment_starts(entries))
    last = max((index for index, use in enumerate(uses) if use is Use.WANTED), default=-1)
    times = iter(sorted({entry.pts for entry in entries}) if timeline.ordered else ())
    broken = False
    with opened(source) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        if timeline.seek is not None:
            container.seek(timeline.seek, stream=stream)
        for index, packet in enumerate(chain(islice(packets(container, stream), last + 1), [None])):
            entry, use = (entries[index], uses[index]) if packet else (None, Use.WANTED)
            broken = broken and index not in starts
            if use is Use.LEAVE:
                continue
            broken = broken or bool(entry and entry.corrupt)
            if timeline.skips:
                context.skip_frame = "DEFAULT" if use is Use.WANTED else "NONREF"
            try:
                decoded = context.decode(packet)
            except FFmpegError:
                decoded, broken = [], True
            if entry:
                damaged[entry.pts] = broken
            for frame in decoded:
                yield next(times, -1) if timeline.ordered else frame.pts, frame
