"""Training pairs of drawn people, as curation would leave them: clips, reference faces, the papers' three kinds of pairs, photographs.

`python -m likeness.recipes.pairs --output PAIRS --people 7000` draws three clips and two photographs of each person and writes

    clips/000012_0.mp4              a clip                       clips/000012_0.safetensors    where its faces are: keypoints [M, F, 5, 2]
    faces/000012_0_2.png            a reference canvas from a frame of that clip (background blanked, as at inference)
    faces/000012_p1.png             a reference canvas from a photograph
    pretraining.json                each clip with faces of its own (Concat-ID section 4.2, stage I)
    cross.json                      each clip with a face of another clip or photograph, 0.7 <= cos < 0.9, at random (stage II)
    tradeoff.json                   ... with the least similar one of 0.9 <= cos < 0.99 (stage III)
    photographs.json                each clip with photographs of its people, as large and as sharp as what a user gives

in Concat-ID's JSON format with `faces_path` beside. `--together 2` draws people in pairs. A shard of people is written whole or not
at all; a second call draws only what is missing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from likeness.faces import faces_folder
from likeness.faces.align import arcface_template, estimate_similarity, warp
from likeness.faces.pack import FacePack
from likeness.media import atomic_write, write_picture, write_video
from likeness.recipes.pool import PHOTO_SIZE, reference_of
from likeness.types import Video
from likeness.world import FPS, TRAINING_PEOPLE, caption_of, clip_of, draw, photo_of

KINDS = ("pretraining", "cross", "tradeoff", "photographs")
GROUPS_PER_SHARD, CLIPS, PHOTOS, FACES = 50, 3, 2, 3
CROSS, TRADEOFF = (0.7, 0.9), (0.9, 0.99)  # bands of cosine, the second's ends not included (Concat-ID section 4.2)
_CRF = 8  # the clips are small, and the model should not learn the codec


@dataclass(frozen=True)
class _Face:
    """A reference canvas on disk: whose it is, where it was seen, and its embedding."""

    path: str
    person: int
    source: str
    embedding: np.ndarray


def choose(anchor: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> tuple[int | None, int | None]:
    """The cross-video and the trade-off reference of a face.

    Args:
        anchor: embedding ``[E]``; others: ``[N, E]`` of the same person elsewhere, all L2-normalised.
        rng: picks within the first band.

    Returns:
        Index of a uniformly random one of the band 0.7..0.9, and of the least similar one of 0.9..0.99; None where the band is
        empty.
    """
    cosines = others.astype(np.float64) @ anchor.astype(np.float64)
    cross = np.flatnonzero((cosines >= CROSS[0]) & (cosines < CROSS[1]))
    trade = np.flatnonzero((cosines >= TRADEOFF[0]) & (cosines < TRADEOFF[1]))
    return (
        int(rng.choice(cross)) if len(cross) else None,
        int(trade[np.argmin(cosines[trade])]) if len(trade) else None,
    )


def draw_shard(groups: list[tuple[int, ...]], output: Path, pack: FacePack) -> dict[str, list[dict[str, Any]]]:
    """Draw and write the clips and faces of some groups of people; returns the rows of the three lists."""
    rng = np.random.default_rng(groups[0])
    scenes = [(group, number) for group in groups for number in range(CLIPS)]
    film = draw([clip_of(group, number) for group, number in scenes])
    faces: dict[str, list[list[_Face]]] = {}  # by clip, for each of its people
    elsewhere: dict[int, list[_Face]] = {person: [] for group in groups for person in group}

    def add(name: str, person: int, source: str, picture: np.ndarray, labels: np.ndarray, points: np.ndarray) -> _Face:
        write_picture(output / name, reference_of(picture, labels, points, rng))
        face = _Face(name, person, source, _embed(pack, picture, points))
        elsewhere[person].append(face)
        return face

    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for index, (group, number) in enumerate(scenes):
        name = "_".join(f"{person:06d}" for person in group) + f"_{number}"
        write_video(output / f"clips/{name}.mp4", Video(film.pixels[index], FPS), crf=_CRF)
        points = film.keypoints[index].transpose(1, 0, 2, 3)  # [P, F, 5, 2]
        with atomic_write(output / f"clips/{name}.safetensors") as temporary:
            save_file({"keypoints": np.ascontiguousarray(points, np.float32)}, temporary)
        frames = rng.choice(film.pixels.shape[1], FACES, replace=False)
        faces[name] = [
            [
                add(
                    f"faces/{name}_{slot}_{number_of_face}.png", person, name, film.pixels[index, frame],
                    film.labels[index, frame], points[slot, frame],
                )
                for number_of_face, frame in enumerate(frames)
            ]
            for slot, person in enumerate(group)
        ]  # fmt: skip
    people = sorted(elsewhere)
    studio = draw([photo_of(p, i) for p in people for i in range(PHOTOS)], height=PHOTO_SIZE, width=PHOTO_SIZE)
    for index, (person, number) in enumerate((p, i) for p in people for i in range(PHOTOS)):
        picture, labels = studio.pixels[index, 0], studio.labels[index, 0]
        add(
            _photograph(person, number),
            person,
            f"photo {number}",
            picture,
            labels,
            studio.keypoints[index, 0, 0],
        )

    for (group, number), (name, own) in zip(scenes, faces.items(), strict=True):
        row = {"video_path": f"clips/{name}.mp4", "caption": caption_of(clip_of(group, number)),
               "faces_path": f"clips/{name}.safetensors"}  # fmt: skip
        rows["pretraining"] += [
            {**row, "image_path": "@@".join(of_person[face].path for of_person in own)} for face in range(FACES)
        ]
        rows["photographs"] += [
            {**row, "image_path": "@@".join(_photograph(person, number) for person in group)}
            for number in range(PHOTOS)
        ]
        chosen = [_choose_for(of_person[0], elsewhere[of_person[0].person], rng) for of_person in own]
        for kind, pick in (("cross", 0), ("tradeoff", 1)):
            found = [of_person[pick] for of_person in chosen]
            paths = [face.path for face in found if face is not None]
            if len(paths) == len(found):
                rows[kind].append({**row, "image_path": "@@".join(paths)})
    return rows


def _photograph(person: int, number: int) -> str:
    return f"faces/{person:06d}_p{number}.png"


def _choose_for(own: _Face, candidates: list[_Face], rng: np.random.Generator) -> tuple[_Face | None, _Face | None]:
    others = [face for face in candidates if face.source != own.source]
    cross, trade = choose(own.embedding, np.stack([face.embedding for face in others]), rng)
    return (None if cross is None else others[cross]), (None if trade is None else others[trade])


def _embed(pack: FacePack, picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    assert pack.recognizer is not None, "pairs are chosen by a recogniser"
    size = int(pack.recognizer.input_size[0])
    embedding = pack.embed_aligned(warp(picture, estimate_similarity(points, arcface_template(size)), size))
    assert embedding is not None
    return embedding


def _write(job: tuple[list[tuple[int, ...]], Path]) -> str:
    torch.set_num_threads(1)
    groups, output = job
    path = output / "shards" / ("_".join(map(str, groups[0])) + ".json")
    if not path.exists():
        rows = draw_shard(groups, output, FacePack.load(faces_folder(None), threads=1))
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(rows), encoding="utf-8")
    return path.name


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--people", type=int, default=7000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--together", type=int, default=1, help="people in a clip")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    arguments = parser.parse_args()
    last = arguments.first + arguments.people
    assert last <= TRAINING_PEOPLE.stop, "pairs for training are of people of the training range only"
    for name in ("clips", "faces", "shards"):
        (arguments.output / name).mkdir(parents=True, exist_ok=True)
    step = arguments.together
    groups = [tuple(range(first, first + step)) for first in range(arguments.first, last - step + 1, step)]
    shards = [groups[first : first + GROUPS_PER_SHARD] for first in range(0, len(groups), GROUPS_PER_SHARD)]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for done, name in enumerate(pool.imap_unordered(_write, [(shard, arguments.output) for shard in shards]), 1):
            print(f"{done}/{len(shards)} {name}", flush=True)
    lists: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for shard in shards:
        path = arguments.output / "shards" / ("_".join(map(str, shard[0])) + ".json")
        for kind, rows in json.loads(path.read_text(encoding="utf-8")).items():
            lists[kind] += rows
    for kind, rows in lists.items():
        with atomic_write(arguments.output / f"{kind}.json") as temporary:
            temporary.write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")
        print(f"{kind}: {len(rows)} pairs")


if __name__ == "__main__":
    main()
