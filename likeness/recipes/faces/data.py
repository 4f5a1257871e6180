"""Drawn pictures with their truth, drawn once and kept on disk as memory-mapped arrays.

Training sets show people from TRAINING_PEOPLE, validation sets from VALIDATION_PEOPLE; nobody else is ever drawn here.
A set is drawn again when the renderer changes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from likeness.world import TRAINING_PEOPLE, VALIDATION_PEOPLE, Clip, clip_of, draw, photo_of, traits_of

FRAMES, FRAMES_FPS = 6, 2.5  # enough to tell a nod (1.1 Hz) from a look down within the two seconds of a clip
_CLIPS_A_CALL = 16


@dataclass(frozen=True, kw_only=True)
class SetSpec:
    """What a set shows: groups `first`, `first + step`, ... of `group` neighbouring people, each in `clips` clips."""

    name: str
    first: int
    num_groups: int
    group: int = 1
    clips: int = 1
    first_clip: int = 0
    photo: bool = False
    size: int = 64
    num_frames: int = FRAMES
    fps: float = FRAMES_FPS

    def __post_init__(self) -> None:
        last = self.first + self.num_groups * self.group - 1
        if not any(self.first in people and last in people for people in (TRAINING_PEOPLE, VALIDATION_PEOPLE)):
            raise ValueError(
                f"{self.name}: people {self.first} to {last} are not within the training or validation people"
            )

    def drawings(self) -> list[Clip]:
        groups = [
            tuple(range(start, start + self.group))
            for start in range(self.first, self.first + self.num_groups * self.group, self.group)
        ]
        numbers = range(self.first_clip, self.first_clip + self.clips)
        return [photo_of(g[0], n) if self.photo else clip_of(g, n) for g in groups for n in numbers]


@dataclass(frozen=True)
class DrawnSet:
    """N drawings of F frames (1 for photographs), S px square, showing P people each; choices index likeness.world's lists."""

    pixels: np.ndarray  # uint8 [N, F, S, S, 3]
    labels: np.ndarray  # uint8 [N, F, S, S]
    boxes: np.ndarray  # float32 [N, F, P, 4] px
    keypoints: np.ndarray  # float32 [N, F, P, 5, 2] px
    visible: np.ndarray  # bool [N, F, P]
    pose: np.ndarray  # float32 [N, F, P, 3] yaw, pitch, roll in radians
    people: np.ndarray  # int64 [N, P]
    place: np.ndarray  # int64 [N]
    turn: np.ndarray  # int64 [N, P]
    expression: np.ndarray  # int64 [N, P]
    clothes: np.ndarray  # int64 [N, P]
    woman: np.ndarray  # int64 [N, P]

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def load(cls, folder: Path) -> DrawnSet:
        return cls(**{field.name: np.load(folder / f"{field.name}.npy", mmap_mode="r") for field in fields(cls)})

    def portraits(self) -> Portraits:
        """Every frame as a picture of its own, for sets of single people whose face shows."""
        n, f, s = self.pixels.shape[:3]
        _, person = np.unique(self.people[:, 0], return_inverse=True)
        return Portraits(
            pixels=self.pixels.reshape(n * f, s, s, 3),
            labels=self.labels.reshape(n * f, s, s),
            keypoints=np.ascontiguousarray(self.keypoints.reshape(n * f, 5, 2)),
            person=np.repeat(person, f),
        )


@dataclass(frozen=True)
class Portraits:
    """N pictures of one person each."""

    pixels: np.ndarray  # uint8 [N, S, S, 3]
    labels: np.ndarray  # uint8 [N, S, S]
    keypoints: np.ndarray  # float32 [N, 5, 2] px
    person: np.ndarray  # int64 [N]: 0 .. number of people - 1, in the order of their numbers

    def __len__(self) -> int:
        return len(self.pixels)


def drawn(cache: Path, spec: SetSpec, *, workers: int = 2) -> DrawnSet:
    """The set, drawn by `workers` processes (here if it is one) if the cache does not hold it yet."""
    key = hashlib.sha256(f"{spec!r} {_renderer_hash()}".encode()).hexdigest()[:12]
    folder = cache / f"{spec.name}-{key}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        partial.mkdir(parents=True)
        try:
            _draw_into(partial, spec, workers)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return DrawnSet.load(folder)


def _renderer_hash() -> str:
    """Changes when the renderer draws something else: a hash of samples rather than of its source, which may be reworded."""
    people = range(TRAINING_PEOPLE.start, TRAINING_PEOPLE.start + 8)
    samples = [draw([make(p, 0) for p in people], height=32, width=32, num_frames=2) for make in (clip_of, photo_of)]
    return hashlib.sha256(b"".join(s.pixels.tobytes() + s.labels.tobytes() for s in samples)).hexdigest()


