"""Does a caption name a person? (Concat-ID, section 4.2: clips whose captions hold no human-related term are excluded.)

Whole words are compared, plurals and possessives with their singulars, so "manhole" and "humane" name nobody and "the
firemen's ladder" does. Of a compound with hyphens the last part counts: "fire-fighter", not "man-made".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from likeness.curate.terms import HUMAN_TERMS, NEGATIONS, NOT_PEOPLE, PASSED_OVER, PERSON_ENDINGS

_WORD = re.compile(r"[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*")
_POSSESSIVE = re.compile(r"['\u2019]s?$")
_LATIN = re.compile(r"[a-z]")
_FIRST_WITHOUT_SPACES = "\u0e00"  # Thai; the scripts of East Asia come after it


def names_a_person(caption: str | None, extra_terms: Sequence[str] = ()) -> bool | None:
    """Whether a caption holds a human term.

    Args:
        caption: English text.
        extra_terms: words or phrases that count as well, in any language.

    Returns:
        None where the table cannot tell: no caption, an empty one, or one without a Latin letter.
    """
    if caption is None or not caption.strip():
        return None
    text = caption.lower()
    if any(_holds(text, term.lower()) for term in extra_terms):
        return True
    if not _LATIN.search(text):
        return False if extra_terms else None
    return human_term(text) is not None


def human_term(caption: str) -> str | None:
    """The first human term of a caption, in its singular as the table has it; None if there is none."""
    negated = False
    for match in _WORD.finditer(caption.lower()):
        word = match.group()
        term = _term(word)
        if term is not None and not negated:
            return term
        negated = word in NEGATIONS or (negated and word in PASSED_OVER)
    return None


@lru_cache(2**16)  # captions are made of the same words, and millions of them are decided about again
def _term(word: str) -> str | None:
    for singular in _singulars(word):
        if _is_person(singular):
            return singular
        if "-" in singular and _is_person(last := singular.rpartition("-")[2]):
            return last
    return None


def _is_person(word: str) -> bool:
    return word in HUMAN_TERMS or (word.endswith(PERSON_ENDINGS) and word not in NOT_PEOPLE)


def _singulars(word: str) -> Iterator[str]:
    """What a word may be the plural or the possessive of, itself first."""
    if not word[-2:].isalpha():  # "man's"
        word = _POSSESSIVE.sub("", word)
    yield word
    if word.endswith("s"):
        yield word[:-1]
        if word.endswith("ies"):
            yield word[:-3] + "y"
        elif word.endswith("es"):
            yield word[:-2]


def _holds(text: str, term: str) -> bool:
    """Whether a text holds a term as words of its own; in scripts that put no spaces between words, anywhere."""
    if min(term, default="") >= _FIRST_WITHOUT_SPACES:
        return term in text
    return re.search(rf"(?<!\w){re.escape(term)}(?!\w)", text) is not None
