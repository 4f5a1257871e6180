"""Faces whose numbers can be worked out by hand: coloured squares on grey.

A square is a face, its colour less 100 is its embedding: RED and GREEN are strangers (cosine 0), SIXTY is 0.6 of RED and
0.8 of GREEN, ANTI is -1 of RED. A square that touches the border is missed at first sight, as SCRFD misses faces that
fill the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from likeness.evaluate.faces_of import FaceAnalyser
from likeness.evaluate.types import Item, Sample
from likeness.faces.align import ARCFACE_TEMPLATE
from likeness.types import Face

RED, GREEN, BLUE = (200, 100, 100), (100, 200, 100), (100, 100, 200)
SIXTY, ANTI = (160, 180, 100), (0, 100, 100)
GREY = 128
Square = tuple[tuple[int, int, int], int, int]  # colour, x, y of its corner


@dataclass(frozen=True)
class PaintedPack:
    det_size: int = 640
    det_threshold: float = 0.9
    recognizer: object = field(default_factory=lambda: SimpleNamespace(input_size=(112, 112)))
    folder: Path = Path("painted")

    def detect(self, picture: np.ndarray, *, retry: bool = True) -> list[Face]:
        assert not retry and self.det_size == 320 and self.det_threshold == 0.5
        mask = (picture != GREY).any(axis=2).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        faces = []
        for x, y, width, height, _ in stats[1:].tolist():
            if x and y and x + width < picture.shape[1] and y + height < picture.shape[0]:
                points = (ARCFACE_TEMPLATE / 112 * [width, height] + [x, y]).astype(np.float32)
                faces.append(Face((x, y, x + width, y + height), points, 0.9))
        return sorted(faces, key=lambda face: -face.area)

    def embed_aligned(self, crop: np.ndarray) -> np.ndarray:
        embedding = crop[40:80, 40:80].astype(np.float64).mean(axis=(0, 1)) - 100
        return embedding / np.linalg.norm(embedding)


def analyser() -> FaceAnalyser:
    return FaceAnalyser(PaintedPack(), "painted")  # type: ignore[arg-type]


def picture(*squares: Square, side: int = 20, size: int = 96) -> np.ndarray:
    canvas = np.full((size, size, 3), GREY, np.uint8)
    for colour, x, y in squares:
        canvas[y : y + side, x : x + side] = colour
    return canvas


def one(colour: tuple[int, int, int] | None) -> np.ndarray:
    """A frame with one face, or with none."""
    return picture((colour, 30, 30)) if colour else picture()


def sample(
    frames: list[np.ndarray],
    references: list[np.ndarray],
    *,
    people: tuple[int, ...] | None = None,
    fps: float = 8.0,
    prompt: str = "",
    name: str = "a",
) -> Sample:
    """A video of these frames, all of them decoded."""
    item = Item(
        id=name,
        video=Path(f"{name}.mp4"),
        prompt=prompt,
        references=tuple(Path(f"{name}_{index}.png") for index in range(len(references))),
        people=people if people is not None else (0,) * len(references),
        group=name,
    )
    return Sample(
        item=item,
        frames=np.stack(frames),
        indices=np.arange(len(frames)),
        num_frames=len(frames),
        fps=fps,
        references=tuple(references),
    )
