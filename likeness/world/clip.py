"""What happens in a clip or a photograph of drawn people: place, clothes, movement, expression, light.

A clip is (people, number); everything else follows from it by the same counter-based generator that makes the people.
Angles are radians: yaw > 0 turns to the right of the picture, pitch > 0 looks up, roll > 0 leans to the left of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from likeness.world.person import uniforms

FPS = 8.0
NUM_FRAMES = 17
MAX_PEOPLE = 3

PLACES = ("studio", "beach", "forest", "city at night", "snow", "brick wall", "sunset", "desert")
TURNS = ("straight", "left", "right", "up", "down", "nod", "shake", "tilt")
EXPRESSIONS = ("neutral", "smile", "laugh", "surprise", "sad", "angry", "talk")
CLOTHES = ("red", "blue", "green", "yellow", "white", "black", "purple", "orange")

# smile, mouth opening, brows up, anger, eye opening at the height of each expression
_EXPRESSION = np.array(
    [
        [0.05, 0.0, 0.0, 0.0, 1.0],
        [0.95, 0.0, 0.15, 0.0, 0.92],
        [1.0, 0.75, 0.25, 0.0, 0.62],
        [-0.1, 1.0, 1.0, 0.0, 1.35],
        [-1.0, 0.0, 0.35, -0.8, 0.80],
        [-0.55, 0.12, -0.35, 1.0, 0.80],
        [0.15, 0.0, 0.1, 0.0, 1.0],
    ]
)
_SCALE = {1: (0.325, 0.385), 2: (0.200, 0.232), 3: (0.140, 0.160)}
_CENTRES = {1: (0.5,), 2: (0.27, 0.73), 3: (0.18, 0.5, 0.82)}
_CLIP_SALT, _PHOTO_SALT, _PER_PERSON = 0x0C11, 0x0F07, 40


@dataclass(frozen=True)
class Clip:
    """One clip or photograph. `people` stand from left to right; the tuples have one entry a person (indices of the
    vocabularies above). `noise` [len(people) + 1, 40] holds the uniforms that decide the rest: row 0 is the scene's."""

    people: tuple[int, ...]
    number: int
    photo: bool
    place: int
    turns: tuple[int, ...]
    expressions: tuple[int, ...]
    clothes: tuple[int, ...]
    noise: np.ndarray


def _make(people: int | tuple[int, ...], number: int, photo: bool) -> Clip:
    people = (people,) if isinstance(people, int | np.integer) else tuple(people)
    if not 1 <= len(people) <= MAX_PEOPLE:
        raise ValueError(f"a clip shows 1 to {MAX_PEOPLE} people, not {len(people)}")
    salt = (_PHOTO_SALT if photo else _CLIP_SALT) + (number << 16)
    # The scene belongs to all of its people in their order, so that (1, 2) and (2, 1) are different clips.
    key = sum(int(person) * 1_000_003**slot for slot, person in enumerate(people)) % 2**63
    noise = uniforms(key, salt, (len(people) + 1) * _PER_PERSON).reshape(-1, _PER_PERSON)

    def pick(count: int, column: int) -> tuple[int, ...]:
        return tuple(int(value) for value in noise[1:, column] * count)

    return Clip(
        people=tuple(int(person) for person in people),
        number=number,
        photo=photo,
        place=int(noise[0, 0] * len(PLACES)),
        turns=(0,) * len(people) if photo else pick(len(TURNS), 0),
        expressions=pick(len(EXPRESSIONS), 1),
        clothes=pick(len(CLOTHES), 2),
        noise=noise,
    )


def clip_of(people: int | tuple[int, ...], number: int) -> Clip:
    """Clip `number` of these people (one number, or up to three from left to right)."""
    return _make(people, number, photo=False)


def photo_of(person: int, number: int) -> Clip:
    """Photograph `number` of one person: a single near-frontal frame in its own place, light and clothes."""
    return _make(person, number, photo=True)


