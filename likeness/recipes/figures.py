"""Every picture of the README and the documentation: `python -m likeness.recipes.figures --output docs/images`.

The people shown are validation people, chosen by their numbers and not by how they came out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from likeness.faces import FaceTools, load_faces
from likeness.media import write_picture
from likeness.pipeline import LikenessPipeline
from likeness.recipes.measure import embed_video
from likeness.sheet import contact_sheet, grid
from likeness.types import Video
from likeness.world import EXPRESSIONS, TURNS, VALIDATION_PEOPLE, caption_of, clip_of, draw, photo_of, prompt_for
from likeness.world.folder import draw_photograph

_FIRST = VALIDATION_PEOPLE.start + 70_000
_FRAMES = (0, 5, 10, 16)


def world() -> np.ndarray:
    """Photographs of 24 drawn people."""
    people = range(_FIRST, _FIRST + 24)
    return grid(draw([photo_of(person, 0) for person in people], height=128, width=128).pixels[:, 0], columns=8)


def motion() -> np.ndarray:
    """Frames of three clips, one of them with two people."""
    clips = [clip_of(_FIRST + 1, 0), clip_of(_FIRST + 2, 0), clip_of((_FIRST + 3, _FIRST + 4), 0)]
    rows = [draw([clip], height=128, width=128).pixels[0, list(_FRAMES)] for clip in clips]
    return grid(np.concatenate(rows), columns=len(_FRAMES))


def people(pipeline: LikenessPipeline, faces: FaceTools, count: int = 12) -> np.ndarray:
    """A photograph of each of `count` people, and frames of the video made from it, with their mean similarity."""
    pictures, labels = [], []
    for index, person in enumerate(range(_FIRST, _FIRST + count)):
        photograph = draw_photograph(person)
        reference = faces.reference(photograph, pipeline.config.default_height, pipeline.config.default_width)
        prompt = prompt_for(
            turn=TURNS[index % 5],
            expression=EXPRESSIONS[index % 4],
            place=index % 8,
            shirt=("red", "blue", "green")[index % 3],
        )
        frames = video_of(pipeline, prompt, reference, seed=index)
        embeddings, _ = embed_video(frames, faces)
        similarity = float((embeddings @ reference.embedding).mean()) if len(embeddings) else float("nan")
        pictures += [photograph, *frames[list(_FRAMES)]]
        labels += [f"photograph\nsimilarity {similarity:.2f}", *("" for _ in _FRAMES)]
    return grid(pictures, columns=2 * (1 + len(_FRAMES)), labels=labels)


def two(pipeline: LikenessPipeline, faces: FaceTools, count: int = 6) -> np.ndarray:
    """Photographs of two people, and frames of the video made from them, first in this order and then with the references exchanged."""
    pictures, labels = [], []
    for index in range(count):
        pair = (_FIRST + 20 + 2 * index, _FIRST + 21 + 2 * index)
        photographs = [draw_photograph(person) for person in pair]
        size = pipeline.config.default_height, pipeline.config.default_width
        references = [faces.reference(photograph, *size) for photograph in photographs]
        pictures += photographs
        labels += ["first", "second"]
        for order, label in ((references, "as here"), (references[::-1], "exchanged")):
            output = pipeline(caption_of(clip_of(pair, 0)), order, generator=torch.Generator().manual_seed(index))
            pictures += [np.rint(frame * 255).astype(np.uint8) for frame in output.frames[0][[4, 12]]]
            labels += [label, ""]
    return grid(pictures, columns=6, labels=labels)


def video_of(pipeline: LikenessPipeline, prompt: str, reference, seed: int) -> np.ndarray:
    """One video with the model's own settings, uint8 [F, H, W, 3]."""
    output = pipeline(prompt, [reference], generator=torch.Generator().manual_seed(seed))
    return np.rint(output.frames[0] * 255).astype(np.uint8)


def demo(pipeline: LikenessPipeline, faces: FaceTools) -> np.ndarray:
    """The README's contact sheet: one photograph, two prompts."""
    photograph = draw_photograph(_FIRST)
    reference = faces.reference(photograph, pipeline.config.default_height, pipeline.config.default_width)
    sheets = []
    for seed, prompt in enumerate(
        (
            "A person turns the head to the left, smiling, on a beach, wearing a red shirt.",
            "A person looks up, with a surprised expression, in the snow, wearing a green shirt.",
        )
    ):
        frames = video_of(pipeline, prompt, reference, seed)
        assert reference.embedding is not None  # a drawn photograph has a face
        similarity = []
        for frame in frames:
            found = faces.pack.detect(frame)
            similarity.append(float(faces.pack.embed(frame, found[0]) @ reference.embedding) if found else None)
        sheets.append(
            contact_sheet(
                Video(frames, float(pipeline.config.default_fps)),
                [photograph],
                [similarity],
                title=prompt,
                num_frames=6,
                columns=7,
            )
        )
    width = max(sheet.shape[1] for sheet in sheets)
    padded = [np.pad(sheet, ((0, 0), (0, width - sheet.shape[1]), (0, 0)), constant_values=255) for sheet in sheets]
    return np.concatenate(padded)


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--faces", type=Path, default=None)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_picture(arguments.output / "world.png", world())
    write_picture(arguments.output / "motion.png", motion())
    pipeline, faces = LikenessPipeline.from_pretrained(arguments.model), load_faces(arguments.faces)
    pipeline.set_progress_bar_config(disable=True)
    write_picture(arguments.output / "people.png", people(pipeline, faces))
    write_picture(arguments.output / "demo.png", demo(pipeline, faces))
    of_two = LikenessPipeline.from_pretrained("tiny-two")
    of_two.set_progress_bar_config(disable=True)
    write_picture(arguments.output / "two.png", two(of_two, faces))


if __name__ == "__main__":
    main()
