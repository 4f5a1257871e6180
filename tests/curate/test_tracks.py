"""Who is who: people keep their track whatever the order of detections, and are numbered from left to right."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import measures

from likeness.curate.config import CurationConfig
from likeness.curate.rules import decide
from likeness.curate.tracks import Seen, bridge, follow, in_order, likeness, match, overlap, seen, spread
from likeness.types import Face

WIDTH, HEIGHT = 100, 50


def vector(person: int, turn: float = 0.0) -> np.ndarray:
    """A unit vector of a person, turned away from it by an angle."""
    axes = np.eye(8, dtype=np.float32)
    return (np.cos(turn) * axes[person] + np.sin(turn) * axes[7]).astype(np.float32)


def face(person: int | None, x: float, *, turn: float = 0.0, side: float = 10.0) -> Seen:
    box = (x - side / 2, 20 - side / 2, x + side / 2, 20 + side / 2)
    found = Face(box=box, keypoints=np.zeros((5, 2), np.float32), score=0.9)
    return seen(found, None if person is None else vector(person, turn), HEIGHT, WIDTH)


def test_area_is_that_of_what_is_seen() -> None:
    assert face(0, 50).area == pytest.approx(100 / 5000) and face(0, 50).centre_x == pytest.approx(0.5)
    assert face(0, 0).area == pytest.approx(50 / 5000)
    assert face(0, -50).area == 0.0


@given(st.permutations(range(3)), st.permutations(range(3)), st.booleans())
def test_people_are_known_by_their_faces_whatever_the_order(first, second, swapped) -> None:
    """They may even change places: the face decides, not the place."""
    places = [(20.0, 50.0, 80.0), (80.0, 50.0, 20.0) if swapped else (22.0, 52.0, 82.0)]
    samples = {
        0: [face(person, places[0][person]) for person in first],
        1: [face(person, places[0][person], turn=0.1) for person in range(3)],
        2: [face(person, places[1][person], turn=0.3) for person in second],
    }
    tracks = follow(samples)
    for track in tracks:
        people = {int(np.argmax(one.embedding)) for one in track.faces if one.embedding is not None}
        assert len(people) == 1
        assert track.cosines == pytest.approx((np.cos(0.1), np.cos(0.2)), abs=1e-6)
    assert [track.mean_x for track in tracks] == sorted(track.mean_x for track in tracks)


def test_the_assignment_is_the_best_for_all_together() -> None:
    """The nearest for the first would leave the second with a stranger."""
    before = [face(0, 20), face(0, 60, turn=0.6)]
    after = [face(0, 20, turn=0.3), face(0, 60, turn=-0.9)]
    cosines = likeness(before, after)
    assert cosines[0, 0] > cosines[0, 1] and cosines[0, 0] + cosines[1, 1] < cosines[0, 1] + cosines[1, 0]
    assert match(before, after) == [1, 0]


def test_without_a_recogniser_boxes_decide() -> None:
    samples = {
        0: [face(None, 20), face(None, 70)],
        1: [face(None, 68), face(None, 23)],
        2: [face(None, 95), face(None, 40)],  # no box overlaps any more: the nearer
    }
    left, right = follow(samples)
    assert [round(100 * one.centre_x) for one in left.faces] == [20, 23, 40]
    assert [round(100 * one.centre_x) for one in right.faces] == [70, 68, 95]
    assert left.cosines == right.cosines == ()


def test_gaps_give_cosines_only_if_asked() -> None:
    samples = {number: [face(0, 50, turn=0.1 * number)] for number in (0, 1, 4, 5)}
    (track,) = follow(samples)
    assert track.samples == (0, 1, 4, 5) and track.cosines == pytest.approx([np.cos(0.1)] * 2, abs=1e-6)
    (track,) = follow(samples, across_gaps=True)
    assert track.cosines == pytest.approx([np.cos(0.1), np.cos(0.3), np.cos(0.1)], abs=1e-6)
    assert follow({}) == () and follow({3: []}) == ()


def test_references_come_from_samples_in_the_usual_order() -> None:
    """Appendix B.1: where two people have changed places, their faces are no references."""
    samples = {number: [face(0, 30), face(1, 70)] for number in range(3)}
    samples[3] = [face(0, 75), face(1, 25)]
    left, right = tracks = follow(samples)
    assert len(left.faces) == len(right.faces) == 4
    assert in_order(tracks, 0) == in_order(tracks, 1) == [0, 1, 2]


@given(st.integers(0, 60), st.integers(1, 9))
def test_a_uniform_choice_is_even_and_without_repetition(count: int, wanted: int) -> None:
    chosen = spread(count, wanted)
    assert len(chosen) == min(count, wanted) and chosen == sorted(set(chosen))
    assert all(0 <= index < count for index in chosen)
    gaps = [after - before for before, after in pairwise(chosen)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1, "evenly"
    if chosen:
        assert abs(chosen[0] - (count - 1 - chosen[-1])) <= 1, "as far from the beginning as from the end"


corner = st.tuples(*[st.floats(0, 50)] * 4).map(
    lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3]))
)


@given(corner, corner)
def test_overlap_is_a_share_and_has_no_order(a, b) -> None:
    assert 0 <= overlap(a, b) <= 1 and overlap(a, b) == pytest.approx(overlap(b, a))


def test_overlap_of_known_boxes() -> None:
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (1, 0, 2, 1)) == 0


def alone(*faces: Seen):
    (track,) = follow({number: [one] for number, one in enumerate(faces)})
    return track


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(-1.5, 1.5)), max_size=9), st.integers(1, 3))
def test_a_bridge_is_the_best_pair_across_the_weakest_moment(people, least) -> None:
    faces = [face(person, 50, turn=turn) for person, turn in people]
    vectors = [np.asarray(one.embedding, np.float64) for one in faces]
    moments = [
        max(float(a @ b) for a in vectors[:moment] for b in vectors[moment:])
        for moment in range(least, len(faces) - least + 1)
    ]
    found = bridge(alone(*faces), least) if faces else None
    assert found == (pytest.approx(min(moments), abs=1e-12) if moments else None)


def test_without_a_recogniser_or_with_few_faces_there_is_no_bridge() -> None:
    assert bridge(alone(*(face(None, 50) for _ in range(9)))) is None
    assert bridge(alone(*(face(0, 50) for _ in range(3)))) is None
    assert bridge(alone(*(face(0, 50) for _ in range(4)))) == pytest.approx(1.0)


def verdict(*faces: Seen) -> str:
    """What the rules say by default of a clip of one person's faces."""
    track = alone(*faces)
    told = measures(
        num_people=(1,) * len(faces), cosines=(track.cosines,), areas=((0.1,) * len(faces),), bridge=bridge(track)
    )
    return decide(told, CurationConfig()).reason


@pytest.mark.parametrize("length", [3, 4, 5, 7, 20, 240])
def test_a_swap_is_found_at_any_length_and_moment(length: int) -> None:
    """The paper's rule finds it in clips of up to four samples, the bridge wherever two samples show each of the two."""
    for moment in range(1, length):
        reason = verdict(*(face(int(number >= moment), 50) for number in range(length)))
        if length <= 4:
            assert reason == "identity varies"
        else:
            assert reason == ("identity changes" if 2 <= moment <= length - 2 else "")


def test_what_one_person_does_is_no_swap() -> None:
    front = [face(0, 50)] * 6
    assert verdict(*front, face(1, 50)) == "", "one face alone, such as a blurred one at the end"
    turned = [face(0, 50, turn=turn) for turn in (0.5, 1.0, 1.4)]
    assert np.cos(1.4) < 0.25 and verdict(*front, *turned, turned[-1], turned[-1]) == "", "each is like the one before"
    assert verdict(*front, *[face(1, 50)] * 2, *front) == "", "somebody else for a moment: the paper's 30 % decide"
