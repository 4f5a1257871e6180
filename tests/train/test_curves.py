"""The picture of a run's curves."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from likeness.media import read_picture
from likeness.train.curves import _smoothed, draw_curves


def _run(folder, values):
    folder.mkdir()
    lines = [json.dumps({"step": 10 * (index + 1), **row}) for index, row in enumerate(values)]
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def _dark(picture: np.ndarray) -> np.ndarray:
    """Where the averaged line is drawn, ``bool [H, W]``."""
    return (picture == (26, 80, 150)).all(2)


def test_a_falling_loss_falls_in_the_picture(tmp_path) -> None:
    run = _run(tmp_path / "run", [{"loss": 2.0 - index / 50} for index in range(100)])
    draw_curves([run], tmp_path / "curves.png")
    rows, columns = np.nonzero(_dark(read_picture(tmp_path / "curves.png")))
    assert np.corrcoef(rows, columns)[0, 1] > 0.99  # rows count downwards


def test_runs_follow_each_other_and_figures_have_a_panel_each(tmp_path) -> None:
    runs = [
        _run(tmp_path / "one", [{"loss": 1.0, "identity": 0.5}, {"loss": 0.9}]),
        tmp_path / "not begun",
        _run(tmp_path / "two", [{"loss": 0.8, "identity": float("nan")}]),
    ]
    draw_curves(runs, tmp_path / "curves.png")
    one = read_picture(tmp_path / "curves.png")
    assert one.shape == (240, 840, 3)
    assert _dark(one[:, :420]).any() and _dark(one[:, 420:]).any()


def test_without_a_line_there_is_no_picture(tmp_path) -> None:
    draw_curves([tmp_path], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_averages_stay_among_the_values(values) -> None:
    data = np.array(values)
    smoothed = _smoothed(data)
    slack = 1e-6 * max(1.0, np.abs(data).max())
    assert smoothed.shape == data.shape
    assert (smoothed >= data.min() - slack).all() and (smoothed <= data.max() + slack).all()
