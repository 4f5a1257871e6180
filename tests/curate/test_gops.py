"""Which packets are decoded: all that a wanted frame depends on, and little else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.curate.gops import Entry, UnitReader, Use, plan, segment_starts, shown_at


@st.composite
def streams(draw) -> tuple[list[Entry], list[set[int]]]:
    """Packets in decoding order, and of each the packets that its frame is decoded from, as encoders may choose them."""
    entries: list[Entry] = []
    sources: list[set[int]] = []
    shown, floor = 0, 0  # nothing looks back beyond the last closed key frame
    for _ in range(draw(st.integers(1, 5))):
        first, length = len(entries), draw(st.integers(1, 6))
        leading = draw(st.integers(0, 2)) if entries else 0
        order = draw(st.permutations(range(1, length)))
        key = shown + leading
        entries.append(Entry(pts=key, duration=1, restarts=draw(st.booleans())))
        is_fresh = entries[-1].restarts
        sources.append(set() if is_fresh or not first else {first - 1})
        floor = first if is_fresh and not leading else floor
        for number in range(leading):  # shown before the key frame, from it and from what was before it
            entries.append(Entry(pts=shown + number, duration=1, restarts=False))
            sources.append({first, draw(st.integers(floor, first - 1))})
        for number in order:
            sources.append({draw(st.integers(floor, len(entries) - 1))})
            entries.append(Entry(pts=key + number, duration=1, restarts=False))
        shown = key + length
    return entries, sources


@given(streams(), st.data())
def test_whatever_a_wanted_frame_depends_on_is_decoded(stream, data) -> None:
    entries, sources = stream
    wanted = data.draw(st.sets(st.sampled_from([entry.pts for entry in entries])))
    uses = plan(entries, wanted)
    needed = [index for index, entry in enumerate(entries) if entry.pts in wanted]
    assert all(uses[index] is Use.WANTED for index in needed)
    seen: set[int] = set()
    while needed:
        index = needed.pop()
        if index not in seen:
            seen.add(index)
            assert uses[index] is not Use.LEAVE
            needed += sources[index]


@given(streams(), st.data())
def test_nothing_after_the_last_wanted_frame_of_a_segment_is_decoded(stream, data) -> None:
    entries, _ = stream
    wanted = data.draw(st.sets(st.sampled_from([entry.pts for entry in entries])))
    uses = plan(entries, wanted)
    starts = segment_starts(entries)
    for start, end in zip(starts, [*starts[1:], len(entries)], strict=True):
        last = max((index for index in range(start, end) if uses[index] is Use.WANTED), default=start - 1)
        assert all(use is Use.LEAVE for use in uses[last + 1 : end])


def entry(pts: int, *, restarts: bool = False) -> Entry:
    return Entry(pts=pts, duration=1, restarts=restarts)


def test_a_key_frame_with_leading_pictures_starts_no_segment() -> None:
    closed = [entry(0, restarts=True), entry(2), entry(1), entry(3, restarts=True), entry(5), entry(4)]
    assert segment_starts(closed) == [0, 3]
    opened = [entry(0, restarts=True), entry(1), entry(4, restarts=True), entry(2), entry(3), entry(5)]
    assert segment_starts(opened) == [0]
    uses = plan(opened, {5})
    assert uses == [Use.REFERENCE] * 5 + [Use.WANTED]
    assert plan(closed, {0, 4}) == [
        Use.WANTED, Use.LEAVE, Use.LEAVE, Use.REFERENCE, Use.REFERENCE, Use.WANTED,
    ]  # fmt: skip
    assert plan([], {1}) == [] and segment_starts([]) == [0]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20, unique=True).map(sorted), st.floats(-5, 60))
def test_the_frame_on_the_screen_is_the_last_that_began(times, due) -> None:
    (shown,) = shown_at(times, [due])
    assert shown == max((time for time in times if time <= due), default=None)


def units(*headers: bytes, length_size: int = 0) -> bytes:
    """Units with these headers and a few bytes of content, by length or with start codes."""
    body = b"\x09\x10\x20"
    if length_size:
        return b"".join(len(head + body).to_bytes(length_size) + head + body for head in headers)
    return b"".join(b"\0\0\0\1" + head + body for head in headers)


AVCC, HVCC = b"\1" + bytes(3) + b"\xff", b"\1" + bytes(20) + b"\xff"  # lengths of four bytes
SEI, IDR, SLICE = b"\x06\0", b"\x65\0", b"\x41\0"
HEVC_CRA, HEVC_TRAIL, HEVC_LAYERED = b"\x2a\1", b"\x02\1", b"\x02\2"


@pytest.mark.parametrize(("extradata", "length_size"), [(AVCC, 4), (b"\0\0\0\1\x67", 0), (None, 0)])
def test_h264_starts_afresh_at_an_idr_picture_alone(extradata, length_size) -> None:
    reader = UnitReader("h264", extradata)
    assert reader.restarts(units(SEI, IDR, length_size=length_size))
    assert not reader.restarts(units(SEI, SLICE, length_size=length_size)), "a recovery point is no fresh start"
    assert not reader.is_layered(units(IDR, length_size=length_size))
    assert not reader.restarts(b"")


def test_hevc_starts_at_random_access_pictures_and_has_layers() -> None:
    reader = UnitReader("hevc", HVCC)
    assert reader.restarts(units(HEVC_CRA, length_size=4)) and not reader.restarts(units(HEVC_TRAIL, length_size=4))
    assert reader.is_layered(units(HEVC_LAYERED, length_size=4))
    assert not reader.is_layered(units(HEVC_TRAIL, length_size=4))


def test_other_codecs_keep_their_word() -> None:
    assert UnitReader("vp9", None).restarts(b"anything")
