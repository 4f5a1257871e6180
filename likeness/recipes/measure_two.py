"""The figures of a model of two people, on pairs of people it was never trained on.

`python -m likeness.recipes.measure_two --model tiny-two --pairs 50 --output FIGURES.json` generates each pair twice from the same noise and
prompt: in the order of the references and with the references exchanged. The person on the left must be that of the first reference.
Intervals are 95 % bootstraps over pairs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from likeness.faces import FaceTools, load_faces
from likeness.media import atomic_write
from likeness.pipeline import LikenessPipeline
from likeness.recipes.measure import Subject, interval, subjects_of
from likeness.world import VALIDATION_PEOPLE, caption_of, clip_of

_FIRST = VALIDATION_PEOPLE.start + 80_000
_BATCH = 8
_EVERY = 4  # frames between those that are looked at


def faces_in_order(video: np.ndarray, order: list[Subject], faces: FaceTools) -> list[np.ndarray]:
    """Cosines ``[2, 2]`` of each frame that shows two faces: those from left to right with the references in their order.

    Args:
        video: ``uint8 [F, H, W, 3]``.
        order: the references.
        faces: detector and recogniser.
    """
    wanted = np.stack([subject.embedding for subject in order])
    found: list[np.ndarray] = []
    for frame in video[::_EVERY]:
        seen = sorted(faces.pack.detect(frame), key=lambda face: face.box[0])
        embeddings = [faces.pack.embed(frame, face) for face in seen]
        if len(embeddings) == 2 and all(embedding is not None for embedding in embeddings):
            found.append(np.stack([e for e in embeddings if e is not None]) @ wanted.T)
    return found


def measure(model: str, pairs: int, first: int) -> dict[str, object]:
    """All figures of the card."""
    faces = load_faces(None)
    pipeline = LikenessPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    height, width = pipeline.config.default_height, pipeline.config.default_width
    groups = [(first + 2 * index, first + 2 * index + 1) for index in range(pairs)]
    subjects = [subjects_of(list(group), faces, height, width) for group in groups]
    prompts = [caption_of(clip_of(group, 0)) for group in groups]
    both, right, own, other = ([[] for _ in groups] for _ in range(4))
    for exchanged in (False, True):
        orders = [pair[::-1] if exchanged else pair for pair in subjects]
        for start in range(0, pairs, _BATCH):
            chosen = range(start, min(start + _BATCH, pairs))
            output = pipeline(
                [prompts[index] for index in chosen],
                [[subject.canvas for subject in orders[index]] for index in chosen],
                generator=[torch.Generator().manual_seed(index) for index in chosen],
            )
            for index, frames in zip(chosen, output.frames, strict=True):
                video = np.rint(frames * 255).astype(np.uint8)
                tables = faces_in_order(video, orders[index], faces)
                both[index].append(len(tables) / len(video[::_EVERY]))
                right[index] += [float(np.trace(table) > np.trace(table[::-1])) for table in tables]
                own[index] += [float(np.trace(table)) / 2 for table in tables]
                other[index] += [float(np.trace(table[::-1])) / 2 for table in tables]

    def over_pairs(values: list[list[float]]) -> list[float]:
        return interval(np.array([np.mean(row) for row in values if row]))

    return {
        "pairs": f"{groups[0][0]} to {groups[-1][1]}",
        "videos": 2 * pairs,
        "two people": {
            "frames with two faces": over_pairs(both),
            "left and right as the references, of those": over_pairs(right),
            "similarity to the own photograph": over_pairs(own),
            "similarity to the other's": over_pairs(other),
        },
    }


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny-two")
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--first", type=int, default=_FIRST)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    figures = measure(arguments.model, arguments.pairs, arguments.first)
    with atomic_write(arguments.output) as temporary:
        temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(arguments.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
