"""Which captions name a person: whole words, plurals and possessives, nothing that only looks like one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.curate.captions import human_term, names_a_person
from likeness.curate.terms import DESCRIPTORS, GENDER, HUMAN_TERMS, NOT_PEOPLE, OCCUPATIONS


@pytest.mark.parametrize(
    ("caption", "term"),
    [
        ("A woman nods.", "woman"),
        ("Two LADIES at a table", "lady"),
        ("Babies asleep", "baby"),
        ("The bosses' car", "boss"),
        ("waitresses carry plates", "waitress"),
        ("a man's hat", "man"),
        ("the firemen\u2019s ladder", "firemen"),
        ("a saleswoman", "saleswoman"),
        ("townspeople in the square", "townspeople"),
        ("A fire-fighter climbs", None),
        ("a stunt-man falls", "stunt-man"),
        ("ex-soldiers march", "soldier"),
        ("her mother-in-law", "mother-in-law"),
        ("someone waves", "someone"),
        ("Close-up: chef!", "chef"),
        ("un fiancé et", "fiancé"),
    ],
)
def test_people_are_found(caption: str, term: str | None) -> None:
    assert human_term(caption) == term


@pytest.mark.parametrize(
    "caption",
    [
        "A manhole cover in Manchester",
        "humane treatment of animals, for the good of humanity",
        "a man-made lake",
        "a bowl of ramen with specimens of Roman talismans",
        "a mandolin, a romance, a boyish mannequin",
        "a snowman",
        "a kidney, a childproof lid, menus and a womanly shape",
        "an empty street with no people",
        "a beach without any people on it",
        "no visible human figures",
        "marine life around a ceiling fan",
        "water, waves",
    ],
)
def test_nobody_is_found_where_nobody_is(caption: str) -> None:
    assert names_a_person(caption) is False


def test_a_person_after_a_negation_counts() -> None:
    assert names_a_person("No cars, only a man.") is True
    assert names_a_person("There are no people but one girl.") is True


def test_what_the_table_cannot_read_is_left_alone() -> None:
    assert names_a_person(None) is None
    assert names_a_person(" \n") is None
    assert names_a_person("一个女人在海边") is None
    assert names_a_person("100 %") is None


def test_words_can_be_added_in_any_language() -> None:
    assert names_a_person("eine Frau am Strand") is False
    assert names_a_person("eine Frau am Strand", ["frau"]) is True
    assert names_a_person("die Frauenkirche", ["frau"]) is False
    assert names_a_person("一个女人在海边", ["女人"]) is True
    assert names_a_person("海边", ["女人"]) is False
    assert names_a_person("a rock star", ["rock star"]) is True


def test_the_table_is_clean() -> None:
    twice = [term for term, count in Counter(DESCRIPTORS + GENDER + OCCUPATIONS).items() if count > 1]
    assert not twice
    assert all(term == term.lower().strip() for term in HUMAN_TERMS)
    assert not HUMAN_TERMS & NOT_PEOPLE
    assert len(HUMAN_TERMS) > 400


@given(term=st.sampled_from(sorted(HUMAN_TERMS)), before=st.sampled_from(["", "A ", "the old, ", "(", '"']))
def test_every_term_is_found_alone_and_inside_no_other_word(term: str, before: str) -> None:
    assert names_a_person(f"{before}{term.upper()}.") is True
    assert human_term(f"x{term}ly") is None
