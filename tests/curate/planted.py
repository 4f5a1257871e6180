"""A folder of drawn clips whose fate is known: sound clips of known people, and one of every defect that a crawl has.

Each kind of clip says how its pictures come about, how its file is written, and what curation must say of it. The truth comes
from the drawing alone: no detector or recogniser has a part in it.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from likeness.media import write_video
from likeness.types import Video
from likeness.world import VALIDATION_PEOPLE, Clip, caption_of, clip_of, draw
from likeness.world.clip import _SCALE
from likeness.world.places import background

FIRST_PERSON = VALIDATION_PEOPLE.start + 20_000
RATE = 4  # frames a second: two for each sample that is looked at
NUM_FRAMES = 10
CAPTIONED, UNCAPTIONED = "captioned", "uncaptioned"


@dataclass(frozen=True)
class Order:
    """A clip to make: what kind, who is in it (left to right), and which clip of these people."""

    kind: str
    people: tuple[int, ...]
    number: int


@dataclass(frozen=True)
class Planted:
    """A clip of the folder, and the truth about it: status and reason that its row must have, and why it may be in no trade-off
    pair, if so."""

    path: Path
    kind: str
    people: tuple[int, ...]
    caption: str | None
    status: str
    reason: str
    tradeoff: str


Pictures = Callable[[Order, int], np.ndarray]
Writer = Callable[[Path, np.ndarray], None]


# -------------------------------------------------------------------------------------------------------- pictures


def scaled(clip: Clip, scale: float) -> Clip:
    """The clip with heads of `scale` heights a head unit, in the middle, looking straight ahead with a neutral expression."""
    low, high = _SCALE[len(clip.people)]
    noise = clip.noise.copy()
    noise[1:, 19] = (scale - low) / (high - low)
    noise[1:, [3, 5]] = 0.5
    still = (0,) * len(clip.people)
    return replace(clip, noise=noise, turns=still, expressions=still)


def frames_of(clip: Clip, size: int, num_frames: int = NUM_FRAMES) -> np.ndarray:
    return draw([clip], height=size, width=size, num_frames=num_frames, fps=RATE).pixels[0]


def plain(order: Order, size: int) -> np.ndarray:
    return frames_of(clip_of(order.people, order.number), size)


def tiny(order: Order, size: int) -> np.ndarray:
    """In a larger frame: of a face of eight px nobody could say whose it is."""
    return frames_of(scaled(clip_of(order.people, order.number), 0.09), 3 * size)


def huge(order: Order, size: int) -> np.ndarray:
    return frames_of(scaled(clip_of(order.people, order.number), 0.9), size)


def nobody(order: Order, size: int) -> np.ndarray:
    clip = clip_of(order.people, order.number)
    picture = np.rint(background(clip.place, clip.noise[0], size, size) * 255).astype(np.uint8)
    return np.repeat(picture[None], NUM_FRAMES, 0)


def changing(order: Order, size: int) -> np.ndarray:
    """One person in the first half, two in the second."""
    first, second = order.people
    alone = frames_of(clip_of(first, order.number), size, NUM_FRAMES // 2)
    return np.concatenate([alone, frames_of(clip_of((first, second), order.number), size, NUM_FRAMES // 2)])


def swapped(order: Order, size: int) -> np.ndarray:
    """Two people in turn, each for the time of one sample, in the place of one person."""
    one, other = (frames_of(clip_of(person, order.number), size) for person in order.people)
    turn = np.arange(NUM_FRAMES) // 2 % 2 == 0
    return np.where(turn[:, None, None, None], one, other)


def swapped_once(order: Order, size: int) -> np.ndarray:
    """One person, then another, in a clip of three samples: one of the two cosines is of two people."""
    one, other = (frames_of(clip_of(person, order.number), size, 6) for person in order.people)
    return np.concatenate([one[:4], other[4:]])


def swapped_for_good(order: Order, size: int) -> np.ndarray:
    """One person, then another, in a clip of ten samples: one of nine cosines is of two people, which is few."""
    one, other = (frames_of(clip_of(person, order.number), size, 20) for person in order.people)
    return np.concatenate([one[:12], other[12:]])


# ----------------------------------------------------------------------------------------------------------- files


def video(path: Path, frames: np.ndarray) -> None:
    write_video(path, Video(frames, RATE))


def no_file(path: Path, frames: np.ndarray) -> None:
    """A clip that a list names and that is not there."""


def zero_bytes(path: Path, frames: np.ndarray) -> None:
    path.touch()


def text(path: Path, frames: np.ndarray) -> None:
    path.write_text("This is a page that said that the video is not available in your country.\n" * 40)


def one_frame(path: Path, frames: np.ndarray) -> None:
    video(path, frames[:1])


def _mux(
    path: Path,
    frames: Sequence[np.ndarray],
    times_ms: Sequence[int],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(1000), options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, time in zip(frames, times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def variable_rate(path: Path, frames: np.ndarray) -> None:
    """Frames at uneven times: none for a while, then several at once, as screen recorders and telephones write them."""
    steps = random.Random(path.name).choices((40, 180, 330, 480), k=len(frames))
    _mux(path, list(frames), [sum(steps[:i]) for i in range(len(frames))])


def ten_bit(path: Path, frames: np.ndarray) -> None:
    _mux(path, list(frames), [1000 * i // RATE for i in range(len(frames))], pix_fmt="yuv420p10le")


def turned(path: Path, frames: np.ndarray) -> None:
    """Stored lying on its side, with a display matrix that says so, as telephones do."""
    video(path, np.ascontiguousarray(np.rot90(frames, k=1, axes=(1, 2))))
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44  # of the track header, version 0
    struct.pack_into(">9i", data, matrix, 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)  # shown turned to the right
    path.write_bytes(data)


def _add_sound(container, seconds: float) -> None:
    import av

    stream = container.add_stream("aac", rate=16_000, layout="mono")
    samples = np.random.default_rng(0).normal(0, 0.1, (1, int(16_000 * seconds))).astype(np.float32)
    for start in range(0, samples.shape[1] - 1023, 1024):
        frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def sound_alone(path: Path, frames: np.ndarray) -> None:
    import av

    with av.open(str(path), "w") as container:
        _add_sound(container, 2.0)


def no_frames(path: Path, frames: np.ndarray) -> None:
    """A file with sound and with a video stream into which no picture was ever written; Matroska can say so."""
    import av

    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        _add_sound(container, 2.0)


def flipped(path: Path, frames: np.ndarray) -> None:
    """Bits of the middle third of the pictures' bytes flipped: a bad disk, a bad line."""
    video(path, frames)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    length = len(data) - start
    noise = random.Random(path.name)
    for _ in range(length // 3 // 16):
        data[start + length // 3 + noise.randrange(length // 3)] ^= noise.randrange(1, 256)
    path.write_bytes(data)


def cut_short(path: Path, frames: np.ndarray) -> None:
    """A download that stopped, of a file with its index in front: the last pictures are missing."""
    video(path, frames)
    data = path.read_bytes()
    start = data.index(b"mdat")
    path.write_bytes(data[: start + (len(data) - start) * 2 // 5])


def index_lost(path: Path, frames: np.ndarray) -> None:
    """A recording that stopped before its index was written: nobody can tell the pictures apart."""
    video(path, frames)
    data = path.read_bytes()
    index = data.index(b"moov") - 4
    (length,) = struct.unpack_from(">I", data, index)
    path.write_bytes(data[:index] + data[index + length :])


# ----------------------------------------------------------------------------------------------------------- kinds


@dataclass(frozen=True)
class Kind:
    """How a clip comes about and what must be said of it; `people` is how many it takes, None for those of the order."""

    status: str
    reason: str = ""
    pictures: Pictures = plain
    write: Writer = video
    caption: str | None = CAPTIONED
    people: int = 1
    tradeoff: str = ""


SOUND = {
    "plain": Kind("ok"),
    "two people": Kind("ok", people=2),
    "three people": Kind("ok", people=3),
    "uncaptioned": Kind("ok", caption=UNCAPTIONED),
    "hostile caption": Kind("ok", caption="<script>alert('a woman')</script> & <b>"),
    "variable rate": Kind("ok", write=variable_rate),
    "turned": Kind("ok", write=turned),
    "ten bit": Kind("ok", write=ten_bit),
}
DEFECTS = {
    "no person in caption": Kind("dropped", "no person in caption", caption="A red car drives along an empty road."),
    "nobody": Kind("dropped", "no face", pictures=nobody),
    "people count varies": Kind("dropped", "people count varies", pictures=changing, people=2),
    "people swap": Kind("dropped", "identity varies", pictures=swapped, people=2),
    "people swap once": Kind("dropped", "identity varies", pictures=swapped_once, people=2),
    "people swap for good": Kind("dropped", "identity changes", pictures=swapped_for_good, people=2),
    "tiny face": Kind("ok", tradeoff="face too small", pictures=tiny),
    "huge face": Kind("ok", tradeoff="face too large", pictures=huge),
    "one frame": Kind("dropped", "too short", write=one_frame),
    "flipped bits": Kind("dropped", "corrupt", write=flipped),
    "cut short": Kind("dropped", "corrupt", write=cut_short),
    "index lost": Kind("error", "corrupt", write=index_lost),
    "no frames": Kind("error", "corrupt", write=no_frames),
    "sound alone": Kind("error", "no video stream", write=sound_alone),
    "zero bytes": Kind("error", "empty file", write=zero_bytes),
    "a text": Kind("error", "not a video", write=text),
    "not there": Kind("error", "missing", write=no_file),
}
KINDS = SOUND | DEFECTS


def plan(*, people: int, clips: int, each: int) -> list[Order]:
    """Orders for `clips` plain clips of each of `people` people, and `each` clips of every other kind, of further people.

    Of people who are sound together, or whose trade-off pairs are not used, there are two clips, so that they can be paired.
    """
    orders = [Order("plain", (FIRST_PERSON + p,), number) for p in range(people) for number in range(clips)]
    following = FIRST_PERSON + people
    for name, kind in KINDS.items():
        for number in range(each if name != "plain" else 0):
            group = tuple(range(following, following + kind.people))
            is_paired = kind.tradeoff or (name in SOUND and kind.people > 1)
            numbers = (number, each + number) if is_paired else (number,)
            orders += [Order(name, group, one) for one in numbers]
            following += kind.people
    return orders


def plant(folder: Path, orders: Sequence[Order], *, size: int = 64) -> list[Planted]:
    """Make the clips, `size` px square, and `clips.jsonl`, which lists all of them with their captions, in a mixed order."""
    folder.mkdir(parents=True, exist_ok=True)
    planted = list(_planted(folder, orders, size))
    random.Random(0).shuffle(planted)
    with open(folder / "clips.jsonl", "w", encoding="utf-8") as file:
        for clip in planted:
            row = {"video_path": clip.path.name} | ({} if clip.caption is None else {"caption": clip.caption})
            file.write(json.dumps(row) + "\n")
    return planted


def _planted(folder: Path, orders: Sequence[Order], size: int) -> Iterator[Planted]:
    for index, order in enumerate(orders):
        kind = KINDS[order.kind]
        path = folder / f"{index:04d}_{order.kind.replace(' ', '_')}.mp4"
        kind.write(path, kind.pictures(order, size))
        caption = caption_of(clip_of(order.people, order.number)) if kind.caption is CAPTIONED else kind.caption
        yield Planted(
            path=path,
            kind=order.kind,
            people=order.people,
            caption=None if caption is UNCAPTIONED else caption,
            status=kind.status,
            reason=kind.reason,
            tradeoff=kind.tradeoff,
        )
