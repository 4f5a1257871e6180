"""Identity: how much the person in the video is the one in the reference, as ConsisID measures it, and strictly.

FaceSim-Arc and FaceSim-Cur (papers: Concat-ID, section 5.1; ST-DRC, section 4.1) differ in the recogniser alone.
Both protocols look at the same 16 frames and the largest face of each:

- ``consisid``: the mean of ``max(0, cos)`` over the frames *in which a face was found*; 0 without any. A face seen once
  in 16 frames can score 0.9, and the clipping raises the mean of strangers above 0.
- ``strict``: the mean of ``cos`` over all frames; a frame without a face counts 0, nothing is clipped.

With other networks than ConsisID's, told by their bytes, the first is called ``consisid-unverified``.

Several photographs of one person: the mean over the photographs, and ``_best``, which takes the best photograph in each
frame. Rows of several people belong to :mod:`likeness.evaluate.people`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import numpy as np

from likeness.evaluate import frames
from likeness.evaluate.faces_of import FaceAnalyser, SeenFace, face_analyser, no_reference_face
from likeness.evaluate.types import Backends, Direction, Result, Sample
from likeness.media import sha256_bytes

if TYPE_CHECKING:
    from likeness.evaluate.networks.iresnet import Curricular

Rule = Literal["consisid", "strict"]  # how frames without a face, and cosines below 0, are counted
Embed = Callable[[SeenFace], np.ndarray]  # a face -> float [D], L2 norm 1


def arcface(seen: SeenFace) -> np.ndarray:
    """The face pack's own embedding."""
    return seen.embedding


class CurricularFace:
    """The embedding of ConsisID's second recogniser, of each face once."""

    def __init__(self, network: Curricular) -> None:
        self.network = network
        self._known: WeakKeyDictionary[SeenFace, np.ndarray] = WeakKeyDictionary()

    def __call__(self, seen: SeenFace) -> np.ndarray:
        """``float32 [512]``, L2 norm 1."""
        from likeness.evaluate.networks.iresnet import curricular_crop

        if seen not in self._known:
            self._known[seen] = self.network(curricular_crop(seen.picture, seen.face.keypoints)[None])[0]
        return self._known[seen]


def similarities(
    analyser: FaceAnalyser, embed: Embed, sample: Sample, references: Sequence[SeenFace], indices: np.ndarray
) -> np.ndarray:
    """Cosines of the largest face of each frame to each reference, ``float64 [R, K]``; nan without a face."""
    table = np.full((len(references), len(indices)), np.nan)
    owners = np.stack([embed(seen) for seen in references]).astype(np.float64)  # [R, D]
    for column, faces in enumerate(analyser.frames(sample, indices)):
        if faces:
            table[:, column] = owners @ embed(faces[0]).astype(np.float64)
    return table


def mean_similarity(cosines: np.ndarray, rule: Rule) -> float:
    """One number for ``cosines [K]``, nan where a frame has no face."""
    if rule == "strict":
        return float(np.nan_to_num(cosines).mean())
    seen = cosines[~np.isnan(cosines)]
    return float(np.maximum(seen, 0).mean()) if len(seen) else 0.0


@dataclass(frozen=True, eq=False)
class FaceSim:
    """FaceSim-Arc or FaceSim-Cur under one protocol.

    Attributes:
        name: "facesim_arc" or "facesim_cur".
        value: the name of its value; the same under both protocols.
        is_official: whether detector and recogniser are ConsisID's.
    """

    name: str
    value: str
    rule: Rule
    weights: str
    analyser: FaceAnalyser
    embed: Embed
    is_official: bool = False
    needs_reference: bool = True

    @property
    def protocol(self) -> str:
        """The rule; ConsisID's own name stands for its networks alone."""
        return self.rule if self.is_official or self.rule == "strict" else f"{self.rule}-unverified"

    @property
    def directions(self) -> Mapping[str, Direction]:
        """More is better throughout."""
        return {self.value: "higher", f"{self.value}_best": "higher", "coverage": "higher"}

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """ConsisID's 16 frames."""
        return frames.consisid(num_frames)

    def measure(self, sample: Sample) -> Result:
        """See the module; the curve is the plain cosine of each of the 16 frames, the mean over the photographs."""
        found = self.analyser.references(sample)
        if refused := no_reference_face(sample, found):
            return refused
        if len(set(sample.item.people)) > 1:
            return Result(values={self.value: None}, reason="several people: see the metric people")
        references = [seen for seen in found if seen is not None]
        table = similarities(self.analyser, self.embed, sample, references, self.indices(sample.num_frames, sample.fps))
        values = {
            self.value: float(np.mean([mean_similarity(row, self.rule) for row in table])),
            "coverage": float((~np.isnan(table[0])).mean()),
        }
        if len(references) > 1:
            values[f"{self.value}_best"] = mean_similarity(table.max(axis=0), self.rule)
        without = len(found) - len(references)
        reason = f"{without} of {len(found)} photographs left out: no face is found in them" if without else ""
        return Result(values=values, curves={self.value: optional(table.mean(axis=0))}, reason=reason)


def optional(numbers: np.ndarray) -> list[float | None]:
    """Numbers ``[K]`` as a curve: None for nan."""
    return [None if np.isnan(number) else float(number) for number in numbers]


def facesim_arc(backends: Backends) -> FaceSim:
    """FaceSim-Arc as ConsisID computes it."""
    return _arc(backends, "facesim_arc", "consisid")


def facesim_arc_strict(backends: Backends) -> FaceSim:
    """FaceSim-Arc with frames without a face counted as 0."""
    return _arc(backends, "facesim_arc_strict", "strict")


def _arc(backends: Backends, name: str, rule: Rule) -> FaceSim:
    analyser = face_analyser(backends)
    return FaceSim(name, "facesim_arc", rule, analyser.weights, analyser, arcface, analyser.official)


def facesim_cur(backends: Backends) -> FaceSim:
    """FaceSim-Cur as ConsisID computes it."""
    return _cur(backends, "facesim_cur", "consisid")


def facesim_cur_strict(backends: Backends) -> FaceSim:
    """FaceSim-Cur with frames without a face counted as 0."""
    return _cur(backends, "facesim_cur_strict", "strict")


def _cur(backends: Backends, name: str, rule: Rule) -> FaceSim:
    analyser = face_analyser(backends)
    embed = _curricular_once(backends.need("curricular").resolve(), backends.device)
    weights = sha256_bytes(f"{analyser.weights} {embed.network.weights}".encode())[:16]
    is_official = analyser.official_detector and embed.network.official
    return FaceSim(name, "facesim_cur", rule, weights, analyser, embed, is_official)


@lru_cache(maxsize=1)
def _curricular_once(path: Path, device: str) -> CurricularFace:
    from likeness.evaluate.networks.iresnet import Curricular

    return CurricularFace(Curricular.load(path, device))
