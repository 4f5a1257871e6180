"""Intervals over identities: against a plain computation, and against what they promise."""

import numpy as np
import pytest
from evaluation_parts import made_up_report, row
from hypothesis import given
from hypothesis import strategies as st

from likeness.errors import UserError
from likeness.evaluate.statistics import RESAMPLES, bootstrap, table


def _plainly(values, groups, resamples=2000):
    """The same interval by a loop that draws people one by one."""
    random = np.random.default_rng(5)
    names = sorted(set(groups))
    means = []
    for _ in range(resamples):
        drawn = [names[place] for place in random.integers(len(names), size=len(names))]
        taken = [value for name in drawn for value, group in zip(values, groups, strict=True) if group == name]
        means.append(np.mean(taken))
    return np.quantile(means, [0.025, 0.975])


def test_interval_equals_a_plain_bootstrap():
    random = np.random.default_rng(0)
    groups = [f"p{number}" for number in range(12) for _ in range(1 + number % 3)]
    values = random.normal(size=len(groups)) + np.array([int(group[1:]) / 4 for group in groups])
    found = bootstrap(values, groups)
    low, high = _plainly(values, groups)
    assert found.mean == pytest.approx(values.mean())
    assert (found.num, found.num_groups) == (len(values), 12)
    assert found.low == pytest.approx(low, abs=0.06)
    assert found.high == pytest.approx(high, abs=0.06)


def test_videos_of_one_person_do_not_narrow_the_interval():
    """Ten copies of each person's video say nothing about other people."""
    values = np.random.default_rng(1).normal(size=20)
    once = bootstrap(values, [f"p{number}" for number in range(20)])
    often = bootstrap(np.repeat(values, 10), [f"p{number}" for number in range(20) for _ in range(10)])
    naive = bootstrap(np.repeat(values, 10), [f"v{number}" for number in range(200)])
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert naive.high - naive.low < 0.5 * (often.high - often.low)


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(2)
    groups = [f"p{number}" for number in range(40) for _ in range(3)]
    held = 0
    for _ in range(200):
        people = random.normal(size=40)
        found = bootstrap(np.repeat(people, 3) + 0.1 * random.normal(size=120), groups, resamples=500)
        held += found.low <= 0 <= found.high
    assert 0.89 <= held / 200 <= 0.99


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.sampled_from("abcd")), min_size=1, max_size=30),
    st.integers(0, 2**31),
)
def test_laws_of_an_interval(pairs, seed):
    values, groups = [value for value, _ in pairs], [group for _, group in pairs]
    found = bootstrap(values, groups, resamples=50, seed=seed)
    assert found == bootstrap(values, groups, resamples=50, seed=seed)
    assert min(values) - 1e-9 <= found.mean <= max(values) + 1e-9
    assert (found.low is None) == (len(set(groups)) == 1)
    if found.low is not None:
        assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_blocks_of_draws_give_as_many_means(monkeypatch):
    from likeness.evaluate import statistics

    values, groups = np.arange(30.0), [f"p{number}" for number in range(30)]
    whole = bootstrap(values, groups)
    monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", 30 * 7)  # 7 draws a block, which does not divide 10,000
    assert RESAMPLES % 7
    assert bootstrap(values, groups) == whole


@pytest.mark.parametrize(("values", "groups"), [([], []), ([1.0], []), ([1.0, 2.0], ["a"])])
def test_wrong_lengths_are_refused(values, groups):
    with pytest.raises(UserError, match="one group a value"):
        bootstrap(values, groups)


def test_table_counts_what_has_no_number_and_separates_sizes(tmp_path):
    rows = [
        row("ann-1", 0.5),
        row("ann-2", 0.7),
        row("bob-1", 0.3),
        row("bob-2", 9.0, width=128),
        row("eve-1", None),
        row("eve-2", 0.0, status="failed", values={}, reason="no memory"),
        row("eve-3", 0.0, status="missing", values={}, width=0, height=0, num_frames=0),
    ]
    small, large = table(made_up_report(tmp_path / "run", rows))
    assert (small.what.size, large.what.size) == ("64 x 48 px, 17 frames", "128 x 48 px, 17 frames")
    assert small.interval.mean == pytest.approx(0.5)
    assert (small.interval.num, small.interval.num_groups, small.num_without) == (3, 2, 3)
    assert (large.interval.mean, large.interval.low, large.num_without) == (9.0, None, 3)
    assert small.direction == "higher"
