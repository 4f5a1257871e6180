"""Face alignment: five keypoints onto the ArcFace template, by a least-squares similarity transform.

Matrices are ``float64 [2, 3]`` and map pixel coordinates ``(x, y, 1)`` of the picture to those of the crop.
"""

from __future__ import annotations

import cv2
import numpy as np

# Where eyes, nose and corners of the mouth of a frontal face lie in ArcFace's 112 x 112 px crop, x then y.
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float64,
)
ARCFACE_SIZE_PX = 112

# How much finer than the crop a large picture stays after averaging: bilinear sampling blurs a picture that is
# averaged down all the way and skips pixels at 2. Against a supersampled warp, 1.5 gave 3 to 8 dB more than 1 and
# 7 to 10 dB more than no averaging (factors of 2 to 9).
_AVERAGED_FINENESS = 1.5


def arcface_template(size: int) -> np.ndarray:
    """The template scaled to a crop of ``size`` x ``size`` px, as insightface does it.

    Multiples of 112 scale the template. Other sizes scale the 128 px layout, which has 8 px more at the left and
    the right and none at the top.

    Returns:
        ``float64 [5, 2]`` px.
    """
    if size % ARCFACE_SIZE_PX == 0:
        return ARCFACE_TEMPLATE * (size / ARCFACE_SIZE_PX)
    return (ARCFACE_TEMPLATE + np.array([8.0, 0.0])) * (size / 128)


def estimate_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift that bring ``source`` closest to ``target`` in the least-squares sense.

    Umeyama (1991) in the plane: with points as complex numbers about their means, the factor is
    ``sum(conj(s) * t) / sum(|s|^2)``; its modulus is the scale and its argument the angle. Reflections are excluded.

    Args:
        source: ``[K, 2]`` points (x, y), K >= 2, not all equal.
        target: ``[K, 2]`` points.

    Returns:
        ``float64 [2, 3]``.

    Raises:
        ValueError: all source points coincide, or a point is not finite.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    s, t = ((points - mean) @ [1, 1j] for points, mean in ((source, source_mean), (target, target_mean)))  # [K]
    spread = np.vdot(s, s).real
    if not spread > 0 or not np.isfinite(target).all():
        raise ValueError(
            f"No similarity transform exists for the points {source.tolist()}: they coincide or are not finite."
        )
    factor = np.vdot(s, t) / spread
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([linear, target_mean - linear @ source_mean])


def warp(picture: np.ndarray, matrix: np.ndarray, size: int, *, antialias: bool = True) -> np.ndarray:
    """Cut a square crop out of a picture through an affine map; what lies outside the picture is black.

    Bilinear sampling reads 2 x 2 pixels and so skips some as soon as the picture shrinks more than twofold: a face
    of 2000 px turns into grains. With ``antialias`` such a picture is averaged down first; below that factor the
    result equals insightface's ``norm_crop`` for the same matrix. ``antialias=False`` equals it always.

    Args:
        picture: ``uint8 [H, W, 3]``.
        matrix: ``[2, 3]``, picture px to crop px.
        size: side of the crop, px.

    Returns:
        ``uint8 [size, size, 3]``.
    """
    shrink = np.sqrt(abs(np.linalg.det(matrix[:, :2])))  # crop px a picture px
    if antialias and shrink < 0.5:
        picture, matrix = _averaged_down(picture, matrix, size, shrink)
        if 0 in picture.shape:  # the crop lies wholly outside
            return np.zeros((size, size, 3), np.uint8)
    return cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=(0, 0, 0))


def _averaged_down(picture: np.ndarray, matrix: np.ndarray, size: int, shrink: float) -> tuple[np.ndarray, np.ndarray]:
    """The part of the picture that the crop sees, averaged down near the crop's resolution, and the matrix for it."""
    ratio = shrink * _AVERAGED_FINENESS
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float64)
    seen = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    margin_px = 2 / shrink
    height, width = picture.shape[:2]
    x0, y0 = np.clip(np.floor(seen.min(axis=0) - margin_px), 0, [width, height]).astype(int)
    x1, y1 = np.clip(np.ceil(seen.max(axis=0) + margin_px), 0, [width, height]).astype(int)
    part = picture[y0:y1, x0:x1]
    if 0 in part.shape:
        return part, matrix
    small_width, small_height = max(round((x1 - x0) * ratio), 1), max(round((y1 - y0) * ratio), 1)
    small = cv2.resize(part, (small_width, small_height), interpolation=cv2.INTER_AREA)
    # A pixel centre p lies at (p - origin + 0.5) / step - 0.5 in the small picture; this is the inverse.
    step = np.array([(x1 - x0) / small_width, (y1 - y0) / small_height])
    shift = 0.5 * step - 0.5 + [x0, y0]
    linear = matrix[:, :2] * step
    return small, np.column_stack([linear, matrix[:, :2] @ shift + matrix[:, 2]])
