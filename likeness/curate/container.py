"""Opening video files of unknown making: what they are, whether they are whole, and their packets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from likeness.curate.types import ClipError, ClipSource, ErrorReason

MAX_FRAME_PIXELS = 64_000_000  # 8K has 33 million; a bomb is far beyond

# Text that FFmpeg would draw, lists that lead to other files, and still pictures.
_NOT_VIDEOS = re.compile(r"tty|ansi|hls|dash|concat|sdp|rtsp|image2|.*_pipe|ico|txd|lrc|srt|ass|webvtt")
# First bytes of the usual containers, by their place: files that were videos before they broke.
_BEGINNINGS = {
    0: (b"\x1a\x45\xdf\xa3", b"RIFF", b"FLV\x01", b"\x00\x00\x01\xba"),
    4: (b"ftyp", b"moov", b"mdat", b"wide", b"free"),
}
_WAY_OUT: dict[ErrorReason, str] = {
    "missing": "Check the path.",
    "empty file": "Copy or download it again.",
    "not a video": "Leave it out, or give the video itself.",
    "no video stream": "Give a file with pictures.",
    "corrupt": "Copy it again or leave it out.",
    "unreadable": "Mend that or leave it out.",
}


def clip_error(source: ClipSource, reason: ErrorReason, found: str) -> ClipError:
    """The error for a clip: what was found, and what to do."""
    named = f" (named in {source.origin})" if source.origin else ""
    return ClipError(f"The clip {source.path}{named}: {found}. {_WAY_OUT[reason]}", reason)


@contextmanager
def opened(source: ClipSource) -> Iterator[Any]:
    """A container of PyAV with a video stream, to be decoded in one thread (clips are decoded side by side instead).

    Raises:
        ClipError: with the reason.
    """
    import av
    from av.error import FFmpegError

    head = _head(source)
    try:
        container = av.open(source.path)
    except (FFmpegError, OSError, ValueError) as error:
        if _begins_like_a_video(head):
            raise clip_error(source, "corrupt", "it begins as a video but its index cannot be read") from error
        raise clip_error(source, "not a video", "it holds no video that is known, whatever its name says") from error
    with container:
        if any(_NOT_VIDEOS.fullmatch(name) for name in container.format.name.split(",")):
            raise clip_error(source, "not a video", f"it is a file of the kind {container.format.name}")
        if not container.streams.video:
            if container.streams.audio:
                raise clip_error(source, "no video stream", "it has no pictures, only sound")
            if _begins_like_a_video(head):
                raise clip_error(source, "corrupt", "it breaks off before its first picture")
            raise clip_error(source, "not a video", "it has neither pictures nor sound")
        context = container.streams.video[0].codec_context
        if context is None or context.width < 1 or context.height < 1:
            raise clip_error(source, "corrupt", "the size of its pictures cannot be read")
        if context.width * context.height > MAX_FRAME_PIXELS:
            raise clip_error(source, "unreadable", f"its pictures have {context.width} x {context.height} px, too many")
        context.thread_count = 1
        # Without it decoders conceal errors and say nothing: of bits flipped in H.264, 4 % of the wrong samples were noticed, with
        # it 67 %, and no sound one was refused.
        context.options = {"err_detect": "explode"}
        try:
            yield container
        except FFmpegError as error:  # such as a seek in a file without frames
            raise clip_error(source, "corrupt", f"it cannot be read ({error.strerror})") from error


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream with something in them, up to the end or to where the file breaks off."""
    from av.error import FFmpegError

    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except FFmpegError:
        return  # what is missing is missed by what the file promised


def promised_s(container: Any, stream: Any) -> float:
    """How long the pictures of a file last by its own account, from the first one; 0 if it does not say."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))  # Matroska
    if match:
        start_s = float((stream.start_time or 0) * stream.time_base)
        hours, minutes, seconds = match.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - start_s
    if container.duration and len(container.streams) == 1:
        return container.duration / 1e6
    return 0.0


def _head(source: ClipSource) -> bytes:
    """The first bytes of a file that is there, can be read and is not empty."""
    try:
        if os.path.isdir(source.path):
            raise clip_error(source, "unreadable", "it is a folder; a video file is needed")
        with open(source.path, "rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise clip_error(source, "missing", "there is no such file") from None
    except (OSError, ValueError) as error:
        words = (isinstance(error, OSError) and error.strerror) or error
        raise clip_error(source, "unreadable", f"it cannot be opened: {words}") from error
    if not head:
        raise clip_error(source, "empty file", "it is empty (0 bytes)")
    return head


def _begins_like_a_video(head: bytes) -> bool:
    return any(head.startswith(beginning, place) for place, known in _BEGINNINGS.items() for beginning in known)
