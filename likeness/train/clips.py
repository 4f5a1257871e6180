"""Clips as a video model wants them: so many frames at so many a second, in the size of an aspect bucket.

Frames are chosen by their timestamps, so that clips of any and of changing frame rate play at the right speed. A decoder
raises nothing on most damaged streams: it repeats, invents or leaves out frames. So every frame up to the last one that is needed
must have arrived, and none may be marked corrupt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from likeness.errors import UserError

# Containers round timestamps, to a millisecond for example; a frame that comes this much too late, in frames of the model, counts
# as in time.
_LATE = 0.05


@dataclass(frozen=True)
class FrameRule:
    """How frames are taken from a clip: ``num_frames`` of them, ``fps`` a second, from its beginning."""

    num_frames: int
    fps: float

    def __post_init__(self) -> None:
        if self.num_frames < 1 or not (self.fps > 0 and math.isfinite(self.fps)):
            raise UserError(f"{self.num_frames} frames at {self.fps} a second were asked for; both must be above 0.")

    @property
    def last_s(self) -> float:
        """When the last frame is due, in seconds after the first."""
        return (self.num_frames - 1) / self.fps

    def __str__(self) -> str:
        return f"{self.num_frames} frames at {self.fps:g} a second"


@dataclass(frozen=True)
class Crop:
    """The part of a picture that is shown, as large as fits in the middle, and the size it is shown in.

    Attributes:
        left, top, width, height: of the part, px of the picture.
        to_width, to_height: px.
    """

    left: float
    top: float
    width: float
    height: float
    to_width: int
    to_height: int

    @classmethod
    def centred(cls, size: tuple[int, int], to_size: tuple[int, int], pixel_aspect: float = 1.0) -> Crop:
        """The largest part of a picture with the wanted aspect ratio.

        Args:
            size, to_size: (height, width) px.
            pixel_aspect: width of one of the picture's pixels over its height.
        """
        (height, width), (to_height, to_width) = size, to_size
        aspect = to_width / to_height / pixel_aspect
        part_width, part_height = min(width, height * aspect), min(height, width / aspect)
        left, top = (width - part_width) / 2, (height - part_height) / 2
        return cls(left, top, part_width, part_height, to_width, to_height)

    def picture(self, picture: np.ndarray) -> np.ndarray:
        """The part of ``uint8 [h, w, ...]`` in its new size: bicubic, averaged where it shrinks."""
        if picture.shape[:2] == (self.to_height, self.to_width) == (self.height, self.width):
            return picture
        box = (self.left, self.top, self.left + self.width, self.top + self.height)
        size = (self.to_width, self.to_height)
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC, box=box))

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points ``[..., 2]`` (x, y) px of the picture -> px of what is shown."""
        scale = np.array([self.to_width / self.width, self.to_height / self.height])
        return ((points - (self.left, self.top)) * scale).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames for a model.

    Attributes:
        frames: ``uint8 [F, H, W, 3]`` RGB.
        indices: which frames of the file they are, F numbers from 0 on, in the order in which the file shows them.
        crop: which part of the file's frames is shown.
    """

    frames: np.ndarray
    indices: tuple[int, ...]
    crop: Crop


def read_clip(path: Path, rule: FrameRule, height: int, width: int) -> Clip:
    """Decode a clip: its first frames at the rule's rate, turned upright, cropped in the middle, resized.

    Raises:
        UserError: for a file that is missing, no video, damaged or shorter than the rule needs.
    """
    from av.error import FFmpegError

    with _opened(path) as container:
        try:
            return _shown(path, container.streams.video[0], _due(path, container, rule), (height, width))
        except FFmpegError as error:
            raise _damaged(path, str(error.strerror)) from error


def aspect_of(path: Path) -> float:
    """Width over height of a clip as it is shown, from its header and first frame.

    Raises:
        UserError: for a file that is missing, no video or damaged.
    """
    from av.error import FFmpegError

    with _opened(path) as container:
        try:
            for frame in container.decode(video=0):
                height, width = _upright(frame)
                return width / height * _pixel_aspect(container.streams.video[0], frame)
        except FFmpegError as error:
            raise _damaged(path, str(error.strerror)) from error
    raise _damaged(path, "no frame can be decoded")


def nearest_bucket(aspect: float, buckets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) whose aspect ratio is nearest by factor; the first of several."""
    return min(buckets, key=lambda size: abs(math.log(size[1] / size[0] / aspect)))


def _opened(path: Path) -> Any:
    import av
    from av.error import FFmpegError

    try:
        container = av.open(str(path))
    except FileNotFoundError:
        raise UserError(f"There is no clip {path}.") from None
    except (FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"The clip {path} cannot be opened: {reason}.") from error
    if not container.streams.video:
        container.close()
        raise UserError(f"The clip {path} has no pictures, only sound or data.")
    container.streams.video[0].codec_context.thread_count = 1  # clips are decoded side by side instead
    return container


