"""Several people: assignment, tracks and rates on videos whose numbers can be worked out by hand."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from painted_faces import BLUE, GREEN, RED, SIXTY, analyser, one, picture, sample

from likeness.evaluate.people import People, assign, people, tracks_of
from likeness.evaluate.types import Backends
from likeness.types import Face
from likeness.world import VALIDATION_PEOPLE, clip_of, draw
from likeness.world.folder import draw_photograph

PACK = Path(__file__).parents[2] / "likeness" / "world" / "weights" / "faces"
FIRST = VALIDATION_PEOPLE.start + 70_100

LEFT, RIGHT = (10, 30), (60, 30)
TWO = [one(RED), one(GREEN)]


def measured(frames: list[np.ndarray], references: list[np.ndarray] = TWO, owners: tuple[int, ...] = (0, 1)):
    result = People("", analyser()).measure(sample(frames, references, people=owners))
    assert result.status == "ok"
    return result


def pair(left: tuple[int, int, int], right: tuple[int, int, int]) -> np.ndarray:
    return picture((left, *LEFT), (right, *RIGHT))


def expect(result, **values: float) -> None:
    clean = {"people_arc": 1.0, "people_arc_voted": 1.0, "people_margin": 1.0}
    rates = {"swapped": 0.0, "missing": 0.0, "duplicate": 0.0, "extra": 0.0}
    assert result.values == pytest.approx({**clean, **rates, **values}, abs=1e-6)


def test_two_people_who_stay_themselves() -> None:
    result = measured([pair(RED, GREEN)] * 10)
    expect(result)
    assert result.details["matrix"] == pytest.approx(np.eye(2), abs=1e-6)
    assert result.details["track_votes"] == {"0": 0, "1": 1}
    assert result.curves["person 1"] == pytest.approx([1.0] * 10, abs=1e-6)


@pytest.mark.parametrize("k", [6, 7, 9])
def test_two_people_swapped_at_frame_k(k: int) -> None:
    """Each frame's own assignment is content; along the tracks, frames k to 9 belong to the wrong person."""
    result = measured([pair(RED, GREEN)] * k + [pair(GREEN, RED)] * (10 - k))
    expect(result, swapped=(10 - k) / 10, people_arc_voted=k / 10)
    assert np.ravel(result.details["matrix"]) == pytest.approx([k / 10, 1 - k / 10, 1 - k / 10, k / 10], abs=1e-6)


def test_the_order_of_the_references_does_not_matter() -> None:
    frames = [pair(RED, GREEN)] * 7 + [pair(GREEN, RED)] * 3
    expect(measured(frames, TWO[::-1]), swapped=0.3, people_arc_voted=0.7)


def test_somebody_missing() -> None:
    result = measured([pair(RED, GREEN)] * 6 + [picture((RED, *LEFT))] * 2)
    expect(result, missing=2 / 16, people_arc=14 / 16, people_arc_voted=14 / 16)
    assert result.curves["person 1"][6:] == [None, None]


def test_one_person_twice() -> None:
    """The second RED is all that is left for GREEN: cosine 0, margin -1."""
    result = measured([pair(RED, RED)] * 4)
    expect(result, missing=0.5, duplicate=1.0, people_arc=0.5, people_arc_voted=0.5, people_margin=0.0)


def test_a_stranger_beside_them() -> None:
    frames = [picture((RED, 8, 30), (GREEN, 38, 30), (BLUE, 68, 30))] * 4
    expect(measured(frames), extra=1.0)


def test_a_video_of_strangers() -> None:
    result = measured([picture((BLUE, *LEFT))] * 4)
    expect(
        result, missing=1.0, extra=1.0, people_arc=0.0, people_arc_voted=0.0, people_margin=0.0
    )  # nobody is closer than anybody


def test_a_grey_video() -> None:
    result = measured([one(None)] * 3)
    assert result.values["missing"] == 1 and result.values["extra"] == 0 and result.values["people_margin"] is None
    assert result.details["matrix"] == [[], []]


def test_one_person_with_two_photographs_and_a_double() -> None:
    """The mean of 1 and 0.6 counts; the double resembles RED by the mean of 0.6 and 1."""
    result = measured([pair(RED, SIXTY)] * 5, [one(RED), one(SIXTY)], owners=(0, 0))
    assert result.values == pytest.approx(
        {
            "people_arc": 0.8,
            "people_arc_voted": 0.8,
            "people_margin": None,
            "swapped": 0,
            "missing": 0,
            "duplicate": 1,
            "extra": 0,
        },
        abs=1e-6,
    )


def test_a_person_without_a_face_in_their_photograph() -> None:
    result = People("", analyser()).measure(sample([one(RED)], [one(RED), one(None)], people=(0, 1)))
    assert result.status == "no reference face" and "a_1.png" in result.reason and "a_0.png" not in result.reason


@pytest.mark.parametrize("shape", [(2, 2), (2, 4), (3, 2), (1, 3), (2, 0)])
def test_the_assignment_is_the_best_of_all(shape: tuple[int, int]) -> None:
    similarity = np.random.default_rng(0).normal(size=shape)
    people, faces = shape
    slots = list(range(faces)) + [-1] * max(people - faces, 0)
    best = max(
        sum(similarity[person, face] for person, face in enumerate(choice) if face >= 0)
        for choice in permutations(slots, people)
    )
    chosen = assign(similarity)
    assert sum(similarity[person, face] for person, face in enumerate(chosen) if face >= 0) == pytest.approx(best)
    assert len({face for face in chosen.tolist() if face >= 0}) == min(shape)


def faces_at(*xs: float) -> list[Face]:
    return [Face((x, 0, x + 20, 20), np.zeros((5, 2)), 0.9) for x in xs]


def test_tracks_follow_places() -> None:
    moving = [faces_at(0 + 5 * t, 200 - 5 * t) for t in range(6)]
    assert tracks_of(moving) == [[0, 1]] * 6
    assert tracks_of([faces_at(0, 50), faces_at(52, 2)]) == [[0, 1], [1, 0]], "the order within a frame is nothing"
    assert tracks_of([faces_at(0), [], [], faces_at(3)]) == [[0], [], [], [0]], "a short gap is bridged"
    assert tracks_of([faces_at(0), [], [], [], faces_at(3)]) == [[0], [], [], [], [1]], "a long one is not"
    assert tracks_of([faces_at(0), faces_at(60)]) == [[0], [1]], "nor a leap of three faces"
    assert tracks_of([faces_at(0), faces_at(19, 10)]) == [[0], [1, 0]], "the nearest continues it"


def test_drawn_people_who_exchange_places() -> None:
    """Two drawn people, and the picture mirrored from frame 4 of 6 on: each face is then where the other one was."""
    pair_of = (FIRST, FIRST + 1)
    video = draw([clip_of(pair_of, 0)], height=96, width=96, num_frames=6).pixels[0].copy()
    video[4:] = video[4:, :, ::-1]
    metric = people(Backends(faces=PACK))
    photographs = [draw_photograph(person, size=96) for person in pair_of]
    result = metric.measure(sample(list(video), photographs, people=(0, 1)))
    rates = {name: result.values[name] for name in ("swapped", "missing", "duplicate", "extra")}
    assert rates == {"swapped": pytest.approx(2 / 6), "missing": 0, "duplicate": 0, "extra": 0}
    assert result.values["people_arc"] > result.values["people_arc_voted"] + 0.15
