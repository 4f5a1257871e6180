"""A pool of drawn clips on disk, drawn once and read by every recipe of the tiny family.

`python -m likeness.recipes.pool --output POOL --people 24000` draws two clips and two photographs of each person, in shards
of 125 people. A shard is one `.npz` with, for its P people and C clips each:

    people [P] int64            videos [P, C, F, 64, 64, 3] uint8       keypoints [P, C, F, 5, 2] float16 (pixels)
    photos [P, 2, 64, 64, 3] uint8     reference canvases from photographs (another place, light, pose and expression)
    faces  [P, C, 2, 64, 64, 3] uint8  reference canvases from two frames of the clip itself (pre-training pairs)
    captions [P, C] str         labels [P, C, 4] int64 (place, turn, expression, shirt)

The canvases are prepared as at inference (align, blank the background, fit), from true keypoints with the scatter that a
detector leaves. Shards are written atomically; a second call draws only what is missing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from pathlib import Path

import cv2
import numpy as np
import torch

from likeness.faces.align import arcface_template, estimate_similarity, warp
from likeness.faces.canvas import REFERENCE_CROP_PX, blank_background, canvas_from_crop
from likeness.world import TRAINING_PEOPLE, Clip, caption_of, clip_of, draw, photo_of

PEOPLE_PER_SHARD, CLIPS, PHOTOS, FACES, SIZE, PHOTO_SIZE = 125, 2, 2, 2, 64, 128
_DETECTOR_SCATTER = 0.012  # standard deviation of a keypoint, as a fraction of the picture's height


def reference_of(
    picture: np.ndarray, labels: np.ndarray, keypoints: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The reference canvas uint8 [64, 64, 3] of a drawn face: picture [H, W, 3], labels [H, W], keypoints [5, 2] px."""
    scatter = rng.normal(0, _DETECTOR_SCATTER * picture.shape[0], (5, 2))
    matrix = estimate_similarity(keypoints + scatter, arcface_template(REFERENCE_CROP_PX))
    crop = warp(picture, matrix, REFERENCE_CROP_PX)
    crop_labels = cv2.warpAffine(labels, matrix, (REFERENCE_CROP_PX, REFERENCE_CROP_PX), flags=cv2.INTER_NEAREST)
    return canvas_from_crop(blank_background(crop, crop_labels), SIZE, SIZE)


def draw_shard(people: list[int]) -> dict[str, np.ndarray]:
    """Everything that a shard holds (see the module) for these people."""
    rng = np.random.default_rng(people[0])
    clips: list[list[Clip]] = [[clip_of(person, number) for number in range(CLIPS)] for person in people]
    film = draw([clip for of_person in clips for clip in of_person])
    shape = (len(people), CLIPS)
    frames = film.pixels.shape[1]
    faces = np.empty((len(people) * CLIPS, FACES, SIZE, SIZE, 3), np.uint8)
    for i in range(len(faces)):
        for j, frame in enumerate(rng.choice(frames, FACES, replace=False)):
            faces[i, j] = reference_of(film.pixels[i, frame], film.labels[i, frame], film.keypoints[i, frame, 0], rng)
    studio = draw(
        [photo_of(person, number) for person in people for number in range(PHOTOS)], height=PHOTO_SIZE, width=PHOTO_SIZE
    )
    photos = np.stack(
        [
            reference_of(studio.pixels[i, 0], studio.labels[i, 0], studio.keypoints[i, 0, 0], rng)
            for i in range(len(people) * PHOTOS)
        ]
    )
    return {
        "people": np.array(people),
        "videos": film.pixels.reshape(*shape, *film.pixels.shape[1:]),
        "keypoints": film.keypoints[:, :, 0].reshape(*shape, frames, 5, 2).astype(np.float16),
        "photos": photos.reshape(len(people), PHOTOS, SIZE, SIZE, 3),
        "faces": faces.reshape(*shape, FACES, SIZE, SIZE, 3),
        "captions": np.array([[caption_of(clip) for clip in of_person] for of_person in clips]),
        "labels": np.array(
            [[(c.place, c.turns[0], c.expressions[0], c.clothes[0]) for c in of_person] for of_person in clips]
        ),
    }


def _write(job: tuple[int, Path]) -> Path:
    torch.set_num_threads(1)
    first, path = job
    if not path.exists():
        temporary = path.with_suffix(".tmp.npz")
        shard = draw_shard(list(range(first, first + PEOPLE_PER_SHARD)))
        np.savez(temporary, allow_pickle=False, **shard)
        os.replace(temporary, path)
    return path


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--people", type=int, default=24_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    arguments = parser.parse_args()
    assert arguments.first + arguments.people <= TRAINING_PEOPLE.stop, (
        "the pool holds people of the training range only"
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    firsts = range(arguments.first, arguments.first + arguments.people, PEOPLE_PER_SHARD)
    jobs = [(first, arguments.output / f"people-{first:06d}.npz") for first in firsts]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for done, path in enumerate(pool.imap_unordered(_write, jobs), 1):
            print(f"{done}/{len(jobs)} {path.name}", flush=True)


if __name__ == "__main__":
    main()
