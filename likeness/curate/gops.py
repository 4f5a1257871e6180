"""Which packets of a stream must be decoded to see certain frames of it.

A frame depends on frames before it in decoding order, back to a key frame. Where decoding can start afresh at a key frame (a
*closed* one: nothing after it looks back beyond it), whatever follows the last wanted frame before it need not be decoded; and
frames that nothing refers to need not be either, unless wanted. What is decoded is decoded from the same data as otherwise, so
the pixels are the same.

A stream without closed key frames, as with open groups of pictures or gradual refresh, is one long segment: it is decoded whole.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Codecs whose decoders can leave out frames that nothing refers to, and in which such frames are marked.
SKIPPING_CODECS = ("h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video")

_H264_IDR = 5
_HEVC_SLICES, _HEVC_KEYS = range(32), range(16, 22)


class Use(Enum):
    """What is done with a packet."""

    LEAVE = "not decoded"
    REFERENCE = "decoded for others"
    WANTED = "decoded and shown"


@dataclass(frozen=True, slots=True)
class Entry:
    """A packet of the stream, without its bytes.

    Attributes:
        pts: when its frame is shown, ticks of the stream.
        duration: for how long, ticks; 0 if the file does not say.
        restarts: whether it is a key frame at which decoding can start afresh, by its own bytes.
        corrupt: whether the container marks it as damaged.
        hidden: whether it is decoded for others only, as what an edit list cuts off.
    """

    pts: int
    duration: int
    restarts: bool
    corrupt: bool = False
    hidden: bool = False


def segment_starts(entries: Sequence[Entry]) -> list[int]:
    """Indices of the entries at which decoding can start afresh; 0 always counts as one.

    A key frame that is followed, in decoding order, by frames that are shown before it (leading pictures) is not: these may
    refer to frames before it.
    """
    starts: list[int] = []
    earliest = None  # pts of the frames from here to the next key frame, the least
    for index in range(len(entries) - 1, -1, -1):
        entry = entries[index]
        if entry.restarts and (earliest is None or earliest > entry.pts):
            starts.append(index)
        earliest = entry.pts if earliest is None else min(earliest, entry.pts)
    if not starts or starts[-1] != 0:
        starts.append(0)
    return starts[::-1]


def plan(entries: Sequence[Entry], wanted: Iterable[int]) -> list[Use]:
    """What to do with each packet so that the frames shown at the ``wanted`` pts are decoded."""
    wanted = set(wanted)
    uses = [Use.LEAVE] * len(entries)
    starts = segment_starts(entries)
    for start, end in zip(starts, [*starts[1:], len(entries)], strict=True):
        needed = False
        for index in range(end - 1, start - 1, -1):
            if entries[index].pts in wanted:
                uses[index] = Use.WANTED
                needed = True
            elif needed:
                uses[index] = Use.REFERENCE
    return uses


def shown_at(times: Sequence[int], due: Sequence[float]) -> list[int | None]:
    """Which frame is on the screen at each time: the last that began by then; None before the first.

    Args:
        times: ascending pts.
        due: times in the same unit.
    """
    indices = (bisect.bisect_right(times, time) for time in due)
    return [times[index - 1] if index else None for index in indices]


class UnitReader:
    """Reads the headers of a packet's units (NAL units), for the codecs that have them."""

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self.codec = codec
        extra = extradata or b""
        place = {"h264": 4, "hevc": 21}.get(codec, 0)
        # Files hold units by length, as their configuration record says; streams hold start codes.
        self.length_size = (extra[place] & 3) + 1 if len(extra) > place and extra[0] == 1 else 0

    def restarts(self, packet: Buffer) -> bool:
        """Whether decoding can start at a key frame with these bytes; True for codecs without units."""
        if self.codec == "h264":
            return any(header & 31 == _H264_IDR for header, _ in self._headers(bytes(packet)))
        if self.codec == "hevc":
            return any(header >> 1 & 63 in _HEVC_KEYS for header, _ in self._headers(bytes(packet)))
        return True

    def is_layered(self, packet: Buffer) -> bool:
        """Whether the frame is of a higher temporal layer of HEVC; it may refer to frames marked as referred to by none."""
        return self.codec == "hevc" and any(
            second & 7 > 1 for header, second in self._headers(bytes(packet)) if header >> 1 & 63 in _HEVC_SLICES
        )

    def _headers(self, packet: bytes) -> Iterator[tuple[int, int]]:
        """The first two bytes of each unit."""
        if self.length_size:
            place = 0
            while place + self.length_size + 2 <= len(packet):
                length = int.from_bytes(packet[place : place + self.length_size])
                place += self.length_size
                yield packet[place], packet[place + 1]
                place += length
        else:
            place = packet.find(b"\0\0\1")
            while 0 <= place < len(packet) - 4:
                yield packet[place + 3], packet[place + 4]
                place = packet.find(b"\0\0\1", place + 3)
