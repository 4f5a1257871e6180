"""The weight-free measures on videos whose movement, flicker and sharpness are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from painted_faces import sample

from likeness.evaluate.motion import Motion, sharpness
from likeness.evaluate.types import Backends


def values(frames: list[np.ndarray], fps: float = 8.0) -> dict:
    result = Motion().measure(sample(frames, [], fps=fps))
    assert result.status == "ok"
    return dict(result.values)


def texture(size: int = 128, seed: int = 0) -> np.ndarray:
    """Smooth random blobs, 60 to 190, which wrap around."""
    coarse = np.random.default_rng(seed).uniform(60, 190, (16, 16)).astype(np.float32)
    picture = cv2.resize(np.tile(coarse, (3, 3)), (3 * size, 3 * size), interpolation=cv2.INTER_CUBIC)
    return picture[size : 2 * size, size : 2 * size].clip(0, 255).astype(np.uint8)[..., None].repeat(3, 2)


def test_a_still_video() -> None:
    still = values([texture()] * 9)
    assert [still[name] for name in ("frame_change", "flow", "flow_top", "flicker")] == pytest.approx([0] * 4, abs=2e-3)
    assert still["sharpness"] > 0


def test_a_moving_video() -> None:
    """2 px a frame of 128, 8 frames a second: an eighth of the frame a second."""
    moving = values([np.roll(texture(), 2 * step, axis=1) for step in range(9)])
    assert moving["flow"] == pytest.approx(2 / 128 * 8, rel=0.1)
    assert moving["frame_change"] > 0.05 and moving["flicker"] < 1e-3
    faster = values([np.roll(texture(), 2 * step, axis=1) for step in range(9)], fps=24.0)
    assert faster["flow"] == pytest.approx(3 * moving["flow"]), "a speed is given a second, not a frame"


def test_something_small_moves() -> None:
    """A twentieth of the picture moves: the median does not see it, the top 5 % do."""
    frames = []
    for step in range(6):
        frame = texture()
        frame[40:72, 40:72] = np.roll(texture(seed=1), 2 * step, axis=1)[40:72, 40:72]
        frames.append(frame)
    moving = values(frames)
    assert moving["flow"] < 0.2 * moving["flow_top"] and moving["flow_top"] > 0.05


def test_flicker_is_what_goes_to_and_fro() -> None:
    def brightness(levels: list[int]) -> float:
        return values([np.full((32, 32, 3), level, np.uint8) for level in levels])["flicker"]

    assert brightness([100, 110, 100, 110, 100, 110]) == pytest.approx(20 / 255, abs=1e-6)
    assert brightness([100, 110, 120, 130, 140]) == pytest.approx(0, abs=1e-6)  # a steady fade
    assert brightness([100, 110]) is None


def test_blur_lowers_sharpness_and_brightness_does_not() -> None:
    noise = np.random.default_rng(0).integers(60, 190, (96, 96, 3), dtype=np.uint8)
    sharp, blurred = values([noise])["sharpness"], values([cv2.GaussianBlur(noise, (0, 0), 2)])["sharpness"]
    assert blurred < 0.2 * sharp
    picture = np.random.default_rng(0).uniform(0, 0.5, (64, 64)).astype(np.float32)
    assert sharpness(2 * picture) == pytest.approx(sharpness(picture), rel=1e-4)
    assert sharpness(np.full((8, 8), 0.5, np.float32)) == 0, "a grey frame"


def test_short_and_long_videos() -> None:
    one = Motion().measure(sample([texture()], []))
    assert one.values["frame_change"] is None and one.values["sharpness"] is not None and "too few" in one.reason
    for num_frames in (1, 2, 3, 17, 48, 49, 1000):
        indices = Motion().indices(num_frames, 8.0)
        assert indices.min() == 0 and indices.max() == num_frames - 1 and len(indices) <= 48


def test_a_large_frame_is_scaled_down() -> None:
    """Twice the size, twice the movement in px: the same speed in shorter sides."""
    big = [cv2.resize(np.roll(texture(256), 4 * step, axis=1), (512, 512)) for step in range(4)]
    small = [np.roll(texture(256), 4 * step, axis=1) for step in range(4)]
    assert values(big)["flow"] == pytest.approx(values(small)["flow"], rel=0.05)


def test_it_needs_no_backend() -> None:
    from likeness.evaluate.motion import motion

    assert motion(Backends()).weights == ""
