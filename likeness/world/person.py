"""Who a drawn person is: everything that stays the same from picture to picture.

A person is a number. `traits_of` turns numbers into arrays of traits by a counter-based generator, so that person 4711 is
the same on every machine and in any batch. Lengths are in head units: one unit is about half the height of a head, the
origin lies between the ears, x points to the right of the picture when the head faces the camera, y up, z to the camera.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

NUM_PEOPLE = 1_000_000
TRAINING_PEOPLE = range(800_000)
VALIDATION_PEOPLE = range(800_000, 900_000)  # people from 900,000 on are left to outside judges: no recipe draws them

HAIR_STYLES = ("bald", "buzz cut", "short", "side part", "afro", "bob", "long", "bun", "fringe", "quiff")
BEARDS = ("none", "stubble", "moustache", "goatee", "full")
GLASSES = ("none", "round", "square")

_SALT = 0x11CE
_NUM_UNIFORMS = 80
_SKIN = np.array(
    [
        [0.97, 0.82, 0.72],
        [0.91, 0.71, 0.57],
        [0.81, 0.58, 0.42],
        [0.64, 0.42, 0.28],
        [0.46, 0.29, 0.19],
        [0.30, 0.19, 0.13],
    ]
)
_HAIR = np.array(
    [
        [0.08, 0.07, 0.08],
        [0.23, 0.14, 0.09],
        [0.40, 0.25, 0.14],
        [0.47, 0.17, 0.08],
        [0.76, 0.34, 0.10],
        [0.86, 0.68, 0.36],
        [0.95, 0.89, 0.74],
        [0.58, 0.57, 0.56],
        [0.22, 0.36, 0.78],
        [0.86, 0.36, 0.60],
        [0.10, 0.56, 0.50],
    ]
)
_HAIR_ODDS = np.array([0.17, 0.15, 0.14, 0.09, 0.09, 0.12, 0.06, 0.08, 0.04, 0.03, 0.03])
_EYES = np.array(
    [
        [0.16, 0.09, 0.05],
        [0.36, 0.20, 0.09],
        [0.48, 0.38, 0.14],
        [0.22, 0.48, 0.24],
        [0.22, 0.45, 0.75],
        [0.48, 0.54, 0.58],
    ]
)
_FRAMES = np.array([[0.07, 0.07, 0.08], [0.72, 0.55, 0.20], [0.62, 0.10, 0.12], [0.12, 0.22, 0.55], [0.85, 0.85, 0.88]])


@dataclass(frozen=True)
class Traits:
    """Traits of N people; every field is float32 [N], colours are [N, 3] in 0..1 (sRGB), choices are int64 [N]."""

    woman: np.ndarray
    skin: np.ndarray
    hair_colour: np.ndarray
    brow_colour: np.ndarray
    lip_colour: np.ndarray
    eye_colour: np.ndarray
    frame_colour: np.ndarray
    head_w: np.ndarray
    head_h: np.ndarray
    jaw_w: np.ndarray
    jaw_h: np.ndarray
    chin: np.ndarray
    chin_y: np.ndarray
    cheek: np.ndarray
    cheek_y: np.ndarray
    ear: np.ndarray
    nose_w: np.ndarray
    nose_tip: np.ndarray
    nose_y: np.ndarray
    nose_out: np.ndarray
    eye_x: np.ndarray
    eye_y: np.ndarray
    eye_w: np.ndarray
    eye_h: np.ndarray
    eye_tilt: np.ndarray
    iris: np.ndarray
    lash: np.ndarray
    brow_y: np.ndarray
    brow_w: np.ndarray
    brow_h: np.ndarray
    brow_arch: np.ndarray
    brow_tilt: np.ndarray
    mouth_y: np.ndarray
    mouth_w: np.ndarray
    lip_up: np.ndarray
    lip_low: np.ndarray
    hair_style: np.ndarray
    hair_volume: np.ndarray
    hairline: np.ndarray
    part: np.ndarray
    curl: np.ndarray
    beard: np.ndarray
    glasses: np.ndarray
    glasses_size: np.ndarray
    mole_x: np.ndarray
    mole_y: np.ndarray
    mole_size: np.ndarray
    freckles: np.ndarray
    age: np.ndarray
    neck_w: np.ndarray
    shoulders: np.ndarray

    def take(self, index: np.ndarray) -> Traits:
        """The traits of `index` [M], in that order."""
        return Traits(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def uniforms(person: int, salt: int, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) that belong to (person, salt) alone; float64 [count]."""
    return np.random.Generator(np.random.Philox(key=np.array([person, salt], np.uint64))).random(count)


