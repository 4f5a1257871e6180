"""How much moves in a clip: two numbers for the ranking of Concat-ID, section 4.2 ("optical flow scores, and motion scores").

The paper names the scores and not how they are computed. Here both compare consecutive samples, which are there anyway:

- *flow* is how far things go: the mean length of the optical flow (DIS, dense inverse search), in heights of the frame a second.
  From one sample to the next, half a second apart, a nod that returns to its place counts little, and what goes further than
  an eighth of the height is lost.
- *motion* is how much of the picture changes: the mean absolute difference of blurred brightness, 0..1, as VMAF's motion
  feature has it from frame to frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

_BLUR_SIGMA = 1.1  # px of the small picture: takes noise away
_MIN_SIDE_PX = 16  # less is no picture to the flow's patches


def small_grey(picture: np.ndarray, height: int) -> np.ndarray:
    """``uint8 [H, W, 3]`` RGB to grey ``uint8 [height, w]`` of the same shape, averaged down; never enlarged."""
    full_height, full_width = picture.shape[:2]
    scale = min(height / full_height, 1.0)
    size = (max(round(full_width * scale), _MIN_SIDE_PX), max(round(full_height * scale), _MIN_SIDE_PX))
    return cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)


def flow_score(greys: Sequence[np.ndarray], times_s: Sequence[float]) -> float:
    """Mean length of the optical flow between consecutive pictures, in heights a second; 0 for fewer than two.

    Args:
        greys: ``uint8 [h, w]`` each.
        times_s: when each is shown, ascending.
    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    speeds = []
    for (before, start_s), (after, end_s) in pairwise(zip(greys, times_s, strict=True)):
        vectors = flow.calc(before, after, None)  # pyright: ignore[reportCallIssue,reportArgumentType]  # float32 [h, w, 2] px
        length = float(np.hypot(vectors[..., 0], vectors[..., 1]).mean())
        speeds.append(length / before.shape[0] / (end_s - start_s))
    return float(np.mean(speeds)) if speeds else 0.0


def motion_score(greys: Sequence[np.ndarray]) -> float:
    """Mean absolute change of blurred brightness between consecutive pictures ``uint8 [h, w]``, 0..1; 0 for fewer than two."""
    blurred = [cv2.GaussianBlur(grey, (0, 0), _BLUR_SIGMA) for grey in greys]
    changes = [float(cv2.absdiff(a, b).mean()) / 255 for a, b in pairwise(blurred)]
    return float(np.mean(changes)) if changes else 0.0
