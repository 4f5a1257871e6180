"""Several people in a video: who is who, who is missing, who is there twice, who changes places.

Every face of up to 32 evenly spread frames is compared with every person of the row, by the face pack's recogniser; of
several photographs of one person the mean counts. Then, in every frame:

- the *assignment* gives each person at most one face, so that the sum of the cosines is greatest (Kuhn, 1955);
- an assigned face of at least 0.3 is a *match*; a person without one is *missing*; of the other faces, those that
  resemble some person by 0.3 are *duplicates* and the rest *extra*. So faces = matches + duplicates + extra, and people
  = matches + missing, in every frame.

Faces of successive frames that lie in the same place are a *track*, whoever they resemble. A track *votes* for the
person whom most of its frames were assigned to. Where a frame's match goes to another person than its track voted for,
people have changed places: ``swapped``. Tracks follow places, not faces: somebody who moves by more than the width of
a face between two sampled frames begins a new track, and a true walk past one another may be taken for a swap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from likeness.evaluate.drift import spread
from likeness.evaluate.faces_of import FaceAnalyser, SeenFace, face_analyser, no_reference_face
from likeness.evaluate.identity import optional
from likeness.evaluate.types import Backends, Direction, Result, Sample
from likeness.types import Face

SAME_PERSON = 0.3  # cosine; w600k_r50 takes about one stranger in 10,000 for the same person there
_MAX_STEP = 1.0  # of the face's side, between two looks at a track
_MAX_GAP = 3  # sampled frames over which a track is remembered


def assign(similarity: np.ndarray) -> np.ndarray:
    """Gives each person at most one face, so that the sum of the similarities is greatest.

    Args:
        similarity: ``[P, N]``, people by faces.

    Returns:
        ``int64 [P]``: a face, or -1 where there are too few.
    """
    from scipy.optimize import linear_sum_assignment

    faces = np.full(len(similarity), -1, np.int64)
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    faces[rows] = columns
    return faces


def tracks_of(frames: Sequence[Sequence[Face]]) -> list[list[int]]:
    """Numbers the tracks: of each frame, the track of each of its faces, counted from 0 in order of appearance."""
    from scipy.optimize import linear_sum_assignment

    last: list[tuple[int, Face]] = []  # of each track: the frame in which it was last seen, and the face
    numbers = []
    for time, faces in enumerate(frames):
        alive = [track for track, (seen, _) in enumerate(last) if time - seen <= _MAX_GAP]
        steps = np.zeros((len(alive), len(faces)))
        for row, track in enumerate(alive):
            steps[row] = [_step(last[track][1], face) for face in faces]
        # What is too far costs more than any number of near steps, so as many faces as possible are followed.
        pairs = zip(*linear_sum_assignment(np.where(steps <= _MAX_STEP, steps, 1e6)), strict=True)
        of_face = {face: alive[row] for row, face in pairs if steps[row, face] <= _MAX_STEP}
        for index, face in enumerate(faces):
            track = of_face.setdefault(index, len(last))
            if track == len(last):
                last.append((time, face))
            else:
                last[track] = (time, face)
        numbers.append([of_face[index] for index in range(len(faces))])
    return numbers


def _step(before: Face, after: Face) -> float:
    """Distance of two boxes' centres, in the mean of their sides."""
    a, b = np.array(before.box), np.array(after.box)
    shift = (b[:2] + b[2:] - a[:2] - a[2:]) / 2
    side = np.sqrt((before.area + after.area) / 2)
    return float(np.linalg.norm(shift) / max(side, 1e-9))


def votes_of(
    assigned: Sequence[np.ndarray], similarity: Sequence[np.ndarray], tracks: Sequence[Sequence[int]]
) -> dict[int, int]:
    """For whom each track votes: the person whom its faces were assigned to most often, then the most similar one.

    Args:
        assigned: a frame each, ``[P]`` face of each person or -1.
        similarity: a frame each, ``[P, N]``.
        tracks: a frame each, the track of each face.

    Returns:
        track -> person; tracks that were never assigned to anybody are left out.
    """
    counts: Counter[tuple[int, int]] = Counter()
    sums: Counter[tuple[int, int]] = Counter()
    for faces, cosines, numbers in zip(assigned, similarity, tracks, strict=True):
        for person, face in enumerate(faces):
            if face >= 0:
                counts[numbers[face], person] += 1
                sums[numbers[face], person] += cosines[person, face]
    # The best pair of a track comes last, and the last one stays in a dict.
    return dict(sorted(counts, key=lambda pair: (counts[pair], sums[pair])))


