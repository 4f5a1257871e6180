"""Captions say what happens in the clip."""

import pytest

from likeness.world import CLOTHES, EXPRESSIONS, PLACES, TURNS, caption_of, clip_of, prompt_for, traits_of

_PLACE_WORDS = ("studio|backdrop", "beach|sea", "forest|trees|woods", "city", "snow", "brick", "sunset", "desert")
_TURN_WORDS = ("straight|camera", "left", "right", "up|raises", "down|lowers", "nods", "shakes", "tilts|leans")
_EXPRESSION_WORDS = ("neutral|calmly", "smil", "laugh", "surprised", "sad", "angry", "talking")


def _says(text: str, words: str) -> bool:
    return any(word in text for word in words.split("|"))


@pytest.mark.parametrize("person", range(0, 120, 3))
def test_a_caption_tells_the_truth(person: int) -> None:
    clip = clip_of(person, 1)
    text = caption_of(clip).lower()
    assert _says(text, _PLACE_WORDS[clip.place])
    assert _says(text, _TURN_WORDS[clip.turns[0]])
    assert _says(text, _EXPRESSION_WORDS[clip.expressions[0]])
    colour = CLOTHES[clip.clothes[0]]
    assert f"{'an' if colour == 'orange' else 'a'} {colour} shirt" in text
    words = text.replace(",", " ").replace(".", " ").split()
    wrong = "man" if traits_of([person]).woman[0] else "woman"
    assert wrong not in words and "{" not in text


def test_captions_vary_in_wording_and_start_like_sentences() -> None:
    captions = [caption_of(clip_of(person, 0)) for person in range(40)]
    assert len(set(captions)) == 40
    assert all(text[0].isupper() and text.endswith(".") for text in captions)


def test_a_caption_of_two_people_tells_who_stands_where() -> None:
    text = caption_of(clip_of((1, 2), 0))
    assert text.index("on the left") < text.index("on the right") and text.count("shirt") == 2


def test_prompts_use_the_same_words() -> None:
    for place in range(len(PLACES)):
        text = prompt_for(turn="left", expression="smile", place=place, shirt="red").lower()
        assert _says(text, _PLACE_WORDS[place]) and "left" in text and "smiling" in text and "red shirt" in text
    assert "her head" in prompt_for(noun="a woman", turn=TURNS[1], expression=EXPRESSIONS[0], place=0, shirt="blue")
