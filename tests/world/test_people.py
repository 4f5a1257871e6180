"""People and clips: numbers decide everything, and the splits stay apart."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from likeness.world import (
    CLOTHES,
    EXPRESSIONS,
    PLACES,
    TRAINING_PEOPLE,
    TURNS,
    VALIDATION_PEOPLE,
    clip_of,
    motion_of,
    photo_of,
    traits_of,
)
from likeness.world.person import NUM_PEOPLE, Traits

people = st.integers(0, NUM_PEOPLE - 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(people, min_size=1, max_size=4))
def test_a_person_is_the_same_in_any_company(numbers: list[int]) -> None:
    together = traits_of(numbers)
    for row, number in enumerate(numbers):
        alone = traits_of([number])
        for field in fields(Traits):
            assert np.array_equal(getattr(together, field.name)[row], getattr(alone, field.name)[0]), field.name


def test_two_people_differ_in_most_traits() -> None:
    traits = traits_of([11, 12])
    differ = [not np.array_equal(*getattr(traits, field.name)) for field in fields(Traits)]
    assert sum(differ) > 0.7 * len(differ)


def test_colours_are_colours() -> None:
    traits = traits_of(range(500))
    for name in ("skin", "hair_colour", "brow_colour", "lip_colour", "eye_colour", "frame_colour"):
        colour = getattr(traits, name)
        assert colour.shape == (500, 3) and colour.min() >= 0 and colour.max() <= 1


@pytest.mark.parametrize("number", [-1, NUM_PEOPLE])
def test_nobody_has_a_number_out_of_range(number: int) -> None:
    with pytest.raises(ValueError, match=str(NUM_PEOPLE - 1)):
        traits_of([number])


def test_training_validation_and_judges_people_are_apart() -> None:
    assert TRAINING_PEOPLE.stop <= VALIDATION_PEOPLE.start and VALIDATION_PEOPLE.stop == 900_000 < NUM_PEOPLE


@settings(max_examples=25, deadline=None)
@given(people, st.integers(0, 50))
def test_a_clip_follows_from_its_numbers(person: int, number: int) -> None:
    once, again = clip_of(person, number), clip_of((person,), number)
    assert (once.place, once.turns, once.expressions, once.clothes) == (
        again.place,
        again.turns,
        again.expressions,
        again.clothes,
    )
    assert np.array_equal(once.noise, again.noise)
    assert not np.array_equal(once.noise, clip_of(person, number + 1).noise)
    assert not np.array_equal(once.noise, photo_of(person, number).noise)


def test_the_order_of_people_makes_another_clip() -> None:
    assert not np.array_equal(clip_of((1, 2), 0).noise, clip_of((2, 1), 0).noise)


def test_every_word_of_the_vocabularies_happens() -> None:
    clips = [clip_of(person, 0) for person in range(300)]
    assert {clip.place for clip in clips} == set(range(len(PLACES)))
    assert {clip.turns[0] for clip in clips} == set(range(len(TURNS)))
    assert {clip.expressions[0] for clip in clips} == set(range(len(EXPRESSIONS)))
    assert {clip.clothes[0] for clip in clips} == set(range(len(CLOTHES)))


@pytest.mark.parametrize("count", [0, 4])
def test_a_clip_shows_one_to_three_people(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 3"):
        clip_of(tuple(range(count)), 0)


def _clips_turning(turn: str, count: int = 12) -> list:
    return [clip for clip in (clip_of(person, 0) for person in range(400)) if TURNS[clip.turns[0]] == turn][:count]


@pytest.mark.parametrize(
    ("turn", "angle", "sign"), [("left", "yaw", -1), ("right", "yaw", 1), ("up", "pitch", 1), ("down", "pitch", -1)]
)
def test_heads_turn_where_the_clip_says(turn: str, angle: str, sign: int) -> None:
    for clip in _clips_turning(turn):
        path = getattr(motion_of(clip), angle)[:, 0]
        assert sign * (path[-1] - path[0]) > 0.2


def test_a_shaking_head_goes_both_ways_and_a_straight_one_stays() -> None:
    for clip in _clips_turning("shake"):
        yaw = motion_of(clip).yaw[:, 0]
        assert np.ptp(yaw) > 0.3 and np.diff(np.sign(np.diff(yaw))).any()
    for clip in _clips_turning("straight"):
        assert np.ptp(motion_of(clip).yaw) < 1e-6


def test_motion_is_a_function_of_time_not_of_the_frame_rate() -> None:
    clip = clip_of(5, 3)
    slow, fast = motion_of(clip, 9, 4.0), motion_of(clip, 17, 8.0)
    for field in fields(slow):
        assert np.allclose(getattr(slow, field.name), getattr(fast, field.name)[::2], atol=1e-6)
