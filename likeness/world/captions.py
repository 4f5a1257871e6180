"""Captions in natural words, and the words that a probe can hold a video to."""

from __future__ import annotations

from likeness.world.clip import CLOTHES, EXPRESSIONS, TURNS, Clip
from likeness.world.person import traits_of

_PLACES = (
    ("in a grey studio", "in a photo studio", "against a plain grey backdrop"),
    ("on a beach", "by the sea", "on a sandy beach"),
    ("in a forest", "among trees", "in the woods"),
    ("in a city at night", "in front of city lights at night", "on a city street at night"),
    ("in a snowy field", "in the snow", "outside in winter snow"),
    ("in front of a brick wall", "before a red brick wall", "by a brick wall"),
    ("at sunset", "in front of a sunset", "under an evening sky at sunset"),
    ("in a desert", "among desert dunes", "on a sand dune in the desert"),
)
_TURNS = (
    ("looks straight ahead", "faces the camera"),
    ("turns {his} head to the left", "turns to the left"),
    ("turns {his} head to the right", "turns to the right"),
    ("looks up", "raises {his} head"),
    ("looks down", "lowers {his} head"),
    ("nods", "nods {his} head"),
    ("shakes {his} head", "shakes {his} head slowly"),
    ("tilts {his} head", "leans {his} head to one side"),
)
_EXPRESSIONS = (
    ("with a neutral expression", "calmly"),
    ("smiling", "with a smile"),
    ("laughing", "with a big laugh"),
    ("looking surprised", "with a surprised expression"),
    ("looking sad", "with a sad face"),
    ("looking angry", "with an angry frown"),
    ("talking", "while talking"),
)


def _one_of(options: tuple[str, ...], uniform: float) -> str:
    return options[int(uniform * len(options))]


def _person(clip: Clip, slot: int) -> tuple[str, str]:
    """How a caption names one person: the noun with its article, and the possessive."""
    woman = bool(traits_of([clip.people[slot]]).woman[0] > 0.5)
    if clip.noise[slot + 1, 30] < 0.34:
        return "a person", "the"
    return ("a woman", "her") if woman else ("a man", "his")


def _shirt(colour: str) -> str:
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} shirt"


def caption_of(clip: Clip) -> str:
    """The clip's caption, for example "A woman turns her head to the left, smiling, on a beach, wearing a red shirt."."""
    scene = clip.noise[0]
    place = _one_of(_PLACES[clip.place], scene[30])
    parts = []
    for slot in range(len(clip.people)):
        n = clip.noise[slot + 1]
        noun, his = _person(clip, slot)
        turn = _one_of(_TURNS[clip.turns[slot]], n[31]).format(his=his)
        expression = _one_of(_EXPRESSIONS[clip.expressions[slot]], n[32])
        shirt = f"{'in' if n[33] < 0.5 else 'wearing'} {_shirt(CLOTHES[clip.clothes[slot]])}"
        parts.append((noun, turn, expression, shirt))
    if len(parts) == 1:
        noun, turn, expression, shirt = parts[0]
        orders = (
            f"{noun} {turn}, {expression}, {place}, {shirt}.",
            f"{noun} {shirt} {turn} {place}, {expression}.",
            f"{place}, {noun} {shirt} {turn}, {expression}.",
        )
        text = _one_of(orders, scene[31])
    else:
        sides = ("on the left", "on the right") if len(parts) == 2 else ("on the left", "in the middle", "on the right")
        told = [
            f"{noun} {side} {shirt} {turn}, {expression}"
            for (noun, turn, expression, shirt), side in zip(parts, sides, strict=True)
        ]
        text = f"{place}, {'; '.join(told)}."
    return text[0].upper() + text[1:]


def prompt_for(*, noun: str = "a person", turn: str, expression: str, place: int, shirt: str) -> str:
    """A prompt in the plainest wording, for measurements: `turn` of TURNS, `expression` of EXPRESSIONS, `shirt` of CLOTHES."""
    his = {"a woman": "her", "a man": "his"}.get(noun, "the")
    told = _TURNS[TURNS.index(turn)][0].format(his=his)
    text = f"{noun} {told}, {_EXPRESSIONS[EXPRESSIONS.index(expression)][0]}, {_PLACES[place][0]}, wearing {_shirt(shirt)}."
    return text[0].upper() + text[1:]
