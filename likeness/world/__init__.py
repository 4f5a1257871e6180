"""A world of drawn people: unlimited, deterministic training data with the truth attached."""

from likeness.world.captions import caption_of, prompt_for
from likeness.world.clip import (
    CLOTHES,
    EXPRESSIONS,
    FPS,
    NUM_FRAMES,
    PLACES,
    TURNS,
    Clip,
    Motion,
    clip_of,
    motion_of,
    photo_of,
)
from likeness.world.person import TRAINING_PEOPLE, VALIDATION_PEOPLE, Traits, traits_of
from likeness.world.render import Drawing, draw

__all__ = [
    "CLOTHES",
    "EXPRESSIONS",
    "FPS",
    "NUM_FRAMES",
    "PLACES",
    "TRAINING_PEOPLE",
    "TURNS",
    "VALIDATION_PEOPLE",
    "Clip",
    "Drawing",
    "Motion",
    "Traits",
    "caption_of",
    "clip_of",
    "draw",
    "motion_of",
    "photo_of",
    "prompt_for",
    "traits_of",
]
