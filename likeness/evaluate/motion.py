"""What can be said of a video without any weights: how much moves, how much flickers, how sharp it is.

These are this package's own measures, under their own names. They are no stand-ins for VBench's motion smoothness,
dynamic degree or imaging quality and must not be compared with those. Frames are looked at in runs of three successive
ones, up to 16 runs spread evenly over the video, scaled to 256 px on the shorter side if larger.

- ``frame_change``: mean absolute difference of the luminance of successive frames, in 0..1, a second.
- ``flow``: median length of the optical flow (Farneback, 2003) between successive frames, in shorter sides a second; and
  ``flow_top``, the mean of its largest 5 %: a small thing that moves in a still picture.
- ``flicker``: mean absolute second difference over three frames of the luminance's *mean*, in 0..1: a steady fade gives
  0, brightness that jumps to and fro does not, and movement hardly does.
- ``sharpness``: variance of the Laplacian of the luminance divided by the luminance's own variance; 0 for a grey frame.
  It depends on what is shown: compare runs over the same prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from likeness.evaluate.types import Backends, Direction, Result, Sample

NUM_RUNS = 16
RUN_FRAMES = 3
SIDE_PX = 256


@dataclass(frozen=True)
class Motion:
    """See the module."""

    name: str = "motion"
    protocol: str = "luminance 256"
    weights: str = ""
    needs_reference: bool = False

    @property
    def directions(self) -> Mapping[str, Direction]:
        """How much should move is the prompt's affair."""
        return {"frame_change": "", "flow": "", "flow_top": "", "flicker": "lower", "sharpness": "higher"}

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """The frames of all runs, ``int64 [runs * 3]``; of a video of fewer than three frames, all of them."""
        return _runs(num_frames).ravel()

    def measure(self, sample: Sample) -> Result:
        """The five values; a video of one frame has its sharpness alone, of two no flicker."""
        runs = _runs(sample.num_frames)  # [runs, frames of a run]
        numbers, places = np.unique(runs, return_inverse=True)
        pictures = np.stack([luminance(frame) for frame in sample.take(numbers)])  # [K, h, w]
        places = places.reshape(runs.shape)
        successive = sorted({(int(a), int(b)) for run in places for a, b in pairwise(run)})
        lengths = [_flow_lengths(pictures[a], pictures[b]) for a, b in successive]
        brightness = pictures.mean(axis=(1, 2))[places]  # [runs, frames of a run]
        flickers = np.abs(np.diff(brightness, 2, axis=1))
        per_second = sample.fps / min(pictures.shape[1:])
        return Result(
            values={
                "frame_change": _mean([np.abs(pictures[b] - pictures[a]).mean() * sample.fps for a, b in successive]),
                "flow": _mean([np.median(length) * per_second for length in lengths]),
                "flow_top": _mean(
                    [length[length >= np.quantile(length, 0.95)].mean() * per_second for length in lengths]
                ),
                "flicker": _mean(flickers.ravel()),
                "sharpness": _mean([sharpness(picture) for picture in pictures]),
            },
            reason="" if flickers.size else f"{sample.num_frames} frames are too few for movement or flicker",
        )


def luminance(frame: np.ndarray) -> np.ndarray:
    """``uint8 [H, W, 3]`` RGB as ``float32 [h, w]`` in 0..1, at most 256 px on the shorter side."""
    scale = SIDE_PX / min(frame.shape[:2])
    if scale < 1:
        size = (max(round(frame.shape[1] * scale), 1), max(round(frame.shape[0] * scale), 1))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255


def sharpness(picture: np.ndarray) -> float:
    """Variance of the Laplacian over the variance of a picture ``float32 [h, w]`` in 0..1."""
    variance = float(picture.var())
    # Below a quarter of an 8-bit step nothing is shown.
    return float(cv2.Laplacian(picture, cv2.CV_32F).var()) / variance if variance > 1e-6 else 0.0


def _runs(num_frames: int) -> np.ndarray:
    """``int64 [runs, 3]``, or one shorter run."""
    held = min(RUN_FRAMES, num_frames)
    starts = np.unique(np.linspace(0, num_frames - held, NUM_RUNS).astype(np.int64))
    return starts[:, None] + np.arange(held)


def _flow_lengths(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Length in px of the optical flow at each pixel of pictures ``float32 [h, w]`` in 0..1."""
    as_bytes = [np.rint(picture * 255).astype(np.uint8) for picture in (before, after)]
    flow = cv2.calcOpticalFlowFarneback(
        as_bytes[0], as_bytes[1], np.zeros((*before.shape, 2), np.float32), 0.5, 3, 15, 3, 5, 1.2, 0
    )
    return np.linalg.norm(flow, axis=2)


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def motion(backends: Backends) -> Motion:
    """Needs nothing."""
    return Motion()
