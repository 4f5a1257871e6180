"""Editability: how far the video is from a copy of the photograph, as CLIP sees it.

CLIPDist (papers: Concat-ID, section 5.1) is ``1 - cos`` of the CLIP image embeddings of the reference and of the frames,
the mean over the frames; more is better. The paper gives no code, so two readings are offered under protocols of their
own: ``full``, whole pictures and 16 frames, and ``face``, faces aligned on ArcFace's template at 224 px in FaceSim's 16
frames, those without a face left out. A video of somebody else scores *better*: read it beside FaceSim, never alone.

With several photographs or people, ``full`` is the mean over the references; ``face`` compares each person with the
face that resembles them most in the assignment of :mod:`likeness.evaluate.people`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from likeness.evaluate import frames
from likeness.evaluate.faces_of import FaceAnalyser, face_analyser, no_reference_face
from likeness.evaluate.identity import optional
from likeness.evaluate.people import faces_of_references
from likeness.evaluate.text import FrameClip, frame_clip
from likeness.evaluate.types import Backends, Direction, Result, Sample
from likeness.media import sha256_bytes

FACE_PX = 224  # what CLIP ViT-B/32 and L/14 read


@dataclass(frozen=True, eq=False)
class ClipDistFull:
    """CLIPDist of whole pictures."""

    weights: str
    shared: FrameClip
    name: str = "clip_dist"
    protocol: str = "full"
    needs_reference: bool = True

    @property
    def directions(self) -> Mapping[str, Direction]:
        """More is better, beside FaceSim."""
        return {"clip_dist": "higher"}

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """The frames of CLIP-Score."""
        return frames.clip_score(num_frames)

    def measure(self, sample: Sample) -> Result:
        """The distance, and its curve over the frames."""
        if not sample.references:
            return Result(values={}, status="no reference face", reason="the row has no reference")
        seen = self.shared.frames(sample, self.indices(sample.num_frames, sample.fps)).astype(np.float64)  # [K, D]
        curve = 1 - (seen @ self.shared.clip.images(sample.references).T).mean(axis=1)  # [K]
        return Result(values={"clip_dist": float(curve.mean())}, curves={"clip_dist": curve.tolist()})


@dataclass(frozen=True, eq=False)
class ClipDistFace:
    """CLIPDist of aligned faces."""

    weights: str
    shared: FrameClip
    analyser: FaceAnalyser
    name: str = "clip_dist_face"
    protocol: str = "face"
    needs_reference: bool = True

    @property
    def directions(self) -> Mapping[str, Direction]:
        """More is better, beside FaceSim."""
        return {"clip_dist_face": "higher"}

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """The frames of FaceSim."""
        return frames.consisid(num_frames)

    def measure(self, sample: Sample) -> Result:
        """The distance, and its curve over the frames, None without a face."""
        found = self.analyser.references(sample)
        if refused := no_reference_face(sample, found):
            return refused
        seen = self.analyser.frames(sample, self.indices(sample.num_frames, sample.fps))
        distances = np.full((len(found), len(seen)), np.nan)
        for row, faces in enumerate(faces_of_references(sample.item.people, found, seen)):
            reference = found[row]
            if reference is None:
                continue
            there = [frame for frame, face in enumerate(faces) if face is not None]
            pictures = [face.cut(FACE_PX, antialias=True) for face in (reference, *faces) if face is not None]
            embeddings = self.shared.clip.images(pictures).astype(np.float64)
            distances[row, there] = 1 - embeddings[1:] @ embeddings[0]
        if np.isnan(distances).all():
            return Result(values={"clip_dist_face": None}, reason="no face is found in any frame")
        counted = ~np.isnan(distances)
        totals = np.where(counted, distances, 0).sum(axis=0)
        curve = np.where(counted.any(axis=0), totals / np.maximum(counted.sum(axis=0), 1), np.nan)
        return Result(
            values={"clip_dist_face": float(np.nanmean(distances))}, curves={"clip_dist_face": optional(curve)}
        )


def clip_dist(backends: Backends) -> ClipDistFull:
    """CLIPDist of whole pictures."""
    shared = frame_clip(backends)
    return ClipDistFull(shared.clip.weights, shared)


def clip_dist_face(backends: Backends) -> ClipDistFace:
    """CLIPDist of aligned faces."""
    shared, analyser = frame_clip(backends), face_analyser(backends)
    weights = sha256_bytes(f"{shared.clip.weights} {analyser.weights}".encode())[:16]
    return ClipDistFace(weights, shared, analyser)