@dataclass(frozen=True, eq=False)
class Cast:
    """Who is who in a video of P people, K frames and any number of faces and tracks.

    Attributes:
        similarity: a frame each, ``float64 [P, N]``: cosine of each person with each face.
        assigned: a frame each, ``int64 [P]``: the face of each person, -1 where there are too few.
        tracks: a frame each, the track of each face.
        votes: track -> person.
    """

    similarity: tuple[np.ndarray, ...]
    assigned: tuple[np.ndarray, ...]
    tracks: tuple[tuple[int, ...], ...]
    votes: Mapping[int, int]

    @classmethod
    def of(cls, frames: Sequence[Sequence[SeenFace]], references: Sequence[np.ndarray]) -> Cast:
        """Compare faces with people.

        Args:
            frames: the faces of each frame.
            references: of each person, embeddings ``[M, D]`` of M photographs.
        """
        similarity = []
        for faces in frames:
            cosines = np.zeros((len(references), len(faces)))
            for column, seen in enumerate(faces):
                cosines[:, column] = [(photographs @ seen.embedding).mean() for photographs in references]
            similarity.append(cosines)
        assigned = [assign(cosines) for cosines in similarity]
        tracks = tracks_of([[seen.face for seen in faces] for faces in frames])
        return cls(
            tuple(similarity), tuple(assigned), tuple(map(tuple, tracks)), votes_of(assigned, similarity, tracks)
        )

    @property
    def num_people(self) -> int:
        return len(self.similarity[0])

    def own(self) -> np.ndarray:
        """Cosine of each person with the face assigned to them, ``float64 [P, K]``; nan without one."""
        return np.stack([_picked(*pair) for pair in zip(self.similarity, self.assigned, strict=True)], axis=1)

    def voted(self) -> np.ndarray:
        """As :meth:`own`, with the best face of the tracks that voted for the person."""
        columns = []
        for cosines, numbers in zip(self.similarity, self.tracks, strict=True):
            column = np.full(self.num_people, np.nan)
            for face, track in enumerate(numbers):
                if (person := self.votes.get(track)) is not None:
                    column[person] = np.fmax(column[person], cosines[person, face])
            columns.append(column)
        return np.stack(columns, axis=1)

    def margin(self) -> np.ndarray:
        """How much more each assigned face resembles its person than anybody else of the row, ``float64 [P, K]``; nan
        where there is no face or nobody else."""
        table = np.full((self.num_people, len(self.assigned)), np.nan)
        for frame, (cosines, faces) in enumerate(zip(self.similarity, self.assigned, strict=True)):
            for person, face in enumerate(faces):
                if face >= 0 and self.num_people > 1:
                    table[person, frame] = cosines[person, face] - np.delete(cosines[:, face], person).max()
        return table

    def matrix(self) -> np.ndarray:
        """Mean cosine of each person with each track, ``float64 [P, tracks]``."""
        num_tracks = 1 + max((track for numbers in self.tracks for track in numbers), default=-1)
        sums, counts = np.zeros((self.num_people, num_tracks)), np.zeros(num_tracks)
        for cosines, numbers in zip(self.similarity, self.tracks, strict=True):
            for face, track in enumerate(numbers):
                sums[:, track] += cosines[:, face]
                counts[track] += 1
        return sums / counts

    def rates(self, threshold: float = SAME_PERSON) -> dict[str, float]:
        """``missing`` of all people in all frames; ``swapped`` of all matches; ``duplicate`` and ``extra`` faces a frame."""
        matches = swapped = duplicates = extra = 0
        for cosines, faces, numbers in zip(self.similarity, self.assigned, self.tracks, strict=True):
            matched = {int(face): p for p, face in enumerate(faces) if face >= 0 and cosines[p, face] >= threshold}
            matches += len(matched)
            swapped += sum(self.votes[numbers[face]] != person for face, person in matched.items())
            rest = [face for face in range(cosines.shape[1]) if face not in matched]
            alike = sum(bool(cosines[:, face].max() >= threshold) for face in rest)
            duplicates += alike
            extra += len(rest) - alike
        num_frames = len(self.similarity)
        return {
            "swapped": swapped / max(matches, 1),
            "missing": 1 - matches / (num_frames * self.num_people),
            "duplicate": duplicates / num_frames,
            "extra": extra / num_frames,
        }


