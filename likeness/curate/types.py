"""Values that travel through curation: what is measured of a clip, and what is decided about it.

A clip passes three states. A :class:`ClipSource` is known before any byte is read; a :class:`Measured` is what one worker
found in it, in plain numbers; a :class:`Verdict` follows from the numbers and the thresholds alone, so a threshold can be
changed without decoding again. Nothing here holds a frame: decoded pictures never leave the worker that made them.

Axes, beside those of :mod:`likeness.types`: a *sample* is one of the frames looked at (two a second); a *track* is one
person within a clip, 0 the leftmost by mean horizontal position.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

import numpy as np

from likeness.errors import UserError

# What became of a clip. `ok` and `dropped` are decided by rules; the others say that it could not be measured.
Status = Literal["ok", "dropped", "error", "crash", "timeout"]

# Why a file cannot be measured; the reason of a row with status `error`.
ErrorReason = Literal["missing", "empty file", "not a video", "no video stream", "corrupt", "unreadable"]

# Where the reference of a pair comes from: see likeness.curate.pairs.
PairKind = Literal["pretraining", "cross", "tradeoff"]


class ClipError(UserError):
    """A clip that cannot be read. The message says what was found and what to do; ``reason`` is the short name."""

    def __init__(self, message: str, reason: ErrorReason) -> None:
        super().__init__(message)
        self.reason: ErrorReason = reason

    def __reduce__(self) -> tuple[type[ClipError], tuple[str, ErrorReason]]:
        # Errors travel between processes; the default would call the class with the message alone.
        return type(self), (str(self), self.reason)


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """A clip to curate: a video file, or a shot of one.

    Attributes:
        path: absolute path of the video file; it need not exist (such a clip becomes a row with an error).
        start_s, end_s: the span within the file in seconds of presentation time; ``end_s`` None: to the end.
        caption: what the clip shows; None: it came without one, and the term filter does not apply.
        origin: where it was named, such as ``"videos.json, entry 12"``: for messages.
    """

    path: str
    start_s: float = 0.0
    end_s: float | None = None
    caption: str | None = None
    origin: str = ""

    @property
    def key(self) -> str:
        """16 hex digits that name the row before any byte is read; ``origin`` has no part in it."""
        said = json.dumps([self.path, float(self.start_s), self.end_s and float(self.end_s), self.caption])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class TrackedFace:
    """A face in one sampled frame, as the rules and the pairs need it.

    Attributes:
        sample: 0 .. number of samples - 1.
        track: person within the clip; 0 is the leftmost by mean horizontal position.
        box: ``(x0, y0, x1, y1)`` in px of the turned frame; may reach beyond it.
        score: the detector's confidence in 0..1.
        area: share of the frame that the box covers, 0..1 (the box clipped to the frame).
        centre_x: horizontal middle of the box, in widths of the frame: 0 left, 1 right.
    """

    sample: int
    track: int
    box: tuple[float, float, float, float]
    score: float
    area: float
    centre_x: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceFace:
    """One of the candidates for a reference picture of a track, chosen uniformly over the samples that show it.

    Attributes:
        track: person within the clip; 0 is the leftmost.
        number: 0 .. number of candidates of the track - 1, in the order of time.
        sample, time_s: the sample it was taken from and its presentation time within the file.
        box: ``(x0, y0, x1, y1)`` in px of the turned frame.
        keypoints: ``float32 [5, 2]`` px (see :class:`likeness.types.Face`).
        score: the detector's confidence in 0..1.
        area: share of the frame, 0..1.
        mean_x: mean ``centre_x`` of the whole track: what orders the people of a clip.
        embedding: ``float32 [D]``, unit length (stored as float16); ``[0]`` long without a recogniser.
        crop: path of the picture relative to the dataset's folder, ``crops/ab/<clip key>_<track>_<number>.png``: the
            face as ``likeness generate`` cuts it out: aligned, 448 px square, with its background where the pack has no parser.
    """

    track: int
    number: int
    sample: int
    time_s: float
    box: tuple[float, float, float, float]
    keypoints: np.ndarray
    score: float
    area: float
    mean_x: float
    embedding: np.ndarray
    crop: str


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Everything that a rule reads: plain numbers, one row of a table.

    Attributes:
        width, height: px, turned as the video is shown.
        fps: mean frames a second of presentation time.
        duration_s: length of the span in seconds.
        rotation: degrees clockwise that the pictures were turned by: 0, 90, 180 or 270.
        num_expected: samples that the span should give, two a second.
        num_delivered: samples that were decoded, damaged ones included.
        num_corrupt: samples that the decoder marked as damaged.
        num_people: faces found in each delivered sample.
        cosines: of each track, the cosine of its faces in consecutive samples; a sample without the face gives none.
            Without a recogniser every track is empty.
        bridge: the greatest cosine of a face before a moment to a face of the same person after it, at the moment and of the person
            where it is least; two faces at least lie on each side. It is low where somebody else takes a person's place for good.
            None without a recogniser, or where nobody is seen in four samples.
        areas: of each track, the face's share of the frame in each sample that shows it, 0..1.
        flow: mean optical flow in heights of the frame a second.
        motion: motion score: see :mod:`likeness.curate.motion`.
        aesthetics: score of an aesthetics model; None without one.
    """

    width: int
    height: int
    fps: float
    duration_s: float
    rotation: int
    num_expected: int
    num_delivered: int
    num_corrupt: int
    num_people: tuple[int, ...]
    cosines: tuple[tuple[float, ...], ...]
    areas: tuple[tuple[float, ...], ...]
    flow: float
    motion: float
    aesthetics: float | None
    bridge: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What a worker hands over of a clip.

    Attributes:
        clip_id: 32 hex digits of the SHA-256 of the file's bytes and the span: the same clip under another name has it too.
        measures: what the rules read.
        faces: every face of every sample that belongs to a track.
        references: the candidates of each track.
        thumbnail: JPEG of the middle sample, its longer side at most 256 px; empty where no sample was delivered.
    """

    clip_id: str
    measures: Measures
    faces: tuple[TrackedFace, ...]
    references: tuple[ReferenceFace, ...]
    thumbnail: bytes


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is decided about a clip that was measured.

    Attributes:
        keep: whether it goes into the pairs.
        reason: empty if kept, else one of ``likeness.curate.rules.REASONS``.
        value, threshold: the number that decided and its limit; None where there is no such number.
    """

    keep: bool
    reason: str = ""
    value: float | None = None
    threshold: float | None = None


KEPT = Verdict(keep=True)
