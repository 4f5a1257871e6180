import math

import pytest
import torch

from likeness.conditioning.augment import augment_reference, reference_noise
from likeness.method import Augment, ReferenceNoise

NOTHING = Augment(flip=0, rotate=0, crop=0, jitter=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(batch: int = 2, height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=seeded(7)) * 2 - 1


def test_noise_has_the_deviation_asked_for() -> None:
    pixels = torch.zeros(400, 3, 1, 16, 16)
    deviations = reference_noise(pixels, ReferenceNoise(), seeded()).flatten(1).std(dim=1).log()
    assert deviations.mean() == pytest.approx(-3.0, abs=0.1)
    assert deviations.std() == pytest.approx(0.5, abs=0.06)


def test_noise_repeats_with_its_seed() -> None:
    pixels = picture()
    assert reference_noise(pixels, ReferenceNoise(), seeded()).equal(
        reference_noise(pixels, ReferenceNoise(), seeded())
    )
    assert not reference_noise(pixels, ReferenceNoise(), seeded(1)).equal(
        reference_noise(pixels, ReferenceNoise(), seeded())
    )


def test_no_augmentation_changes_nothing() -> None:
    pixels = picture()
    torch.testing.assert_close(augment_reference(pixels, NOTHING, seeded()), pixels, atol=1e-5, rtol=0)


def test_flip_mirrors_left_and_right() -> None:
    pixels = picture()
    flipped = augment_reference(pixels, Augment(flip=1, rotate=0, crop=0, jitter=0), seeded())
    torch.testing.assert_close(flipped, pixels.flip(-1), atol=1e-5, rtol=0)


def test_rotation_is_rigid_on_a_wide_canvas() -> None:
    # A dot 16 px right of the centre: a rotation in pixels keeps it 16 px away, one in relative units would not.
    pixels = torch.full((64, 3, 32, 64), -1.0)
    pixels[:, :, 15:17, 47:49] = 1.0
    turned = augment_reference(pixels, Augment(flip=0, rotate=1, rotation_deg=40, crop=0, jitter=0), seeded())
    mass = (turned.mean(1) + 1) / 2
    rows, cols = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(64) - 31.5, indexing="ij")
    y = (mass * rows).sum((1, 2)) / mass.sum((1, 2))
    x = (mass * cols).sum((1, 2)) / mass.sum((1, 2))
    torch.testing.assert_close(torch.hypot(x, y), torch.full((64,), 16.0), atol=0.2, rtol=0)
    angles = torch.rad2deg(torch.atan2(y, x))
    assert angles.abs().max() <= 40.5
    assert angles.std() > 15


def test_crop_zooms_in() -> None:
    pixels = picture(8)
    cropped = augment_reference(pixels, Augment(flip=0, rotate=0, crop=1, crop_scale=0.5, jitter=0), seeded())
    assert (cropped - pixels).abs().mean() > 0.1
    # A ramp shows what part of the canvas is seen: 1 of 16 columns is 1/16 of the range.
    ramp = (torch.arange(16) / 15 * 2 - 1).expand(64, 3, 16, 16)
    seen = augment_reference(ramp, Augment(flip=0, rotate=0, crop=1, crop_scale=0.5, jitter=0), seeded())[:, 0, 0]
    widths = (seen[:, -2] - seen[:, 1]) / (ramp[0, 0, 0, -2] - ramp[0, 0, 0, 1])
    assert widths.min() >= 0.5 - 1e-4
    assert widths.max() <= 1 + 1e-4


def test_rotation_continues_the_edge() -> None:
    white = torch.ones(8, 3, 16, 16)
    turned = augment_reference(white, Augment(flip=0, rotate=1, rotation_deg=45, crop=0, jitter=0), seeded())
    assert turned.min() > 0.999


def test_jitter_changes_colours_and_not_places() -> None:
    grey = torch.zeros(64, 3, 4, 4)
    changed = augment_reference(grey, Augment(flip=0, rotate=0, crop=0, jitter=1), seeded())
    assert changed.flatten(1).std(dim=1).max() < 1e-6  # each picture stays of one grey
    brightness = changed[:, 0, 0, 0]
    assert brightness.min() >= -0.2 - 1e-6
    assert brightness.max() <= 0.2 + 1e-6
    assert brightness.std() > 0.05


def test_probability_is_kept() -> None:
    pixels = picture(400, 4, 4)
    changed = augment_reference(pixels, Augment(flip=0.25, rotate=0, crop=0, jitter=0), seeded())
    flips = ((changed - pixels).abs().amax((1, 2, 3)) > 1e-3).float().mean()
    assert flips == pytest.approx(0.25, abs=3 * math.sqrt(0.25 * 0.75 / 400))


def test_shape_and_type_are_kept() -> None:
    pixels = picture().unsqueeze(2).to(torch.bfloat16)
    augmented = augment_reference(pixels, Augment(), seeded())
    assert augmented.shape == pixels.shape
    assert augmented.dtype == pixels.dtype
    assert reference_noise(pixels, ReferenceNoise(), seeded()).dtype == pixels.dtype
