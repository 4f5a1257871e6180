"""Backgrounds: plain and easily told apart, with a little variation from clip to clip."""

from __future__ import annotations

import numpy as np

# top colour, bottom colour of a vertical gradient (sRGB 0..1)
_SKY = np.array(
    [
        [[0.62, 0.63, 0.66], [0.42, 0.43, 0.46]],
        [[0.45, 0.72, 0.95], [0.70, 0.86, 0.98]],
        [[0.30, 0.50, 0.26], [0.12, 0.28, 0.12]],
        [[0.04, 0.05, 0.16], [0.12, 0.10, 0.28]],
        [[0.80, 0.88, 0.96], [0.97, 0.98, 1.00]],
        [[0.60, 0.30, 0.22], [0.48, 0.22, 0.16]],
        [[0.42, 0.20, 0.50], [0.98, 0.58, 0.25]],
        [[0.62, 0.80, 0.92], [0.92, 0.84, 0.66]],
    ],
    np.float32,
)


def _blend(picture: np.ndarray, colour: tuple[float, float, float], alpha: np.ndarray) -> None:
    picture += (np.asarray(colour, np.float32) - picture) * alpha[..., None]


def background(place: int, noise: np.ndarray, height: int, width: int) -> np.ndarray:
    """The background of a clip, float32 [height, width, 3] in 0..1.

    `place` indexes clip.PLACES; `noise` [>= 12] are the clip's uniforms: they move the horizon, the sun, the trunks.
    """
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / height, indexing="ij")
    y, x = y.astype(np.float32), x.astype(np.float32) - 0.5 * (width / height - 1)
    soft = 64 / height * 40  # edges one and a half pixels wide at 64 pixels, alike at every size
    top, bottom = _SKY[place]
    picture = top + (bottom - top) * y[..., None]

    def step(distance: np.ndarray) -> np.ndarray:  # 1 where the distance is negative
        return np.clip(0.5 - distance * soft, 0, 1)

    def disc(cx: float, cy: float, r: float) -> np.ndarray:
        return step(np.hypot(x - cx, y - cy) - r)

    shift = noise[3] - 0.5
    if place == 1:
        _blend(picture, (0.13, 0.45, 0.68), step(0.50 + 0.10 * shift - y))
        _blend(picture, (0.92, 0.83, 0.62), step(0.70 + 0.10 * shift - y))
    elif place == 2:
        for i in range(4):
            _blend(picture, (0.26, 0.18, 0.10), step(np.abs(x - 0.30 * i - 0.05 - 0.10 * noise[4 + i]) - 0.04) * 0.8)
    elif place == 3:
        for i in range(4):
            lit = (0.98, 0.82, 0.45) if noise[4 + i] < 0.6 else (0.45, 0.70, 0.95)
            cx, cy = (0.09, 0.90, 0.14, 0.93)[i], (0.16, 0.20, 0.58, 0.56)[i]
            _blend(picture, lit, np.clip(1.6 - np.hypot(x - cx - 0.06 * shift, y - cy) / 0.055, 0, 1) * 0.85)
    elif place == 4:
        _blend(picture, (0.55, 0.66, 0.78), step(np.abs(x - 0.5 - 0.4 * shift) * 0.7 + 0.18 - y) * step(y - 0.55) * 0.6)
    elif place == 5:
        rows = np.floor(y * 8)
        mortar = np.minimum(np.abs(y * 8 % 1 - 0.5), 2 * np.abs((x * 4 + 0.5 * (rows % 2) + noise[4]) % 1 - 0.5)) - 0.44
        _blend(picture, (0.78, 0.70, 0.62), np.clip(mortar * 12, 0, 1) * 0.55)
    elif place == 6:
        _blend(picture, (1.0, 0.90, 0.55), disc(0.14 + 0.72 * float(noise[4] > 0.5), 0.34 + 0.1 * shift, 0.11))
    elif place == 7:
        dune = 0.62 + 0.08 * np.sin(x * 5 + 6.28 * noise[4]) + 0.08 * shift
        _blend(picture, (0.85, 0.66, 0.36), step(dune - y))
    return np.clip(picture * (0.92 + 0.16 * noise[11]), 0, 1).astype(np.float32)
