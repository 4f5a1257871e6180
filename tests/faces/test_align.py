"""The similarity transform and the warp."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.faces.align import ARCFACE_TEMPLATE, arcface_template, estimate_similarity, warp


@given(
    scale=st.floats(0.05, 20),
    angle=st.floats(-np.pi, np.pi),
    shift=st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000)),
)
def test_a_similarity_is_recovered(scale: float, angle: float, shift: tuple[float, float]) -> None:
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = ARCFACE_TEMPLATE @ linear.T + shift
    matrix = estimate_similarity(ARCFACE_TEMPLATE, moved)
    np.testing.assert_allclose(matrix, np.column_stack([linear, shift]), atol=1e-6 * max(scale, 1) + 1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_equals_umeyamas(seed: int) -> None:
    """Noisy points, and points mirrored, against scikit-image's implementation."""
    transform = pytest.importorskip("skimage.transform", reason="the reference implementation is scikit-image")
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(5, 2)) * 40 + 100
    if seed == 4:
        points = ARCFACE_TEMPLATE * [-1, 1]
    expected = transform.SimilarityTransform.from_estimate(points, ARCFACE_TEMPLATE).params[:2]
    np.testing.assert_allclose(estimate_similarity(points, ARCFACE_TEMPLATE), expected, atol=1e-9)


def test_points_without_a_transform_are_refused() -> None:
    with pytest.raises(ValueError, match="coincide"):
        estimate_similarity(np.full((5, 2), 7.0), ARCFACE_TEMPLATE)
    with pytest.raises(ValueError, match="finite"):
        estimate_similarity(np.full((5, 2), np.nan), ARCFACE_TEMPLATE)


@pytest.mark.parametrize("size", [112, 224, 448, 128, 256])
def test_templates_equal_insightfaces(size: int) -> None:
    face_align = pytest.importorskip("insightface.utils.face_align")
    theirs = face_align.estimate_norm(arcface_template(size).astype(np.float32), size)
    np.testing.assert_allclose(theirs, [[1, 0, 0], [0, 1, 0]], atol=1e-3)


def test_a_crop_equals_the_published_one() -> None:
    """Below twofold shrinking the warp is insightface's, antialiased or not."""
    face_align = pytest.importorskip("insightface.utils.face_align")
    picture = np.random.default_rng(0).integers(0, 255, (500, 400, 3), dtype=np.uint8)
    keypoints = (ARCFACE_TEMPLATE * 2 + [60, 110] + np.random.default_rng(1).normal(0, 4, (5, 2))).astype(np.float32)
    theirs = face_align.norm_crop(picture, keypoints, image_size=448)
    ours = warp(picture, estimate_similarity(keypoints, arcface_template(448)), 448)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_outside_the_picture_is_black() -> None:
    picture = np.full((50, 50, 3), 200, np.uint8)
    crop = warp(picture, np.array([[1.0, 0, 25], [0, 1, 25]]), 100)
    assert (crop[:25] == 0).all() and (crop[:, :25] == 0).all() and (crop[30:70, 30:70] == 200).all()
    far_away = np.array([[0.1, 0, 9000.0], [0, 0.1, 9000.0]])
    assert (warp(picture, far_away, 64) == 0).all()


@pytest.mark.parametrize("factor", [2.5, 4.0, 9.3])
def test_a_large_picture_is_averaged_not_skipped(factor: float) -> None:
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(60, 190, (12, 15, 3), dtype=np.uint8), (1500, 1200), interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 40, (1200, 1500, 3))
    noisy = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    angle, size = 0.4, 96
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / factor
    matrix = np.column_stack([linear, size / 2 - linear @ [700, 600]])
    clean = warp(smooth, matrix, size, antialias=False).astype(float)
    plain = np.std(warp(noisy, matrix, size, antialias=False) - clean)
    averaged = np.std(warp(noisy, matrix, size) - clean)
    assert averaged < 0.62 * plain, "the grain must be averaged away"
    # ... and nothing may move: the averaged warp of the smooth picture equals the plain one.
    assert np.abs(warp(smooth, matrix, size) - clean).max() < 3
