"""Runs by pairs: differences worked out by hand, and everything that must not be mixed."""

import pytest
from evaluation_parts import Brightness, made_up_report, row

from likeness.errors import UserError
from likeness.evaluate.compare import compare

IDS = [f"{name}-{number}" for name in ("ann", "bob", "cid", "dan", "eve", "flo") for number in (0, 1)]


def _run(folder, values, **others):
    return made_up_report(folder, [row(id, value, **others) for id, value in values.items()])


@pytest.fixture
def first(tmp_path):
    return _run(tmp_path / "first", {id: 0.1 * place for place, id in enumerate(IDS)})


def test_a_constant_gain_is_found_exactly(first, tmp_path):
    better = _run(tmp_path / "second", {id: 0.1 * place + 0.25 for place, id in enumerate(IDS)})
    comparison = compare([first, better])
    (line,) = comparison.lines
    (paired,) = line.against_first
    assert comparison.names == ("first", "second")
    assert [interval.mean for interval in line.means] == pytest.approx([0.55, 0.8])
    # However different the people, each pair differs by the same: the interval has no width.
    assert (paired.difference.mean, paired.difference.low, paired.difference.high) == pytest.approx((0.25, 0.25, 0.25))
    assert (paired.win_rate.mean, paired.verdict) == (1.0, "higher")


def test_win_rate_counts_ties_half(first, tmp_path):
    gains = dict(zip(IDS, [1, 1, 1, 0, 0, 0, -1, -1, -1, -1, -1, -1], strict=True))
    other = _run(tmp_path / "second", {id: 0.1 * place + gains[id] for place, id in enumerate(IDS)})
    paired = compare([first, other]).lines[0].against_first[0]
    assert paired.win_rate.mean == pytest.approx((3 + 1.5) / 12)
    assert paired.difference.mean == pytest.approx(-3 / 12)
    assert paired.verdict == ""


def test_lower_wins_where_lower_is_better(tmp_path):
    metric = Brightness()
    metric.directions = {"level": "lower"}
    rows = [[row(id, value) for id in IDS] for value in (0.5, 0.2)]
    one, two = (made_up_report(tmp_path / name, r, metrics=[metric]) for name, r in zip("ab", rows, strict=True))
    paired = compare([one, two]).lines[0].against_first[0]
    assert (paired.difference.mean, paired.win_rate.mean) == pytest.approx((-0.3, 1.0))


def test_a_value_without_a_better_way_has_no_winner(tmp_path):
    metric = Brightness()
    metric.directions = {}
    one, two = (made_up_report(tmp_path / name, [row(id, 0.5) for id in IDS], metrics=[metric]) for name in "ab")
    assert compare([one, two]).lines[0].against_first[0].win_rate is None


def test_only_rows_with_a_number_in_every_run_count(first, tmp_path):
    rows = [row(id, 5.0) for id in IDS[:4]] + [row(IDS[4], None), row("new-0", 100.0)]
    comparison = compare([first, made_up_report(tmp_path / "second", rows)])
    (line,) = comparison.lines
    assert [interval.num for interval in line.means] == [4, 4]
    assert line.means[0].mean == pytest.approx(0.15)
    assert (comparison.num_shared, comparison.num_unshared) == (5, 8)


def test_a_metric_that_one_run_lacks_is_named(first, tmp_path):
    rows = [row(id, 1.0) for id in IDS] + [row(id, 2.0, metric="contrast") for id in IDS]
    second = made_up_report(tmp_path / "second", rows, metrics=[Brightness(), Brightness("contrast")])
    comparison = compare([first, second])
    assert comparison.left_out == {"contrast": ("second",)}
    assert [line.metric for line in comparison.lines] == ["brightness"]


def test_three_runs_stand_against_the_first(first, tmp_path):
    others = [_run(tmp_path / name, {id: 0.1 * place + gain for place, id in enumerate(IDS)})
              for name, gain in (("second", 1.0), ("third", -1.0))]  # fmt: skip
    line = compare([first, *others]).lines[0]
    assert [round(paired.difference.mean, 6) for paired in line.against_first] == [1.0, -1.0]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"protocol": "strict"}, ["measured with own in first", "with strict in second", "same protocol"]),
        ({"weights": "abcd"}, ["the weights (none) in first", "the weights abcd in second", "same weights"]),
        ({"width": 128}, ["64 x 48 px, 17 frames in first", "128 x 48 px, 17 frames in second", "--any-size"]),
        ({"num_frames": 49}, ["17 frames in first", "49 frames in second", "--any-size"]),
    ],
)
def test_unlike_numbers_are_refused_by_name(first, tmp_path, others, words):
    second = _run(tmp_path / "second", dict.fromkeys(IDS, 1.0), **others)
    with pytest.raises(UserError) as caught:
        compare([first, second])
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_run_that_mixes_within_itself_is_refused(tmp_path):
    runs = [
        made_up_report(tmp_path / name, [row(id, 1.0, weights="ab" if id < "c" else "cd") for id in IDS])
        for name in ("first", "second")
    ]
    with pytest.raises(UserError, match="the weights ab in"):
        compare(runs)


def test_sizes_are_mixed_on_request_and_named(first, tmp_path):
    second = _run(tmp_path / "second", dict.fromkeys(IDS, 1.0), width=128)
    assert compare([first, second], any_size=True).lines[0].sizes == (
        "64 x 48 px, 17 frames",
        "128 x 48 px, 17 frames",
    )


def test_other_benchmarks_are_refused(first, tmp_path):
    with pytest.raises(UserError, match="no row in common"):
        compare([first, _run(tmp_path / "a", {"zoe-0": 1.0})])
    prompts = dict.fromkeys(IDS, "a man sleeps")
    other = made_up_report(tmp_path / "b", [row(id, 1.0) for id in IDS], prompts=prompts)
    with pytest.raises(UserError, match="ann-0 asks for different prompts in first and in b"):
        compare([first, other])
    other = made_up_report(tmp_path / "c", [row(id, 1.0) for id in IDS], groups=dict.fromkeys(IDS, "one"))
    with pytest.raises(UserError, match="different people"):
        compare([first, other])


def test_runs_of_one_name_are_told_apart_and_twice_the_same_is_refused(first, tmp_path):
    other = _run(tmp_path / "elsewhere" / "first", dict.fromkeys(IDS, 1.0))
    assert compare([first, other]).names == (f"{tmp_path.name}/first", "elsewhere/first")
    with pytest.raises(UserError, match="given twice"):
        compare([first, first])
    with pytest.raises(UserError, match="two or more"):
        compare([first])
