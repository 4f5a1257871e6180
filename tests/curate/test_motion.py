"""Flow and motion of pictures that move by a known step."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from likeness.curate.motion import flow_score, motion_score, small_grey

SIDE = 144


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (8, 16), dtype=np.uint8)
    return cv2.resize(noise, (2 * SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("step_px", [2, 6, 18])
@pytest.mark.parametrize("apart_s", [0.5, 1.0])
def test_flow_is_the_speed_in_heights_a_second(texture, step_px: int, apart_s: float) -> None:
    greys = [np.ascontiguousarray(texture[:, number * step_px :][:, :SIDE]) for number in range(4)]
    times = [apart_s * number for number in range(4)]
    assert flow_score(greys, times) == pytest.approx(step_px / SIDE / apart_s, rel=0.02)


def test_what_stands_still_does_not_move(texture) -> None:
    assert flow_score([texture] * 3, [0.0, 0.5, 1.0]) == pytest.approx(0.0, abs=1e-4)
    assert motion_score([texture] * 3) == 0.0
    assert flow_score([texture], [0.0]) == motion_score([texture]) == motion_score([]) == 0.0


def test_motion_is_the_mean_change_of_brightness(texture) -> None:
    dark, bright = np.full((64, 64), 20, np.uint8), np.full((64, 64), 71, np.uint8)
    assert motion_score([dark, bright]) == pytest.approx(0.2)
    slow = motion_score([texture, np.roll(texture, 1, 1)])
    assert 0 < slow < motion_score([texture, np.roll(texture, 5, 1)])


def test_pictures_are_averaged_down_and_never_enlarged() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (288, 400, 3), dtype=np.uint8)
    grey = small_grey(picture, 144)
    assert grey.shape == (144, 200) and grey.dtype == np.uint8
    assert grey.std() < 0.7 * cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).std()
    assert small_grey(picture[:64, :80], 144).shape == (64, 80)
