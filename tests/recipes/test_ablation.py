"""The ablations are the papers': rows that differ in one thing, and pages that keep their prose."""

import argparse
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from likeness.method import CONCAT_ID, ST_DRC, Method
from likeness.recipes.ablation import BASE, ROWS, config_of, page
from likeness.recipes.ablation_figures import correlation, plot
from likeness.recipes.runs import Material


def _differences(one: Method, other: Method) -> set[str]:
    names = {field.name for field in fields(Method)} - {"name"}
    return {name for name in names if getattr(one, name) != getattr(other, name)}


def test_st_drc_grows_by_one_component_a_row() -> None:
    """ST-DRC Table 1: concatenation, TASS-RoPE, augmentation, identity losses, decoupled guidance."""
    rows = [row for row in ROWS if row.table == BASE.table]
    assert rows[0].method.reference_dropout == 1.0 and not rows[0].reference
    steps = [_differences(one.method, other.method) for one, other in pairwise(rows)]
    assert steps == [{"reference_dropout"}, {"placement"}, {"augment"}, {"identity_loss"}, {"guidance"}]
    assert _differences(rows[-1].method, ST_DRC) == {"guidance"}  # the tiny model's scales
    assert rows[1].method.placement == CONCAT_ID.placement


def test_concat_id_differs_in_its_pairs_alone() -> None:
    """Concat-ID Table 3."""
    given, *rows = [row for row in ROWS if row.table != BASE.table]
    assert given.trained_as == "base" and given.reference
    assert [row.pairs for row in rows] == ["pretraining", "cross", "tradeoff"]
    assert [row.start for row in rows] == ["base", "stage1", "stage2"]
    assert len({row.method for row in rows}) == 1


def test_a_row_starts_where_it_says_and_reads_its_pairs() -> None:
    runs, material = Path("runs"), Material.below(Path("made"))
    stage3 = next(row for row in ROWS if row.run == "stage3")
    config = config_of(stage3, runs, material, steps=100, seed=3)
    assert config.model == "runs/stage2/model" and config.data.pairs == ("made/pairs/tradeoff.json",)
    assert config.steps == 25 and config.seed == 3
    assert config_of(BASE, runs, material, steps=100, seed=3).model == "made/untrained"


@pytest.fixture
def figures() -> dict[str, dict[str, list[float]]]:
    return {
        row.run: {"FaceSim": [0.1 * index, 0.1 * index - 0.02, 0.1 * index + 0.02], "pose copied": [-0.1, -0.2, 0.1]}
        for index, row in enumerate(ROWS)
    }


def test_a_page_has_a_line_for_each_row(figures) -> None:
    text = page(ROWS, figures, argparse.Namespace(steps=10, seed=0, people=4, start=None))
    assert text.count("| + TASS-RoPE | 0.200 [0.180, 0.220] |") == 1
    assert all(text.count(f"| {row.label} |") == 1 for row in ROWS)


def test_a_plot_shows_each_row(figures, tmp_path) -> None:
    plot(ROWS, figures, tmp_path / "plot.png")
    from likeness.media import read_picture

    picture = read_picture(tmp_path / "plot.png")
    dark = (picture == (20, 50, 110)).all(-1).any(1)
    assert np.diff(dark.astype(int)).clip(min=0).sum() == len(ROWS)


def test_correlation_by_hand() -> None:
    x = np.linspace(-1, 1, 50)
    assert correlation(x, 3 * x + 1)[0] == 1.0 and correlation(x, -x)[0] == -1.0
    mean, low, high = correlation(x, np.random.default_rng(0).normal(size=50))
    assert low < mean < high and low < 0.3 and high > -0.3