@dataclass(frozen=True)
class Motion:
    """The state of each person in each frame; float32 [F, P]. Positions are fractions of the frame, scale is fractions of
    the frame's height a head unit."""

    x: np.ndarray
    y: np.ndarray
    scale: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray
    roll: np.ndarray
    smile: np.ndarray
    mouth: np.ndarray
    brow: np.ndarray
    anger: np.ndarray
    eye: np.ndarray
    gaze_x: np.ndarray
    gaze_y: np.ndarray


def _ease(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def motion_of(clip: Clip, num_frames: int = NUM_FRAMES, fps: float = FPS) -> Motion:
    """The movement of a clip, sampled at `num_frames` frames of `fps` frames a second (a photograph has one frame)."""
    if clip.photo:
        num_frames = 1
    t = np.arange(num_frames) / fps  # [F] seconds
    per_person = [_motion_of_one(clip, slot, t) for slot in range(len(clip.people))]
    return Motion(**{name: np.stack([m[name] for m in per_person], 1).astype(np.float32) for name in per_person[0]})


def _motion_of_one(clip: Clip, slot: int, t: np.ndarray) -> dict[str, np.ndarray]:
    n, count = clip.noise[slot + 1], len(clip.people)
    low, high = _SCALE[count]
    sway = 0.008 / count
    x = _CENTRES[count][slot] + (n[3] - 0.5) * 0.08 / count + sway * np.sin(1.7 * t + 6.28 * n[4])
    y = 0.475 + (n[5] - 0.5) * 0.05 + sway * np.sin(2.3 * t + 6.28 * n[6])
    one = np.ones_like(t)

    base_yaw, base_pitch, base_roll = (n[7] - 0.5) * 0.24, (n[8] - 0.5) * 0.16, (n[9] - 0.5) * 0.12
    yaw, pitch, roll = base_yaw * one, base_pitch * one, base_roll * one
    move, size = _ease((t - 0.1 - 0.3 * n[10]) / (0.7 + 0.5 * n[11])), 0.85 + 0.3 * n[12]
    turn = TURNS[clip.turns[slot]]
    if clip.photo:
        yaw, pitch, roll = (n[7] - 0.5) * 0.8 * one, (n[8] - 0.5) * 0.30 * one, (n[9] - 0.5) * 0.24 * one
    elif turn in ("left", "right"):
        yaw = yaw + (0.72 if turn == "right" else -0.72) * size * move
    elif turn in ("up", "down"):
        pitch = pitch + (0.42 if turn == "up" else -0.42) * size * move
    elif turn == "nod":
        pitch = pitch - 0.26 * size * np.sin(2 * np.pi * 1.1 * (t - 0.1 * n[10])) * move
    elif turn == "shake":
        yaw = yaw + 0.42 * size * np.sin(2 * np.pi * 1.0 * (t - 0.1 * n[10])) * move
    elif turn == "tilt":
        roll = roll + (0.36 if n[13] < 0.5 else -0.36) * size * move

    smile, mouth, brow, anger, eye = _EXPRESSION[clip.expressions[slot]]
    onset = one if clip.photo or n[14] < 0.5 else _ease((t + 0.1) / 0.6)
    strength = (0.8 + 0.25 * n[15]) * onset
    mouth = mouth * strength
    if EXPRESSIONS[clip.expressions[slot]] == "talk":
        mouth = 0.45 * np.clip(
            0.5 + 0.6 * np.sin(2 * np.pi * (1.9 * t + n[16])) * np.sin(2 * np.pi * (0.7 * t + n[17])), 0, 1
        )
    blink_at = 0.2 + 2.4 * n[18]
    blink = np.clip(1 - np.abs(t - blink_at) / 0.13, 0, 1) * (0 if clip.photo else 1)
    return {
        "x": x,
        "y": y,
        "scale": (low + (high - low) * n[19]) * one,
        "yaw": yaw,
        "pitch": pitch,
        "roll": roll,
        "smile": smile * strength,
        "mouth": mouth * one,
        "brow": brow * strength,
        "anger": anger * strength,
        "eye": (1 + (eye - 1) * strength) * (1 - 0.95 * blink),
        "gaze_x": (n[20] - 0.5) * 0.07 + 0.06 * np.sin(yaw - base_yaw),
        "gaze_y": (n[21] - 0.5) * 0.03 + 0.03 * np.sin(pitch - base_pitch),
    }
