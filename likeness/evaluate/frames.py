"""Which frames of a video each protocol looks at: the official formulas, to the frame.

Every function gives ``int64`` frame numbers of a video of ``num_frames`` >= 1 frames. Short videos repeat frames where
the official code does: a repeated frame counts as often as it is named.
"""

from __future__ import annotations

import numpy as np


def consisid(num_frames: int, count: int = 16) -> np.ndarray:
    """FaceSim of ConsisID (16) and OpenS2V (32): both ends, evenly spread, rounded down, ``[count]``."""
    return np.linspace(0, num_frames - 1, count, dtype=int).astype(np.int64)


def clip_score(num_frames: int, count: int = 16) -> np.ndarray:
    """CLIP-Score of ConsisID: the start of each of ``count`` equal intervals, ``[count]``."""
    return np.array([int(i * num_frames / count) for i in range(count)], dtype=np.int64)


def viclip(num_frames: int, count: int = 8) -> np.ndarray:
    """ViCLIP as VBench feeds it: the middle of each of ``count`` equal intervals, ``[count]``.

    A video with fewer frames gives each of them once, then its last again.
    """
    held = min(count, num_frames)
    borders = np.linspace(0, num_frames, held + 1).astype(np.int64)  # [held + 1] first frame of each interval
    middles = (borders[:-1] + borders[1:] - 1) // 2  # [held]
    return np.pad(middles, (0, count - held), mode="edge")


def every(num_frames: int) -> np.ndarray:
    """Every frame (VBench: aesthetic and imaging quality, motion smoothness), ``[num_frames]``."""
    return np.arange(num_frames, dtype=np.int64)


def eighths(num_frames: int, fps: float) -> np.ndarray:
    """Dynamic degree of VBench: about eight frames a second, from the first one on."""
    return np.arange(0, num_frames, max(1, round(fps / 8)), dtype=np.int64)