def faces_of_references(
    owners: Sequence[int], references: Sequence[SeenFace | None], seen: Sequence[Sequence[SeenFace]]
) -> list[list[SeenFace | None]]:
    """The face in each frame that each reference is to be compared with, or None.

    With one person that is the largest, as in FaceSim; with several, the one assigned to the reference's person. Every
    person needs a reference with a face.

    Args:
        owners: the person of each reference.
        references: the face of each reference.
        seen: the faces of each frame, the largest first.

    Returns:
        A list a reference, with an entry a frame.
    """
    people = sorted(set(owners))
    if len(people) == 1:
        largest = [next(iter(faces), None) for faces in seen]
        return [largest] * len(references)
    embeddings = [
        np.array([face.embedding for owner, face in zip(owners, references, strict=True) if owner == person and face])
        for person in people
    ]
    cast = Cast.of(seen, embeddings)
    of_person = {
        person: [
            faces[assigned[row]] if assigned[row] >= 0 else None
            for faces, assigned in zip(seen, cast.assigned, strict=True)
        ]
        for row, person in enumerate(people)
    }
    return [of_person[owner] for owner in owners]


def _picked(cosines: np.ndarray, faces: np.ndarray) -> np.ndarray:
    return np.array([cosines[person, face] if face >= 0 else np.nan for person, face in enumerate(faces)])


@dataclass(frozen=True, eq=False)
class People:
    """See the module.

    Attributes:
        threshold: cosine from which on two faces are taken for the same person's.
    """

    weights: str
    analyser: FaceAnalyser
    threshold: float = SAME_PERSON
    name: str = "people"
    needs_reference: bool = True

    @property
    def protocol(self) -> str:
        """The threshold decides the rates, so it is a part of the name."""
        return f"hungarian {self.threshold:g}"

    @property
    def directions(self) -> Mapping[str, Direction]:
        """``people_arc``: mean cosine of every person in every frame, a missing face counting 0."""
        return {
            "people_arc": "higher",
            "people_arc_voted": "higher",
            "people_margin": "higher",
            "swapped": "lower",
            "missing": "lower",
            "duplicate": "lower",
            "extra": "lower",
        }

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """Up to 32 frames with both ends."""
        return spread(num_frames)

    def measure(self, sample: Sample) -> Result:
        """Values, a curve a person, and in ``details`` the matrix of people and tracks."""
        found = self.analyser.references(sample)
        if refused := no_reference_face(sample, found):
            return refused
        owners = sample.item.people
        people = sorted(set(owners))
        references = [
            np.array([seen.embedding for owner, seen in zip(owners, found, strict=True) if owner == person and seen])
            for person in people
        ]
        frames = self.analyser.frames(sample, self.indices(sample.num_frames, sample.fps))
        cast = Cast.of(frames, references)
        own, margin, rates = cast.own(), cast.margin(), cast.rates(self.threshold)
        return Result(
            values={
                "people_arc": float(np.nan_to_num(own).mean()),
                "people_arc_voted": float(np.nan_to_num(cast.voted()).mean()),
                "people_margin": None if np.isnan(margin).all() else float(np.nanmean(margin)),
                **rates,
            },
            curves={f"person {person}": optional(row) for person, row in zip(people, own, strict=True)},
            reason="" if len(people) > 1 else "one person: there is nobody to be told from",
            details={
                "matrix": cast.matrix().tolist(),
                "track_votes": {str(track): people[person] for track, person in cast.votes.items()},
                "faces": [len(faces) for faces in frames],
            },
        )


def people(backends: Backends) -> People:
    """Several people by the face pack's recogniser."""
    analyser = face_analyser(backends)
    return People(analyser.weights, analyser)
