"""Clips and pictures of noise, and pairs of them: made in milliseconds, told apart by their mean colour."""

import json
from pathlib import Path

import numpy as np

from likeness.media import write_picture, write_video
from likeness.train.pairs import Pair
from likeness.types import Video

SIZE = {"num_frames": 5, "height": 32, "width": 32, "fps": 8.0}


def make_pairs(folder: Path, count: int, *, sizes=((32, 32),), references=(1,), num_frames: int = 5) -> list[Pair]:
    """Pair i has the i-th size and number of references, over and over."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for index in range(count):
        rng = np.random.default_rng(index)
        height, width = sizes[index % len(sizes)]
        base = rng.integers(40, 200, 3)
        frames = (base + rng.integers(0, 40, (num_frames, height, width, 3))).astype(np.uint8)
        write_video(folder / f"{index}.mp4", Video(frames, 8.0))
        pictures = []
        for number in range(references[index % len(references)]):
            pictures.append(folder / f"{index}_{number}.png")
            write_picture(pictures[-1], frames[number])
        pairs.append(
            Pair(
                video=folder / f"{index}.mp4",
                caption=f"a man {'smiling ' * (index % 3)}in the park",
                references=tuple(pictures),
                source=f"pairs, entry {index + 1}",
            )
        )
    return pairs


def write_list(folder: Path, pairs: list[Pair]) -> Path:
    """The pairs as a list in Concat-ID's format."""
    entries = [
        {
            "video_path": pair.video.name,
            "caption": pair.caption,
            "image_path": "@@".join(path.name for path in pair.references),
        }
        for pair in pairs
    ]
    (folder / "metadata.json").write_text(json.dumps(entries))
    return folder / "metadata.json"


def tensors_of(batch) -> dict:
    """Every tensor of a batch by name."""
    named = {
        name: getattr(batch, name)
        for name in ("latents", "prompt_embeds", "keypoints", "reference_embeddings", "masks")
    }
    named |= {f"reference {index}": tensor for index, tensor in enumerate(batch.references)}
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def same(one, other) -> bool:
    """Whether two batches are equal to the bit; NaN equals NaN."""
    a, b = tensors_of(one), tensors_of(other)
    return a.keys() == b.keys() and all(np.array_equal(a[name].numpy(), b[name].numpy(), equal_nan=True) for name in a)
