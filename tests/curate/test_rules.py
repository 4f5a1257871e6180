"""The rules: the paper's limits, each reason by the smallest change to a sound clip, and the laws that verdicts keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.curate.config import CurationConfig
from likeness.curate.rules import (
    NOT_IN_TOP,
    QUALITY,
    REASONS,
    RULES,
    common_count,
    decide,
    judge_quality,
    rank,
    score,
    unchecked,
)
from likeness.curate.types import KEPT, Measures

CONFIG = CurationConfig()
ALL_CLIPS = CONFIG.override(["thresholds.quality_of=all clips"])
SOUND = Measures(
    width=640, height=360, fps=25.0, duration_s=5.0, rotation=0, num_expected=10, num_delivered=10, num_corrupt=0,
    num_people=(1,) * 10, cosines=((0.8,) * 9,), areas=((0.1,) * 10,), flow=0.1, motion=0.02, aesthetics=5.0,
    bridge=0.8,
)  # fmt: skip
CAPTION = "A man talks."


def test_a_sound_clip_is_kept() -> None:
    assert decide(SOUND, CONFIG, CAPTION) is KEPT
    assert unchecked(SOUND, CONFIG, CAPTION) == ()


@pytest.mark.parametrize(
    ("reason", "caption", "changes", "value", "threshold"),
    [
        ("no person in caption", "A car.", {}, 0, 1),
        ("too long", CAPTION, {"num_expected": 241, "num_delivered": 0, "num_people": ()}, 241, 240),
        ("too short", CAPTION, {"duration_s": 0.9}, 0.9, 1),
        ("corrupt", CAPTION, {"num_corrupt": 1}, 0.1, 0),
        ("corrupt", CAPTION, {"num_delivered": 8}, 0.2, 0),
        ("no face", CAPTION, {"num_people": (0,) * 8 + (1,) * 2}, 0, 1),
        ("people count varies", CAPTION, {"num_people": (1,) * 6 + (2,) * 4}, 0.4, 0.3),
        ("too many people", CAPTION, {"num_people": (4,) * 10}, 4, 3),
        ("identity varies", CAPTION, {"cosines": ((0.8,) * 6 + (0.4,) * 3,)}, 1 / 3, 0.3),
        ("identity changes", CAPTION, {"bridge": 0.2}, 0.2, 0.25),
        ("face too small", CAPTION, {"areas": ((0.039,) * 10,)}, 0.039, 0.04),
        ("face too large", CAPTION, {"areas": ((0.95,) * 10,)}, 0.95, 0.9),
    ],
)
def test_each_reason_has_its_number(reason, caption, changes, value, threshold) -> None:
    verdict = decide(replace(SOUND, **changes), ALL_CLIPS, caption)
    assert (verdict.keep, verdict.reason) == (False, reason)
    if reason in QUALITY:
        assert decide(replace(SOUND, **changes), CONFIG, caption) is KEPT
        assert judge_quality(CONFIG)(replace(SOUND, **changes), caption) == verdict
        assert judge_quality(ALL_CLIPS)(replace(SOUND, **changes), caption) is KEPT, "there is nothing left to decide"
    else:
        assert decide(replace(SOUND, **changes), CONFIG, caption) == verdict
    assert verdict.value == pytest.approx(value) and verdict.threshold == pytest.approx(threshold)
    assert reason in REASONS


@pytest.mark.parametrize(
    "changes",
    [
        {"num_people": (1,) * 7 + (2,) * 3},  # 30 % exactly
        {"cosines": ((0.8,) * 7 + (0.4,) * 3,)},
        {"cosines": ((0.5,) * 9,), "bridge": 0.25},
        {"areas": ((0.04,) * 10,)},
        {"areas": ((0.9,) * 10,)},
        {"duration_s": 1.0},
        {"num_people": (3,) * 10},
    ],
)
def test_the_limits_themselves_are_kept(changes) -> None:
    """The paper says "more than 30 %", "below 0.5", "less than 4 %" and "more than 90 %"."""
    assert decide(replace(SOUND, **changes), ALL_CLIPS, CAPTION).keep


def test_the_limits_are_the_papers() -> None:
    limits = {rule.reason: rule.limit(CONFIG) for rule in RULES if rule.section}
    assert limits == {
        "no person in caption": 1, "no face": 1, "people count varies": 0.3, "too many people": 3, "identity varies": 0.3,
        "face too small": 0.04, "face too large": 0.9,
    }  # fmt: skip
    assert CONFIG.thresholds.min_cosine == 0.5 and CONFIG.measuring.samples_per_second == 2
    assert len(set(REASONS)) == len(REASONS) == len(RULES) + 2


def test_every_setting_of_a_rule_exists_and_moves_its_limit() -> None:
    for rule in RULES:
        if rule.setting:
            changed = CONFIG.override([f"{rule.setting}={rule.limit(CONFIG) / 2 if rule.limit(CONFIG) < 2 else 2}"])
            if rule.limit(CONFIG):
                assert rule.limit(changed) != rule.limit(CONFIG)


def test_what_cannot_be_checked_is_said_and_not_held_against_a_clip() -> None:
    bare = replace(SOUND, cosines=((),), bridge=None)
    assert decide(bare, CONFIG, None) is KEPT
    assert unchecked(bare, CONFIG, None) == ("no person in caption", "identity varies", "identity changes")


def test_denominators_can_be_chosen() -> None:
    missed = replace(SOUND, num_people=(0, 0, 2, 2) + (1,) * 6)
    assert decide(missed, CONFIG).reason == "people count varies"  # 4 of 10
    assert decide(missed, CONFIG.override(["thresholds.count_over=samples with faces"])).keep  # 2 of 8
    broken = replace(SOUND, cosines=((0.4, 0.8, 0.8),), areas=((0.1,) * 4,))
    assert decide(broken, CONFIG).reason == "identity varies"  # 1 of 3
    assert decide(broken, CONFIG.override(["thresholds.identity_over=samples"])).keep  # 1 of 4


def test_areas_of_everybody_or_of_each() -> None:
    three = replace(SOUND, num_people=(3,) * 10, cosines=((0.8,),) * 3, areas=((0.02,), (0.03,), (0.3,)))
    assert decide(three, ALL_CLIPS).keep
    verdict = decide(three, ALL_CLIPS.override(["thresholds.area_of=each"]))
    assert (verdict.reason, verdict.value) == ("face too small", 0.02)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.randoms())
def test_the_common_count_is_a_mode_whatever_the_order(counts, random) -> None:
    mixed = list(counts)
    random.shuffle(mixed)
    most = max(counts.count(count) for count in counts)
    modes = {count for count in counts if counts.count(count) == most}
    assert common_count(counts, "more") == common_count(mixed, "more") == max(modes)
    assert common_count(counts, "fewer") == common_count(mixed, "fewer") == min(modes)
    assert common_count([]) == 0


share = st.floats(0, 1)


@st.composite
def clips(draw):
    people = draw(st.lists(st.integers(0, 4), min_size=1, max_size=8))
    tracks = min(common_count(people), 3)
    cosines = st.lists(st.floats(-1, 1), max_size=4).map(tuple)
    areas = st.lists(share, min_size=1, max_size=4).map(tuple)
    return replace(
        SOUND,
        duration_s=draw(st.floats(0, 20)),
        num_corrupt=draw(st.integers(0, 2)),
        num_people=tuple(people),
        cosines=tuple(draw(cosines) for _ in range(tracks)),
        areas=tuple(draw(areas) for _ in range(tracks)),
        flow=draw(share),
    )


def of_all_clips(name: str, limit: float) -> CurationConfig:
    """With one threshold changed, and no rule that decides about pairs alone."""
    return replace(ALL_CLIPS, thresholds=replace(ALL_CLIPS.thresholds, **{name: limit}))


@given(clips(), st.sampled_from(["max_corrupt", "max_other_count", "max_breaks", "max_area"]), share, share)
def test_raising_a_largest_value_keeps_no_less(clip, name, low, high) -> None:
    low, high = sorted((low, high))
    if name == "max_area":
        low = max(low, 0.04)
        high = max(low, high)
    strict, loose = (of_all_clips(name, limit) for limit in (low, high))
    assert decide(clip, loose).keep >= decide(clip, strict).keep


@given(clips(), st.sampled_from(["min_duration_s", "min_area", "min_cosine"]), share, share)
def test_raising_a_least_value_never_keeps_more(clip, name, low, high) -> None:
    low, high = (0.9 * limit for limit in sorted((low, high)))
    loose, strict = (of_all_clips(name, limit) for limit in (low, high))
    assert decide(clip, strict).keep <= decide(clip, loose).keep


@given(clips(), st.randoms())
def test_a_verdict_names_a_rule_that_fails_and_people_have_no_order(clip, random) -> None:
    verdict = decide(clip, ALL_CLIPS)
    rule = next((rule for rule in RULES if rule.reason == verdict.reason), None)
    assert (rule is None) == verdict.keep
    if rule is not None:
        assert verdict.value is not None and verdict.threshold is not None
        assert (verdict.value < verdict.threshold) == (rule.keeps == "at least") and verdict.value != verdict.threshold
    order = list(range(len(clip.areas)))
    random.shuffle(order)
    other = replace(clip, cosines=tuple(clip.cosines[i] for i in order), areas=tuple(clip.areas[i] for i in order))
    assert decide(other, ALL_CLIPS).reason == verdict.reason


@given(
    st.lists(st.tuples(st.integers(0, 999), st.sampled_from([0.0, 0.5, 1.0])), unique_by=lambda row: row[0]),
    st.integers(1, 6),
)
def test_the_best_are_kept_whatever_the_order(rows, top) -> None:
    rows = [(f"{key:04d}", value) for key, value in rows]
    forwards = dict(zip([key for key, _ in rows], rank([k for k, _ in rows], [v for _, v in rows], top), strict=True))
    backwards = rank([k for k, _ in rows[::-1]], [v for _, v in rows[::-1]], top)
    assert backwards == [forwards[key] for key, _ in rows[::-1]]
    expected = {key for key, _ in sorted(rows, key=lambda row: (-row[1], row[0]))[:top]}
    assert {key for key, verdict in forwards.items() if verdict.keep} == expected
    assert {verdict.reason for verdict in forwards.values()} <= {"", NOT_IN_TOP}
    assert all(verdict.keep for verdict in rank([k for k, _ in rows], [v for _, v in rows], None))


def test_scores_are_weighted_and_bounded() -> None:
    ranking = CONFIG.ranking
    assert score(SOUND, ranking) == pytest.approx(0.5 + 0.5 * 0.2 + 0.5 * 0.1)
    assert score(replace(SOUND, aesthetics=None), ranking) == pytest.approx(0.15)
    assert score(replace(SOUND, flow=9.0, motion=9.0, aesthetics=99.0), ranking) == pytest.approx(2.0)
