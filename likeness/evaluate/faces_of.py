"""The faces of a video and of its references, found and recognised once for all metrics that need them.

Detection is ConsisID's for every metric: the picture scaled to fit 320 x 320 px, confidence from 0.5 on, and a second
look with a grey border of 25 % a side where nothing was found. Results live as long as the decoded video they belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from likeness.errors import CheckpointError
from likeness.evaluate.types import Backends, Result, Sample
from likeness.faces.align import arcface_template, estimate_similarity, warp
from likeness.faces.pack import RETRY_GREY, RETRY_PADDING, FacePack
from likeness.media import sha256_bytes, sha256_file
from likeness.types import Face

DET_SIZE = 320  # px
DET_THRESHOLD = 0.5

# SHA-256 of buffalo_l's detector (det_10g.onnx) and recogniser (w600k_r50.onnx), which ConsisID measures with.
_BUFFALO_L = (
    "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
    "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
)


@dataclass(frozen=True, eq=False)
class SeenFace:
    """A face in a picture, with what tells it from others.

    Attributes:
        face: box and keypoints in px of the picture.
        picture: ``uint8 [H, W, 3]`` RGB, where it was seen.
        aligned: ``uint8 [S, S, 3]`` RGB on ArcFace's template, as insightface cuts it: S is the recogniser's size. A
            face found by the second look is cut out of the bordered picture, so grey instead of black lies outside.
        pack: the models.
    """

    face: Face
    picture: np.ndarray
    aligned: np.ndarray
    pack: FacePack

    @cached_property
    def embedding(self) -> np.ndarray:
        """``float32 [D]``, L2 norm 1, of the pack's recogniser."""
        embedding = self.pack.embed_aligned(self.aligned)
        assert embedding is not None  # FaceAnalyser takes no pack without a recogniser
        return embedding

    def cut(self, size: int, *, antialias: bool = False) -> np.ndarray:
        """The face on ArcFace's template, ``uint8 [size, size, 3]`` RGB; black outside of the picture."""
        matrix = estimate_similarity(self.face.keypoints, arcface_template(size))
        return warp(self.picture, matrix, size, antialias=antialias)


class FaceAnalyser:
    """Finds and recognises faces, each frame of each sample once.

    Attributes:
        weights: 16 hex digits over the detector's and the recogniser's file.
        official_detector, official: whether these are the published bytes of buffalo_l's detector, and of both.
    """

    def __init__(
        self, pack: FacePack, weights: str, *, official_detector: bool = False, official: bool = False
    ) -> None:
        if pack.recognizer is None:
            raise CheckpointError(
                f"The face models in {pack.folder} have no recogniser, and identity is what is to be measured. Name a "
                "folder with a SCRFD detector and an ArcFace recogniser, such as an unpacked buffalo_l."
            )
        # The sessions are shared; size and threshold are the protocol's, whatever pack.json says.
        self.pack = replace(pack, det_size=DET_SIZE, det_threshold=DET_THRESHOLD)
        self.weights, self.official_detector, self.official = weights, official_detector, official
        self._frames: WeakKeyDictionary[Sample, dict[int, tuple[SeenFace, ...]]] = WeakKeyDictionary()
        self._references: WeakKeyDictionary[Sample, tuple[SeenFace | None, ...]] = WeakKeyDictionary()

    @classmethod
    def load(cls, folder: str | Path) -> FaceAnalyser:
        """The models of a face pack's folder.

        Raises:
            CheckpointError: as :meth:`likeness.faces.pack.FacePack.load`, or the pack has no recogniser.
        """
        pack = FacePack.load(folder)
        files = [Path(str(model.model_file)) for model in (pack.detector, pack.recognizer) if model is not None]
        digests = [sha256_file(file) for file in files]
        return cls(
            pack,
            sha256_bytes(" ".join(digests).encode())[:16],
            official_detector=digests[0] == _BUFFALO_L[0],
            official=tuple(digests) == _BUFFALO_L,
        )

    def look(self, picture: np.ndarray) -> tuple[SeenFace, ...]:
        """The faces of a picture ``uint8 [H, W, 3]`` RGB, the largest first."""
        height, width = picture.shape[:2]
        seen, dy, dx = picture, 0, 0
        faces = self.pack.detect(picture, retry=False)
        if not faces:
            # ConsisID recognises such a face in the bordered picture, so the second look is taken here.
            dy, dx = int(height * RETRY_PADDING), int(width * RETRY_PADDING)
            seen = np.pad(picture, ((dy, dy), (dx, dx), (0, 0)), constant_values=RETRY_GREY)
            faces = self.pack.detect(seen, retry=False)
        size = int(self.pack.recognizer.input_size[0])  # pyright: ignore[reportOptionalMemberAccess]
        template = arcface_template(size)
        result = []
        for face in faces:
            try:
                matrix = estimate_similarity(face.keypoints, template)
            except ValueError:
                continue  # keypoints in one place: nothing that could be a face
            aligned = warp(seen, matrix, size, antialias=False)
            x0, y0, x1, y1 = face.box
            moved = replace(
                face,
                box=(x0 - dx, y0 - dy, x1 - dx, y1 - dy),
                keypoints=face.keypoints - np.array([dx, dy], np.float32),
            )
            result.append(SeenFace(moved, picture, aligned, self.pack))
        return tuple(result)

    def frames(self, sample: Sample, indices: np.ndarray) -> list[tuple[SeenFace, ...]]:
        """The faces of some frames, by their numbers in the video; of each frame the largest first."""
        known = self._frames.setdefault(sample, {})
        for index in map(int, indices):
            if index not in known:
                known[index] = self.look(sample.take(np.array([index]))[0])
        return [known[int(index)] for index in indices]

    def references(self, sample: Sample) -> tuple[SeenFace | None, ...]:
        """The largest face of each reference; None where none is found."""
        if sample not in self._references:
            seen = (self.look(picture) for picture in sample.references)
            self._references[sample] = tuple(next(iter(faces), None) for faces in seen)
        return self._references[sample]


def face_analyser(backends: Backends) -> FaceAnalyser:
    """The analyser of the face pack that was given; the same one for all metrics of it.

    Raises:
        BackendAbsent: no pack was given.
        CheckpointError: see :meth:`FaceAnalyser.load`.
    """
    return _load_once(backends.need("faces").resolve())


@lru_cache(maxsize=1)
def _load_once(folder: Path) -> FaceAnalyser:
    return FaceAnalyser.load(folder)


def no_reference_face(sample: Sample, references: Sequence[SeenFace | None]) -> Result | None:
    """The result of a row that cannot be judged for want of a face in its references; None where each person has one."""
    if not sample.references:
        return Result(values={}, status="no reference face", reason="the row has no reference")
    people = sample.item.people
    with_face = {person for person, seen in zip(people, references, strict=True) if seen is not None}
    without = sorted(set(people) - with_face)
    if not without:
        return None
    names = ", ".join(
        path.name for path, person in zip(sample.item.references, people, strict=True) if person in without
    )
    return Result(values={}, status="no reference face", reason=f"no face is found in {names}")