def _draw_into(folder: Path, spec: SetSpec, workers: int) -> None:
    clips = spec.drawings()
    batches = [clips[i : i + _CLIPS_A_CALL] for i in range(0, len(clips), _CLIPS_A_CALL)]
    arrays: dict[str, np.ndarray] = {}
    done = 0
    for part in _draw_batches(batches, spec, workers):
        for name, values in part.items():
            if name not in arrays:
                shape = (len(clips), *values.shape[1:])
                arrays[name] = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", values.dtype, shape)
            arrays[name][done : done + len(values)] = values
        done += len(part["people"])
        if done % 1024 == 0 or done == len(clips):
            print(f"drawing {spec.name}: {done} of {len(clips)}", file=sys.stderr, flush=True)
    for array in arrays.values():
        array.flush()  # pyright: ignore[reportAttributeAccessIssue]


def _draw_batches(batches: list[list[Clip]], spec: SetSpec, workers: int) -> Iterator[dict[str, np.ndarray]]:
    if workers == 1:
        yield from (_draw_batch(batch, spec) for batch in batches)
        return
    # Processes of one thread each keep all cores busy; threads inside one process wait for each other.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(_draw_batch, batches, [spec] * len(batches))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _draw_batch(clips: list[Clip], spec: SetSpec) -> dict[str, np.ndarray]:
    drawing = draw(clips, height=spec.size, width=spec.size, num_frames=spec.num_frames, fps=spec.fps)
    people = np.array([clip.people for clip in clips])
    return {
        "pixels": drawing.pixels,
        "labels": drawing.labels,
        "boxes": drawing.boxes,
        "keypoints": drawing.keypoints,
        "visible": drawing.visible,
        "pose": np.stack([np.stack([m.yaw, m.pitch, m.roll], -1) for m in drawing.motion]),
        "people": people,
        "place": np.array([clip.place for clip in clips]),
        "turn": np.array([clip.turns for clip in clips]),
        "expression": np.array([clip.expressions for clip in clips]),
        "clothes": np.array([clip.clothes for clip in clips]),
        "woman": (traits_of(people.ravel().tolist()).woman > 0.5).astype(np.int64).reshape(people.shape),
    }


# The sets the recipes share. Groups come from other people than the single portraits, by thousands apart.

PHOTO_PX = 128


def training_clips(cache: Path, num_people: int) -> DrawnSet:
    """Two clips of each training person."""
    return drawn(cache, SetSpec(name="train-clips", first=0, num_groups=num_people, clips=2))


def training_photos(cache: Path, num_people: int) -> DrawnSet:
    """Three photographs of each training person."""
    spec = SetSpec(
        name="train-photos", first=0, num_groups=num_people, clips=3, photo=True, size=PHOTO_PX, num_frames=1
    )
    return drawn(cache, spec)


def training_groups(cache: Path) -> tuple[DrawnSet, DrawnSet]:
    """Scenes of two and of three people."""
    first = TRAINING_PEOPLE.start + 100_000
    pairs = SetSpec(name="train-pairs", first=first, num_groups=1500, group=2, size=96, num_frames=2, fps=0.7)
    triples = SetSpec(
        name="train-triples", first=first + 10_000, num_groups=1000, group=3, size=96, num_frames=2, fps=0.7
    )
    return drawn(cache, pairs), drawn(cache, triples)


def validation_clips(cache: Path, num_people: int = 1000) -> DrawnSet:
    """One clip of each validation person."""
    return drawn(cache, SetSpec(name="valid-clips", first=VALIDATION_PEOPLE.start, num_groups=num_people))


def validation_photos(cache: Path, num_people: int = 1000, size: int = PHOTO_PX) -> DrawnSet:
    """One photograph of each validation person, `size` px square."""
    first = VALIDATION_PEOPLE.start
    spec = SetSpec(name=f"valid-photos-{size}", first=first, num_groups=num_people, photo=True, size=size, num_frames=1)
    return drawn(cache, spec)


def validation_groups(cache: Path) -> tuple[DrawnSet, DrawnSet]:
    """Scenes of two and of three validation people."""
    first = VALIDATION_PEOPLE.start + 10_000
    pairs = SetSpec(name="valid-pairs", first=first, num_groups=100, group=2, num_frames=2, fps=0.7)
    triples = SetSpec(name="valid-triples", first=first + 1000, num_groups=100, group=3, num_frames=2, fps=0.7)
    return drawn(cache, pairs), drawn(cache, triples)


def training_portraits(cache: Path, num_people: int) -> tuple[Portraits, Portraits]:
    """(frames, photographs) of the training people."""
    return training_clips(cache, num_people).portraits(), training_photos(cache, num_people).portraits()


def validation_portraits(cache: Path, photo_px: int = PHOTO_PX) -> tuple[Portraits, Portraits]:
    """(frames, photographs) of the validation people."""
    return validation_clips(cache).portraits(), validation_photos(cache, size=photo_px).portraits()
