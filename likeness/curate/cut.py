"""A shot of a long video as a file of its own, for training, which reads whole files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from likeness.curate.types import ClipError
from likeness.media import atomic_write

if TYPE_CHECKING:
    from av.filter import Graph
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_CRF = 16
_ROUNDING_S = 1e-3  # containers round times
_TURNS = {
    90: ("transpose", "cclock"),
    270: ("transpose", "clock"),
    180: ("rotate", "PI"),
}  # of frames by their rotation


def cut(source: Path, start_s: float, end_s: float | None, output: Path) -> None:
    """Write the frames of ``start_s <= time < end_s`` to an MP4 file without sound, turned upright, at their own times. Atomic.

    Times are seconds from the first frame of the file, as in :class:`~likeness.curate.types.ClipSource`.

    Raises:
        ClipError: the video cannot be read, or has no frame in that span.
        UserError: the file cannot be written.
    """
    import av
    from av.error import FFmpegError

    with atomic_write(output) as temporary:
        try:
            with (
                av.open(str(source)) as reading,
                av.open(str(temporary), "w", options={"movflags": "+faststart"}) as writing,
            ):
                stream = reading.streams.video[0]
                origin_s = float((stream.start_time or 0) * (stream.time_base or 0))
                if start_s > 0:
                    reading.seek(int((origin_s + start_s) * 1_000_000))  # microseconds; to the key frame before
                writer = None
                for frame in reading.decode(stream):
                    if frame.time is None or frame.time - origin_s < start_s - _ROUNDING_S:
                        continue
                    if end_s is not None and frame.time - origin_s >= end_s - _ROUNDING_S:
                        break
                    if writer is None:
                        writer = _Writer(writing, stream, frame)
                    writer.write(frame)
                if writer is None:
                    raise ClipError(f"{source} has no frame from {start_s} s to {end_s or 'its end'} s.", "corrupt")
                writer.close()
        except (FFmpegError, IndexError) as error:
            raise ClipError(f"{source} cannot be read: {error}. Copy it again.", "unreadable") from error


class _Writer:
    """Frames into an open container, their times counted from the first one."""

    def __init__(self, container, stream: VideoStream, first: VideoFrame) -> None:
        self._graph = _upright(stream, first)
        self._container, self._time_base = container, stream.time_base
        self._begin = first.pts or 0
        self._stream = container.add_stream("libx264", options={"crf": str(_CRF)})
        self._context = self._stream.codec_context
        self._context.time_base = self._time_base
        source = stream.codec_context
        for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
            setattr(self._context, name, getattr(source, name))
        self._is_sized = False

    def write(self, frame: VideoFrame) -> None:
        frame.pts = (frame.pts or 0) - self._begin
        self._graph.vpush(frame)
        turned = self._graph.vpull()
        if not self._is_sized:
            self._stream.width, self._stream.height, self._stream.pix_fmt = turned.width, turned.height, "yuv420p"
            self._is_sized = True
        turned.pict_type = 0  # the encoder chooses key frames of its own
        self._container.mux(self._stream.encode(turned))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))


def _upright(stream: VideoStream, frame: VideoFrame) -> Graph:
    """Turned as the display matrix says, to even sides, in what H.264 stores."""
    from av.filter import Graph

    graph = Graph()
    parts = [graph.add_buffer(template=stream)]
    if turn := _TURNS.get(round(frame.rotation) % 360):
        parts.append(graph.add(*turn))
    parts.append(graph.add("crop", "trunc(iw/2)*2:trunc(ih/2)*2"))
    parts.append(graph.add("format", "yuv420p"))
    parts.append(graph.add("buffersink"))
    graph.link_nodes(*parts).configure()
    return graph
