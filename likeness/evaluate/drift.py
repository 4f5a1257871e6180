"""Drift: whether the likeness holds to the end of the video.

Similarity is the plain cosine of the largest face to the reference (mean over photographs of one person) on up to 32
evenly spread frames, with both ends:

- ``drift_slope``: change of the similarity a second, by least squares over the frames with a face; below 0 it drifts away;
- ``drift_min``: the least similar frame with a face;
- ``drift_worst_window``: the lowest mean over one second, in which frames without a face count 0; a shorter video is
  one window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from likeness.evaluate import frames
from likeness.evaluate.faces_of import FaceAnalyser, face_analyser, no_reference_face
from likeness.evaluate.identity import arcface, optional, similarities
from likeness.evaluate.types import Backends, Direction, Result, Sample

NUM_FRAMES = 32
WINDOW_S = 1.0


def spread(num_frames: int) -> np.ndarray:
    """Up to 32 different frames, evenly spread with both ends, ``int64 [K]``."""
    return frames.consisid(num_frames, min(NUM_FRAMES, num_frames))


def slope_per_s(times_s: np.ndarray, values: np.ndarray) -> float | None:
    """Least-squares slope of ``values [K]`` over ``times_s [K]``, nan left out; None with fewer than two times."""
    there = ~np.isnan(values)
    if there.sum() < 2:
        return None
    t = times_s[there] - times_s[there].mean()
    return float(t @ values[there] / (t @ t))


def worst_window(times_s: np.ndarray, values: np.ndarray, window_s: float = WINDOW_S) -> float:
    """The lowest mean of ``values [K]`` over a window ``[t, t + window_s)`` that lies within the video, nan counting 0.

    Args:
        times_s: ``[K]``, rising.
    """
    filled = np.nan_to_num(values)
    step = times_s[1] - times_s[0] if len(times_s) > 1 else 0.0
    starts = [start for start in times_s if start + window_s <= times_s[-1] + step + 1e-9]
    windows = [(times_s >= start - 1e-9) & (times_s < start + window_s - 1e-9) for start in starts]
    return float(min(filled[window].mean() for window in windows)) if windows else float(filled.mean())


@dataclass(frozen=True, eq=False)
class Drift:
    """See the module."""

    weights: str
    analyser: FaceAnalyser
    name: str = "drift"
    protocol: str = "arcface 32"
    needs_reference: bool = True

    @property
    def directions(self) -> Mapping[str, Direction]:
        """More is better: a slope below 0 loses the person."""
        return {"drift_slope": "higher", "drift_min": "higher", "drift_worst_window": "higher"}

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """Up to 32 frames with both ends."""
        return spread(num_frames)

    def measure(self, sample: Sample) -> Result:
        """The three values, and the curve of the similarity with the times in ``details``."""
        found = self.analyser.references(sample)
        if refused := no_reference_face(sample, found):
            return refused
        if len(set(sample.item.people)) > 1:
            return Result(values=dict.fromkeys(self.directions), reason="several people: see the metric people")
        indices = self.indices(sample.num_frames, sample.fps)
        references = [seen for seen in found if seen is not None]
        curve = similarities(self.analyser, arcface, sample, references, indices).mean(axis=0)  # [K]
        times_s = indices / sample.fps
        nowhere = bool(np.isnan(curve).all())
        return Result(
            values={
                "drift_slope": slope_per_s(times_s, curve),
                "drift_min": None if nowhere else float(np.nanmin(curve)),
                "drift_worst_window": worst_window(times_s, curve),
            },
            curves={"similarity": optional(curve)},
            reason="no face is found in any frame" if nowhere else "",
            details={"times_s": [float(time) for time in times_s]},
        )


def drift(backends: Backends) -> Drift:
    """Drift by the face pack's recogniser."""
    analyser = face_analyser(backends)
    return Drift(analyser.weights, analyser)
