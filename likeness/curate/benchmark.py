"""Pictures of a benchmark's people, to be compared with training data.

| whose picture it is | is told by                                                | as in              |
|---------------------|-----------------------------------------------------------|--------------------|
| the name, if any    | ``7_group_woman_Name_2.png``; without a name, a person each | ConsisID-Benchmark |
| the folder          | ``id012/image.png``                                       | VIP-200K           |
| the file's name     | ``ada_1.png``, ``ada_2.png``                              | anything else      |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from likeness.errors import CheckpointError, UserError
from likeness.faces.align import arcface_template, estimate_similarity, warp
from likeness.faces.canvas import REFERENCE_CROP_PX
from likeness.faces.pack import FacePack
from likeness.media import PICTURE_SUFFIXES, read_picture


@dataclass(frozen=True, kw_only=True, eq=False)
class Benchmark:
    """People of a benchmark: one row for each picture.

    Attributes:
        pictures: names, such as paths within the folder.
        identities: whom each shows; pictures of one identity leak together.
        embeddings: ``float32 [M, D]``, unit length; zero where no face was found.
        portraits: ``uint8 [448, 448, 3]`` RGB, the face as it is cut out of clips or, without one, the picture's middle; empty if there is nothing to see.
    """

    pictures: tuple[str, ...]
    identities: tuple[str, ...]
    embeddings: np.ndarray
    portraits: tuple[np.ndarray, ...] = ()

    @property
    def has_face(self) -> np.ndarray:
        """``bool [M]``, whether a picture can be compared."""
        return np.asarray(self.embeddings.any(1))


def read_benchmark(
    folder: Path, pack: FacePack, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Benchmark:
    """Find the largest face of every picture in a folder and below it.

    Raises:
        CheckpointError: the face models have no recogniser.
        UserError: no such folder, no pictures in it, or one that cannot be read.
    """
    if pack.recognizer is None:
        raise CheckpointError(
            f"The face models in {pack.folder} have no recogniser, so nobody can be compared. Curate with a folder that has a "
            "SCRFD detector and an ArcFace recogniser."
        )
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Name the folder with the benchmark's pictures.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise UserError(f"There are no pictures ({', '.join(PICTURE_SUFFIXES)}) in {folder} or below it.")
    embeddings, portraits = [], []
    for number, path in enumerate(paths):
        embedding, portrait = _largest_face(read_picture(path), pack)
        embeddings.append(embedding)
        portraits.append(portrait)
        on_progress(number + 1, len(paths))
    width = max((len(embedding) for embedding in embeddings if embedding is not None), default=1)
    return Benchmark(
        pictures=tuple(path.relative_to(folder).as_posix() for path in paths),
        identities=tuple(identity_of(path.relative_to(folder)) for path in paths),
        embeddings=np.stack([np.zeros(width, np.float32) if e is None else e for e in embeddings]),
        portraits=tuple(portraits),
    )


def identity_of(path: Path) -> str:
    """Whom a picture shows, by its path within the benchmark."""
    parts = path.stem.split("_")
    gender = next((place for place, part in enumerate(parts) if place and part in ("man", "woman")), None)
    if parts[0].isdigit() and gender is not None:
        return "_".join(part for part in parts[gender + 1 :] if not part.isdigit()) or path.stem
    if path.parent.name:
        return path.parent.as_posix()
    return re.sub(r"[_ -]*\d+$", "", path.stem) or path.stem


def _largest_face(picture: np.ndarray, pack: FacePack) -> tuple[np.ndarray | None, np.ndarray]:
    faces = pack.detect(picture)
    if not faces:
        height, width = picture.shape[:2]
        side = min(height, width)
        scale = REFERENCE_CROP_PX / side
        middle = np.array([[scale, 0, -scale * (width - side) / 2], [0, scale, -scale * (height - side) / 2]])
        return None, warp(picture, middle, REFERENCE_CROP_PX)
    matrix = estimate_similarity(faces[0].keypoints, arcface_template(REFERENCE_CROP_PX))
    return pack.embed(picture, faces[0]), warp(picture, matrix, REFERENCE_CROP_PX)