def _due(path: Path, container: Any, rule: FrameRule) -> Iterator[tuple[int, Any]]:
    """Number and frame, for each frame of the rule; one that stands long comes several times.

    Raises:
        UserError: once the frames that were read turn out to be damaged or too few.
    """
    stream = container.streams.video[0]
    rate = float(stream.average_rate or stream.guessed_rate or rule.fps)
    late_s = max(_LATE / rule.fps, float(stream.time_base))
    taken = 0
    times: list[float] = []  # when each frame of the file is shown
    expected: set[int] = set()  # timestamps that the file promises
    arrived: set[int] = set()
    current: Any = None
    for frame in _frames(path, container, expected):
        if frame.is_corrupt:
            raise _damaged(path, f"frame {len(times)} is corrupt")
        if frame.pts is not None:
            arrived.add(frame.pts)
        time_s = float(frame.time) if frame.time is not None else len(times) / rate
        # What is due before this frame is shown is the frame before it, which is on the screen until then.
        while current is not None and taken < rule.num_frames and times[0] + taken / rule.fps < time_s - late_s:
            yield len(times) - 1, current
            taken += 1
        times.append(time_s)
        current = frame
        if taken == rule.num_frames:
            break
    if current is None:
        raise _damaged(path, "no frame can be decoded")
    ends = times[-1] + _duration_s(current, times, rate)
    until = max(times[-1] + late_s, ends - late_s)
    while taken < rule.num_frames and times[0] + taken / rule.fps < until:
        yield len(times) - 1, current
        taken += 1
    _check_arrived(path, expected, arrived, whole=taken < rule.num_frames)
    if taken < rule.num_frames:
        raise UserError(
            f"The clip {path} lasts {ends - times[0]:.2f} s ({len(times)} frames); {rule} need more than {rule.last_s:.2f} s."
        )


def _frames(path: Path, container: Any, expected: set[int]) -> Iterator[Any]:
    """The frames of a clip; ``expected`` collects the timestamps of what was read for them."""
    for packet in container.demux(container.streams.video[0]):
        if packet.is_corrupt:
            raise _damaged(path, "a packet is corrupt")
        if packet.pts is not None and packet.size and not packet.is_discard:
            expected.add(packet.pts)
        yield from packet.decode()


def _check_arrived(path: Path, expected: set[int], arrived: set[int], *, whole: bool) -> None:
    """Refuse a clip of which frames are missing among those that were decoded; ``whole`` if it was decoded to its end."""
    if not arrived:
        return  # a container without timestamps promises nothing
    # Frames that lead a stream's first key frame cannot be decoded and are not meant to be.
    due = {pts for pts in expected if min(arrived) <= pts and (whole or pts <= max(arrived))}
    if missing := len(due - arrived):
        raise _damaged(path, f"{missing} of {len(due)} frames cannot be decoded")


def _duration_s(frame: Any, times: Sequence[float], rate: float) -> float:
    if frame.duration:
        return float(frame.duration * frame.time_base)
    return times[-1] - times[-2] if len(times) > 1 else 1 / rate


def _shown(path: Path, stream: Any, due: Iterable[tuple[int, Any]], size: tuple[int, int]) -> Clip:
    """Turn, crop and resize frames as they come, so that only small ones are kept."""
    from av.video.reformatter import Interpolation

    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT  # as media.read_video
    indices: list[int] = []
    pictures: list[np.ndarray] = []
    upright, crop = (0, 0), None
    for number, frame in due:
        if crop is None:
            upright = _upright(frame)
            crop = Crop.centred(upright, size, _pixel_aspect(stream, frame))
        if _upright(frame) != upright:
            raise UserError(f"The size of the pictures changes within the clip {path}.")
        if indices and number == indices[-1]:
            pictures.append(pictures[-1])
        else:
            picture = np.rot90(frame.to_ndarray(format="rgb24", interpolation=exact), k=round(frame.rotation / 90))
            pictures.append(crop.picture(np.ascontiguousarray(picture)))
        indices.append(number)
    assert crop is not None, "a clip without frames has been refused"
    return Clip(np.stack(pictures), tuple(indices), crop)


def _upright(frame: Any) -> tuple[int, int]:
    """Height and width of a frame once it is turned."""
    return (frame.width, frame.height) if round(frame.rotation / 90) % 2 else (frame.height, frame.width)


def _pixel_aspect(stream: Any, frame: Any) -> float:
    aspect = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1) or 1.0
    return 1 / aspect if round(frame.rotation / 90) % 2 else aspect


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"The clip {path} is damaged: {reason}. Copy it again or leave it out.")
