"""One decode of a video for all metrics: only the frames that some metric asked for are turned into pictures and kept.

The numbers of the frames follow from how many there are, and a file's header may be wrong about that. So packets are
counted first, which decodes nothing; where the decoder then delivers another number, the video is decoded once more.

A decoder raises nothing on many damaged streams: it repeats, invents or leaves out frames. A video is judged whole or not
at all: with frames missing or corrupt it is unreadable, since a number from the rest would be that of another video.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from likeness.errors import UserError
from likeness.media import MAX_VIDEO_BYTES

_PICTURES = ("_pipe", "image2", "tty")  # FFmpeg's demuxers of single pictures and of text


class UnreadableVideo(UserError):
    """A file that is no whole video; the message is the reason, without the path."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """Some frames of a video.

    Attributes:
        frames: ``uint8 [K, H, W, 3]`` RGB, upright.
        indices: ``int64 [K]``, strictly rising: their numbers.
        num_frames: of the whole video.
        fps: frames per second, > 0.
    """

    frames: np.ndarray
    indices: np.ndarray
    num_frames: int
    fps: float


def read_frames(path: Path, wanted: Callable[[int, float], np.ndarray]) -> Decoded:
    """Read the frames that ``wanted(num_frames, fps)`` names; it may name frames twice and in any order.

    Raises:
        UnreadableVideo: an empty file, no video, sound alone, a single picture, damaged, cut short, or too large.
    """
    from av.error import FFmpegError

    try:
        if not path.stat().st_size:
            raise UnreadableVideo("the file is empty (0 bytes)")
        packets, fps = _count_packets(path)
        count = len(packets) or 1
        while True:
            indices = np.unique(np.asarray(wanted(count, fps), dtype=np.int64))
            frames, arrived = _decode(path, indices)
            if lost := _num_lost(packets, arrived):
                raise UnreadableVideo(f"damaged: {lost} of {len(packets)} frames cannot be decoded")
            if len(arrived) == count:
                return Decoded(frames, indices, count, fps)
            count = len(arrived)
    except FFmpegError as error:
        raise UnreadableVideo(f"not a video that can be read, or damaged ({error.strerror})") from error
    except OSError as error:
        raise UnreadableVideo(f"the file cannot be opened ({error.strerror})") from error


def _opened(path: Path) -> Any:
    import av

    container = av.open(str(path))
    format_name = container.format.name
    if not container.streams.video or any(format_name.endswith(name) for name in _PICTURES):
        container.close()
        told = "a picture or a text" if container.streams.video else "without pictures, only sound or data"
        raise UnreadableVideo(f"not a video: {told}")
    return container


def _count_packets(path: Path) -> tuple[list[int | None], float]:
    """When each frame that the file promises is shown (its timestamp, None without one), and frames a second."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        fps = stream.average_rate or stream.guessed_rate
        read, shown = 0, []
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise UnreadableVideo(f"damaged: packet {read} is corrupt")
            if packet.size:
                read += 1
                if not packet.is_discard:
                    shown.append(packet.pts)
        if read < stream.frames:
            raise UnreadableVideo(f"cut short: {read} of {stream.frames} frames are there")
    if not fps:
        raise UnreadableVideo("the file does not say its frame rate; it may be a single picture")
    return shown, float(fps)


def _decode(path: Path, indices: np.ndarray) -> tuple[np.ndarray, list[int | None]]:
    """The frames of these numbers, and the timestamps of all that came."""
    from av.video.reformatter import Interpolation

    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT  # as media.read_video
    kept: list[np.ndarray] = []
    arrived: list[int | None] = []
    asked = set(indices.tolist())
    size = (0, 0)
    with _opened(path) as container:
        for frame in container.decode(video=0):
            if frame.is_corrupt:
                raise UnreadableVideo(f"damaged: frame {len(arrived)} is corrupt")
            size = (frame.width, frame.height) if not arrived else size
            if (frame.width, frame.height) != size:
                raise UnreadableVideo("the size of the pictures changes within the video")
            if len(arrived) in asked:
                turned = np.rot90(frame.to_ndarray(format="rgb24", interpolation=exact), k=round(frame.rotation / 90))
                kept.append(np.ascontiguousarray(turned))
                if len(kept) * turned.nbytes > MAX_VIDEO_BYTES:
                    raise UnreadableVideo(f"too long: more than {MAX_VIDEO_BYTES >> 30} GiB of pictures")
            arrived.append(frame.pts)
    if not arrived:
        raise UnreadableVideo("no frame can be decoded")
    return np.stack(kept) if kept else np.empty((0, size[1], size[0], 3), np.uint8), arrived


def _num_lost(promised: list[int | None], arrived: list[int | None]) -> int:
    """Frames that the file promises and the decoder did not deliver; 0 where the file has no timestamps.

    Frames that lead a stream's first key frame cannot be decoded and are not meant to be.
    """
    known = {pts for pts in arrived if pts is not None}
    if not known:
        return 0
    return len({pts for pts in promised if pts is not None and pts >= min(known)} - known)
