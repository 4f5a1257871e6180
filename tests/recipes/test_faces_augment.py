"""The batched geometry agrees with what alignment does at inference; degradations keep what they must keep."""

import cv2
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likeness.faces.align import ARCFACE_TEMPLATE, estimate_similarity
from likeness.recipes.faces import augment

coordinates = st.lists(st.floats(-200, 200, width=32), min_size=10, max_size=10)


@settings(max_examples=25, deadline=None)
@given(coordinates)
def test_similarities_are_those_of_inference(numbers):
    points = np.array(numbers, np.float32).reshape(5, 2)
    if np.ptp(points, axis=0).max() < 1:
        return
    expected = estimate_similarity(points, ARCFACE_TEMPLATE)
    found = augment.similarities(torch.from_numpy(points)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_warp_is_cv2s():
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (64, 48, 3), dtype=np.uint8), (0, 0), 2)
    matrix = np.array([[1.7, -0.3, 4.2], [0.3, 1.7, -9.1]])
    expected = cv2.warpAffine(picture, matrix, (112, 100))
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    found = augment.warp(pixels, torch.from_numpy(matrix)[None].float(), 100, 112)
    # cv2 rounds sampling positions to 1/32 px.
    assert np.abs(found[0].permute(1, 2, 0).numpy() - expected).mean() < 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_inverse_undoes_a_map(seed):
    matrices = augment.random_similarities(3, 112, torch.Generator().manual_seed(seed))
    points = torch.rand(3, 5, 2) * 112
    there = augment.transform(points, matrices)
    torch.testing.assert_close(augment.transform(there, augment.invert(matrices)), points, atol=1e-3, rtol=1e-4)
    both = augment.compose(augment.invert(matrices), matrices)
    torch.testing.assert_close(augment.transform(points, both), points, atol=1e-3, rtol=1e-4)


def test_codec_with_fine_steps_changes_nothing_and_with_coarse_ones_something():
    pixels = torch.rand(2, 3, 20, 30) * 255
    fine, coarse = (augment.block_codec(pixels, torch.full((2,), step)) for step in (1e-3, 40.0))
    torch.testing.assert_close(fine, pixels, atol=0.1, rtol=0)
    assert (coarse - pixels).abs().mean() > 1


def test_blur_keeps_flat_pictures_and_softens_edges_by_its_own_sigma():
    flat = torch.full((1, 3, 16, 16), 77.0)
    torch.testing.assert_close(augment.blur(flat, torch.tensor([1.0])), flat)
    edge = torch.zeros(2, 1, 16, 16)
    edge[..., 8:] = 100
    steepest = (blurred := augment.blur(edge, torch.tensor([0.3, 2.0])))[..., 1:].sub(blurred[..., :-1]).amax((1, 2, 3))
    assert steepest[0] > 2 * steepest[1]


def test_degrade_and_recolour_follow_their_generator_and_stay_in_range():
    pixels = torch.rand(8, 3, 64, 64) * 255
    first, second = (
        augment.recolour(augment.degrade(pixels, g), g) for g in (torch.Generator().manual_seed(s) for s in (3, 3))
    )
    assert torch.equal(first, second)
    assert first.min() >= 0 and first.max() <= 255