def traits_of(people: Sequence[int]) -> Traits:
    """Traits of the people with these numbers (0 <= number < NUM_PEOPLE).

    Raises:
        ValueError: a number out of range.
    """
    for person in people:
        if not 0 <= person < NUM_PEOPLE:
            raise ValueError(f"there is no person {person}: people are numbered from 0 to {NUM_PEOPLE - 1}")
    u = np.stack([uniforms(int(person), _SALT, _NUM_UNIFORMS) for person in people])  # [N, K]
    column = iter(range(_NUM_UNIFORMS))

    def between(low: float, high: float) -> np.ndarray:
        return (low + (high - low) * u[:, next(column)]).astype(np.float32)

    def choice(odds: np.ndarray | list[float]) -> np.ndarray:
        edges = np.cumsum(odds) / np.sum(odds)
        return np.minimum(np.searchsorted(edges, u[:, next(column)], side="right"), len(edges) - 1)

    woman = (u[:, next(column)] < 0.5).astype(np.float32)
    female = woman > 0.5
    tone = between(0, len(_SKIN) - 1.001)
    low = tone.astype(int)
    skin = _SKIN[low] + (_SKIN[low + 1] - _SKIN[low]) * (tone - low)[:, None]
    warmth = between(-0.035, 0.035)
    skin = np.clip(skin + warmth[:, None] * np.array([1.0, 0.1, -1.0]), 0.05, 0.99)
    hair = _HAIR[choice(_HAIR_ODDS)] * between(0.85, 1.15)[:, None]
    age = between(0, 1) ** 2
    greying = np.clip((age - 0.55) * 2.0, 0, 0.9)[:, None]
    hair = np.clip(hair * (1 - greying) + 0.72 * greying, 0.03, 0.97)
    brow = hair * between(0.45, 0.85)[:, None]
    redness = between(0.25, 0.6) + 0.25 * woman
    lip = (
        skin * (1 - redness[:, None])
        + np.array([0.70, 0.20, 0.22]) * skin.mean(1, keepdims=True) * 1.25 * redness[:, None]
    )
    bare_chin = choice([0.42, 0.16, 0.13, 0.13, 0.16])
    men_style = choice([0.09, 0.14, 0.25, 0.17, 0.08, 0.02, 0.05, 0.03, 0.05, 0.12])
    women_style = choice([0.01, 0.02, 0.08, 0.08, 0.10, 0.22, 0.24, 0.12, 0.13, 0.0])
    has_mole = u[:, next(column)] < 0.4
    has_freckles = u[:, next(column)] < 0.18
    return Traits(
        woman=woman,
        skin=skin.astype(np.float32),
        hair_colour=hair.astype(np.float32),
        brow_colour=brow.astype(np.float32),
        lip_colour=np.clip(lip, 0.05, 0.95).astype(np.float32),
        eye_colour=_EYES[choice([0.25, 0.22, 0.14, 0.13, 0.18, 0.08])].astype(np.float32),
        frame_colour=_FRAMES[choice([0.45, 0.15, 0.14, 0.14, 0.12])].astype(np.float32),
        head_w=between(0.64, 0.78),
        head_h=between(0.72, 0.84),
        jaw_w=between(0.50, 0.68) - 0.03 * woman,
        jaw_h=between(0.62, 0.80),
        chin=between(0.13, 0.27) - 0.03 * woman,
        chin_y=between(-0.92, -0.76),
        cheek=between(0.20, 0.33),
        cheek_y=between(-0.34, -0.14),
        ear=between(0.13, 0.25),
        nose_w=between(0.055, 0.10),
        nose_tip=between(0.085, 0.165),
        nose_y=between(-0.32, -0.17),
        nose_out=between(0.05, 0.20),
        eye_x=between(0.265, 0.355),
        eye_y=between(0.02, 0.13),
        eye_w=between(0.145, 0.215),
        eye_h=between(0.075, 0.135) + 0.012 * woman,
        eye_tilt=between(-0.28, 0.28),
        iris=between(0.075, 0.105),
        lash=between(0.010, 0.022) + 0.016 * woman,
        brow_y=between(0.15, 0.24),
        brow_w=between(0.17, 0.25),
        brow_h=between(0.026, 0.07) - 0.012 * woman,
        brow_arch=between(0.0, 0.09),
        brow_tilt=between(-0.22, 0.22),
        mouth_y=between(-0.58, -0.46),
        mouth_w=between(0.18, 0.33),
        lip_up=between(0.025, 0.06) + 0.012 * woman,
        lip_low=between(0.035, 0.08) + 0.012 * woman,
        hair_style=np.where(female, women_style, men_style),
        hair_volume=between(0.05, 0.17),
        hairline=between(0.46, 0.72),
        part=between(-0.35, 0.35),
        curl=np.clip(between(-0.8, 1.0), 0, 1),
        beard=np.where(female, 0, bare_chin),
        glasses=choice([0.72, 0.15, 0.13]),
        glasses_size=between(0.20, 0.27),
        mole_x=between(-0.45, 0.45),
        mole_y=between(-0.68, 0.42),
        mole_size=np.where(has_mole, between(0.026, 0.045), 0.0).astype(np.float32),
        freckles=np.where(has_freckles, between(0.5, 1.0), 0.0).astype(np.float32),
        age=age.astype(np.float32),
        neck_w=between(0.28, 0.40) - 0.05 * woman,
        shoulders=between(1.25, 1.65) - 0.15 * woman,
    )
