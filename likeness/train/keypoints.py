"""Where the references' faces are in a clip: read from a file, or found by detector and recogniser."""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from likeness.errors import UserError
from likeness.faces.align import arcface_template, warp
from likeness.faces.pack import FacePack
from likeness.types import Face

# Cosine below which a face in a frame is not a reference's: a recogniser gives strangers about 0 and people seen from the side
# 0.3 and more.
MIN_SIMILARITY = 0.25
_ALIGNED = 0.07  # of the recogniser's picture: how far, on average, the keypoints of an aligned face are found from the template
_MAX_FACES = 8  # of a frame, the largest; who is smaller is in the background


def read_keypoints(path: Path, num_references: int) -> np.ndarray:
    """Known keypoints ``float32 [M, F, 5, 2]`` of a clip.

    Args:
        path: a safetensors or npz file with ``keypoints``.
        num_references: M, the references of the kind "face".

    Raises:
        UserError: for a file that is missing or damaged, or another shape.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                points = file["keypoints"]
        else:
            points = load_file(path)["keypoints"]
    except FileNotFoundError:
        raise UserError(f"There is no file {path} with keypoints.") from None
    except KeyError:
        raise UserError(f"The file {path} holds no `keypoints`.") from None
    except (SafetensorError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"The keypoints {path} cannot be read: {error}.") from error
    if points.ndim != 4 or points.shape[0] != num_references or points.shape[2:] != (5, 2):
        raise UserError(
            f"The keypoints in {path} have the shape {list(points.shape)}; for {num_references} references with faces they "
            f"are [{num_references}, frames, 5, 2]."
        )
    return points.astype(np.float32)


def find_keypoints(frames: np.ndarray, references: np.ndarray, pack: FacePack) -> np.ndarray:
    """Look for the references' faces in every frame.

    Args:
        frames: ``uint8 [F, H, W, 3]``.
        references: embeddings ``[M, E]``, NaN for a reference without a face.

    Returns:
        ``float32 [M, F, 5, 2]`` px, NaN where a reference is not seen.
    """
    points = np.full((len(references), len(frames), 5, 2), np.nan, np.float32)
    if np.isnan(references).all():
        return points
    for index, frame in enumerate(frames):
        faces = pack.detect(frame, retry=False)[:_MAX_FACES]
        if faces:
            embeddings = np.stack([_embedding(pack, frame, face) for face in faces])
            for reference, face in assign(references @ embeddings.T).items():
                points[reference, index] = faces[face].keypoints
    return points


def assign(similarity: np.ndarray) -> dict[int, int]:
    """Which face is which reference: the assignment of the greatest sum of similarities, each of which must be
    at least ``MIN_SIMILARITY``.

    Args:
        similarity: ``[M, K]`` of references and faces; NaN for a reference that cannot be compared.

    Returns:
        Reference -> face, for the references that are there.
    """
    worth = np.where(similarity >= MIN_SIMILARITY, similarity, 0.0)  # NaN compares as false
    references, faces = np.flatnonzero(worth.any(1)), np.flatnonzero(worth.any(0))
    count = min(len(references), len(faces))
    best: dict[int, int] = {}
    best_sum = 0.0
    for chosen in itertools.combinations(references.tolist(), count):
        for order in itertools.permutations(faces.tolist(), count):
            total = float(worth[list(chosen), list(order)].sum())
            if total > best_sum:
                best = {r: f for r, f in zip(chosen, order, strict=True) if worth[r, f] > 0}
                best_sum = total
    return best


def embedding_of(picture: np.ndarray, pack: FacePack) -> np.ndarray | None:
    """The identity of the largest face of a reference, unit vector ``float32 [E]``; None where no face is found.

    A detector is misled by a background that was blanked. So a face that lies about where the cut-out of a reference has it is taken
    to lie exactly there.
    """
    faces = pack.detect(picture)
    if not faces:
        return None
    assert pack.recognizer is not None, "embedding_size has refused packs without a recogniser"
    size = int(pack.recognizer.input_size[0])
    matrix, template = _cut_out(picture, size), arcface_template(size)
    off = faces[0].keypoints @ matrix[:, :2].T + matrix[:, 2] - template
    if np.linalg.norm(off, axis=1).mean() > _ALIGNED * size:
        return _embedding(pack, picture, faces[0])
    return pack.embed_aligned(warp(picture, matrix, size))


def _cut_out(picture: np.ndarray, size: int) -> np.ndarray:
    """``[2, 3]``: the square in the middle of a picture, where a canvas has its cut-out, scaled to ``size`` px."""
    height, width = picture.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    scale = size / side
    shift = 0.5 * scale - 0.5  # pixels are squares about their middle
    return np.array([[scale, 0.0, shift - scale * left], [0.0, scale, shift - scale * top]])


def embedding_size(pack: FacePack) -> int:
    """E, the length of the recogniser's embeddings.

    Raises:
        UserError: for a pack without a recogniser.
    """
    if pack.recognizer is None:
        raise UserError(
            f"The face models in {pack.folder} have no recogniser, so nobody can tell whose face is whose. Name a folder with "
            "one (ArcFace, ONNX)."
        )
    return int(pack.recognizer.output_shape[-1])


def _embedding(pack: FacePack, picture: np.ndarray, face: Face) -> np.ndarray:
    embedding = pack.embed(picture, face)
    assert embedding is not None, "embedding_size has refused packs without a recogniser"
    return embedding
