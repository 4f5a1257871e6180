"""Who is who in a clip: faces of consecutive samples matched to one another, and the people ordered from left to right.

Only samples with the clip's common person count are looked at ("for frames with the same face count", Concat-ID section 4.2), so
every person is in each of them. The people are matched by an assignment that is best for all of them together: by the cosine of
their embeddings, or by how far their boxes overlap where there is no recogniser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from likeness.types import Face

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Seen:
    """A face in a sample.

    Attributes:
        face: in px of the picture.
        embedding: ``float32 [D]``, unit length; None without a recogniser.
        area: share of the picture that the box covers, 0..1.
        centre_x: horizontal middle of the box in widths of the picture.
    """

    face: Face
    embedding: np.ndarray | None
    area: float
    centre_x: float


@dataclass(frozen=True, eq=False)
class Track:
    """One person of a clip.

    Attributes:
        samples: numbers of the samples that show the person, ascending.
        faces: the face in each of them.
        cosines: between the faces of consecutive samples.
        mean_x: mean of ``centre_x``.
    """

    samples: tuple[int, ...]
    faces: tuple[Seen, ...]
    cosines: tuple[float, ...]
    mean_x: float


def seen(face: Face, embedding: np.ndarray | None, height: int, width: int) -> Seen:
    """A face with its place in a picture of ``height`` x ``width`` px."""
    x0, y0, x1, y1 = face.box
    inside = max(min(x1, width) - max(x0, 0.0), 0.0) * max(min(y1, height) - max(y0, 0.0), 0.0)
    return Seen(face, embedding, inside / (height * width), (x0 + x1) / 2 / width)


def follow(samples: Mapping[int, Sequence[Seen]], *, across_gaps: bool = False) -> tuple[Track, ...]:
    """The people of a clip from left to right.

    Args:
        samples: the faces of each sample by its number, in ascending order; P in each.
        across_gaps: compare faces also where samples between them are missing. They are matched in any case.

    Returns:
        P tracks by ascending ``mean_x``; none without samples.
    """
    numbers = list(samples)
    if not numbers:
        return ()
    rows = [list(samples[numbers[0]])]  # the faces of each sample, in the same order of people
    for number in numbers[1:]:
        faces = samples[number]
        rows.append([faces[index] for index in match(rows[-1], faces)])
    tracks = [_track(numbers, [row[person] for row in rows], across_gaps=across_gaps) for person in range(len(rows[0]))]
    return tuple(sorted(tracks, key=lambda track: track.mean_x))


def bridge(track: Track, least: int = 2) -> float | None:
    """How well a person's faces before and after a moment are tied together, where they are least.

    Of each moment the greatest cosine across it counts: a look away or a blurred face is bridged by the faces around it; somebody
    else who takes the place is not, however long the clip.

    Args:
        least: faces on each side of a moment. One face alone is often a bad one, such as the last before a cut.

    Returns:
        A cosine; None without embeddings, or where there are too few faces.
    """
    vectors = [face.embedding for face in track.faces if face.embedding is not None]
    if len(vectors) < max(2 * least, len(track.faces)):
        return None
    found = np.stack(vectors).astype(np.float64)  # [N, D]
    cosines = found @ found.T
    after = np.maximum.accumulate(cosines[:, ::-1], axis=1)[
        :, ::-1
    ]  # [i, j]: the greatest of face i with faces j and later
    across = np.maximum.accumulate(after, axis=0)  # the same of faces up to i
    return float(min(across[moment - 1, moment] for moment in range(least, len(found) - least + 1)))


def match(before: Sequence[Seen], after: Sequence[Seen]) -> list[int]:
    """For each of P faces, which of P later ones is the same person: the assignment with the largest sum of likenesses."""
    if len(before) == 1:
        return [0]
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(likeness(before, after), maximize=True)
    return [int(index) for index in columns]


def likeness(before: Sequence[Seen], after: Sequence[Seen]) -> np.ndarray:
    """``float64 [P, P]``: cosines of embeddings, or overlaps of boxes (the nearer of those that do not overlap)."""
    ours, theirs = ([face.embedding for face in faces] for faces in (before, after))
    if all(vector is not None for vector in ours + theirs):
        return np.stack(ours).astype(np.float64) @ np.stack(theirs).astype(np.float64).T  # pyright: ignore[reportCallIssue,reportArgumentType]
    return np.array(
        [[overlap(a.face.box, b.face.box) - 1e-3 * abs(a.centre_x - b.centre_x) for b in after] for a in before]
    )


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (a, b))
    return width * height / (areas - width * height)


def spread(count: int, wanted: int) -> list[int]:
    """Indices of ``wanted`` of ``count`` things, uniformly: the middles of as many equal parts; all of them if there are fewer."""
    if count <= wanted:
        return list(range(count))
    return [(2 * number + 1) * count // (2 * wanted) for number in range(wanted)]


def in_order(tracks: Sequence[Track], person: int) -> list[int]:
    """Indices into a track's samples at which its person stands in the place that it has on average.

    Reference pictures are taken from these alone (appendix B.1: those that do not align with the order are discarded).
    """
    return [
        index
        for index, face in enumerate(tracks[person].faces)
        if sum(other.faces[index].centre_x < face.centre_x for other in tracks) == person
    ]


def _track(numbers: Sequence[int], faces: Sequence[Seen], *, across_gaps: bool) -> Track:
    cosines = [
        float(np.dot(a.embedding, b.embedding))
        for before, after, a, b in zip(numbers, numbers[1:], faces, faces[1:], strict=False)
        if a.embedding is not None and b.embedding is not None and (across_gaps or after == before + 1)
    ]
    return Track(
        samples=tuple(numbers),
        faces=tuple(faces),
        cosines=tuple(cosines),
        mean_x=float(np.mean([face.centre_x for face in faces])),
    )
