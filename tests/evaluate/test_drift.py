"""Drift: slope, minimum and worst window on curves worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from painted_faces import GREEN, RED, SIXTY, analyser, one, sample

from likeness.evaluate.drift import Drift, slope_per_s, spread, worst_window


def measured(colours: list, **options: object):
    metric = Drift("", analyser())
    return metric.measure(sample([one(colour) for colour in colours], [one(RED)], **options))  # type: ignore[arg-type]


def test_a_video_that_holds_does_not_drift() -> None:
    result = measured([SIXTY] * 17)
    assert result.values == pytest.approx({"drift_slope": 0, "drift_min": 0.6, "drift_worst_window": 0.6}, abs=1e-6)
    assert result.details["times_s"] == [index / 8 for index in range(17)]


def test_a_person_who_turns_into_another() -> None:
    """RED to frame 7, GREEN from frame 8 of 16 at 8 fps: 1 for a second, 0 for another."""
    result = measured([RED] * 8 + [GREEN] * 8)
    assert result.values["drift_min"] == pytest.approx(0, abs=1e-6)
    assert result.values["drift_worst_window"] == pytest.approx(0, abs=1e-6)
    # Least squares of a step over n = 16 points: -(3 n / (2 (n^2 - 1))) a point, 8 points a second.
    assert result.values["drift_slope"] == pytest.approx(-8 * 3 * 16 / (2 * 255), abs=1e-6)


def test_frames_without_a_face_count_in_the_window_alone() -> None:
    result = measured([RED] * 12 + [None] * 4)
    assert result.values["drift_slope"] == pytest.approx(0, abs=1e-6)
    assert result.values["drift_min"] == pytest.approx(1, abs=1e-6)
    assert result.values["drift_worst_window"] == pytest.approx(0.5, abs=1e-6)  # 8 frames a second, 4 of them empty
    assert result.curves["similarity"] == pytest.approx([1.0] * 12 + [None] * 4)


def test_videos_without_a_curve() -> None:
    empty = measured([None] * 4)
    assert empty.values == {"drift_slope": None, "drift_min": None, "drift_worst_window": 0}
    assert empty.status == "ok" and "no face" in empty.reason
    assert measured([RED]).values["drift_slope"] is None
    two = Drift("", analyser()).measure(sample([one(RED)], [one(RED), one(GREEN)], people=(0, 1)))
    assert two.values["drift_min"] is None and "people" in two.reason
    assert Drift("", analyser()).measure(sample([one(RED)], [one(None)])).status == "no reference face"


@pytest.mark.parametrize("seed", range(3))
def test_the_slope_is_the_least_squares_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, values = np.sort(rng.uniform(0, 6, 30)), rng.normal(size=30)
    values[rng.integers(30, size=5)] = np.nan
    there = ~np.isnan(values)
    assert slope_per_s(times, values) == pytest.approx(np.polyfit(times[there], values[there], 1)[0], abs=1e-9)


def test_windows() -> None:
    times = np.arange(8) / 4  # two seconds at 4 fps
    values = np.array([1, 1, 0, 0, 0, 0, 1, 1.0])
    assert worst_window(times, values) == 0
    assert worst_window(times, values, window_s=2.0) == 0.5
    assert worst_window(times, values, window_s=9.0) == 0.5, "a shorter video is one window"
    assert worst_window(np.zeros(1), np.array([0.3])) == 0.3


@pytest.mark.parametrize("num_frames", [1, 2, 31, 32, 33, 400])
def test_frames_are_different_and_reach_both_ends(num_frames: int) -> None:
    indices = spread(num_frames)
    assert len(indices) == min(num_frames, 32) == len(set(indices.tolist()))
    assert indices[0] == 0 and indices[-1] == num_frames - 1
