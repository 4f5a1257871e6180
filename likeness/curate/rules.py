"""What a clip must hold to: one table, from which verdicts, reports and documentation follow.

| reason                  | what is compared                                                      | limit                          | Concat-ID |
|-------------------------|-----------------------------------------------------------------------|--------------------------------|-----------|
| no person in caption    | human terms in the caption                                            | at least 1                     | 4.2       |
| too long                | samples that the clip would give                                      | ``measuring.max_samples``      | -         |
| too short               | duration, s                                                           | ``thresholds.min_duration_s``  | -         |
| corrupt                 | share of samples that are damaged or missing                          | ``thresholds.max_corrupt``     | -         |
| no face                 | the common person count: that of most samples                         | at least 1                     | 4.2       |
| people count varies     | share of samples with another count                                   | ``thresholds.max_other_count`` 30 % | 4.2  |
| too many people         | the common person count                                               | ``measuring.max_people`` 3     | B.1       |
| identity varies         | share of consecutive faces of one person with a cosine below 0.5      | ``thresholds.max_breaks`` 30 % | 4.2       |
| identity changes        | best cosine across a moment, where it is least                        | ``thresholds.min_bridge`` 0.25 | -         |
| face too small          | share of the frame that faces cover                                   | ``thresholds.min_area`` 4 %    | 4.2       |
| face too large          | the same                                                              | ``thresholds.max_area`` 90 %   | 4.2       |
| not in top K            | weighted sum of aesthetics, optical flow and motion                   | ``ranking.top``                | 4.2       |
| leak                    | cosine to a face of a benchmark, or somebody's eyes                   | ``pairing.leak`` 0.45          | A.1       |

The paper filters and ranks its trade-off pairs alone by area and by score, so these three rules decide which of them are used and
not which clips are kept, unless ``thresholds.quality_of`` is "all clips".

Rules are tried in this order and the first that fails gives the reason. Each looks at one clip alone, so verdicts depend on
nothing else, and a changed threshold is decided again from stored measures; only the last two compare clips, with one another
and with the benchmark that ``likeness curate leaks`` was given. A rule without its measure (no caption, a face pack without a recogniser) does not apply, and :func:`unchecked` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import fsum
from typing import Literal

import numpy as np

from likeness.curate.captions import names_a_person
from likeness.curate.config import CurationConfig, Ranking, Tie
from likeness.curate.types import KEPT, Measures, Verdict

# The number that a rule compares, from a clip's measures and its caption; None where the rule does not apply.
Value = Callable[[Measures, str | None, CurationConfig], float | None]


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        reason: short name of what is wrong with a clip that fails.
        keeps: which side of the limit is kept; the limit itself is.
        value: the number that is compared.
        limit: the number it is compared with.
        setting: path of the limit in the configuration; empty where it is fixed.
        section: of the paper; empty for a rule of this package.
        is_quality: whether it decides what ``thresholds.quality_of`` says.
    """

    reason: str
    keeps: Literal["at least", "at most"]
    value: Value
    limit: Callable[[CurationConfig], float]
    setting: str = ""
    section: str = ""
    is_quality: bool = False


def common_count(num_people: Sequence[int], tie: Tie = "more") -> int:
    """The person count of a clip: the count that most samples show (section 4.2, footnote); 0 without samples.

    Args:
        tie: which of several equally common counts holds.
    """
    return _common_count(tuple(num_people), tie)


@lru_cache(4096)  # three rules ask for it, and most clips show one person throughout
def _common_count(num_people: tuple[int, ...], tie: Tie) -> int:
    times = {count: num_people.count(count) for count in set(num_people)}
    most = max(times.values(), default=0)
    common = [count for count in times if times[count] == most]
    return (max if tie == "more" else min)(common, default=0)


def _human_terms(_: Measures, caption: str | None, config: CurationConfig) -> float | None:
    if not config.thresholds.human_terms:
        return None
    found = names_a_person(caption, config.thresholds.extra_terms)
    return None if found is None else float(found)


def _samples(measures: Measures, _: str | None, __: CurationConfig) -> float:
    return float(measures.num_expected)


def _duration(measures: Measures, _: str | None, __: CurationConfig) -> float:
    return measures.duration_s


def _corrupt(measures: Measures, _: str | None, __: CurationConfig) -> float:
    whole = measures.num_delivered - measures.num_corrupt
    return (measures.num_expected - whole) / max(measures.num_expected, 1)


def _people(measures: Measures, _: str | None, config: CurationConfig) -> float:
    return float(common_count(measures.num_people, config.measuring.tie))


def _other_count(measures: Measures, _: str | None, config: CurationConfig) -> float:
    people = measures.num_people
    common = common_count(people, config.measuring.tie)
    if config.thresholds.count_over == "samples with faces":
        people = [count for count in people if count]
    return (len(people) - people.count(common)) / len(people) if people else 0.0


def _breaks(measures: Measures, _: str | None, config: CurationConfig) -> float | None:
    """Of the person whose identity varies most."""
    thresholds = config.thresholds
    worst = None
    for cosines, areas in zip(measures.cosines, measures.areas, strict=True):
        if cosines:
            out_of = len(areas) if thresholds.identity_over == "samples" else len(cosines)
            share = len([cosine for cosine in cosines if cosine < thresholds.min_cosine]) / out_of
            worst = share if worst is None else max(worst, share)
    return worst


def _bridge(measures: Measures, _: str | None, __: CurationConfig) -> float | None:
    return measures.bridge


def _areas(measures: Measures) -> list[float]:
    """Each person's mean share of the frame; exact sums, so that a value on the limit stays on it."""
    return [fsum(areas) / len(areas) for areas in measures.areas if areas]


def _smallest_area(measures: Measures, _: str | None, config: CurationConfig) -> float | None:
    areas = _areas(measures)
    if not areas:
        return None
    return fsum(areas) if config.thresholds.area_of == "everybody" else min(areas)


def _largest_area(measures: Measures, _: str | None, config: CurationConfig) -> float | None:
    areas = _areas(measures)
    if not areas:
        return None
    return fsum(areas) if config.thresholds.area_of == "everybody" else max(areas)


def _one(_: CurationConfig) -> float:
    return 1.0


# In the order in which they are tried: what costs least and explains most comes first.
RULES: tuple[Rule, ...] = (
    Rule("no person in caption", "at least", _human_terms, _one, "", "4.2"),
    Rule("too long", "at most", _samples, lambda c: c.measuring.max_samples, "measuring.max_samples"),
    Rule("too short", "at least", _duration, lambda c: c.thresholds.min_duration_s, "thresholds.min_duration_s"),
    Rule("corrupt", "at most", _corrupt, lambda c: c.thresholds.max_corrupt, "thresholds.max_corrupt"),
    Rule("no face", "at least", _people, _one, "", "4.2"),
    Rule(
        "people count varies",
        "at most",
        _other_count,
        lambda c: c.thresholds.max_other_count,
        "thresholds.max_other_count",
        "4.2",
    ),
    Rule("too many people", "at most", _people, lambda c: c.measuring.max_people, "measuring.max_people", "B.1"),
    Rule("identity varies", "at most", _breaks, lambda c: c.thresholds.max_breaks, "thresholds.max_breaks", "4.2"),
    Rule("identity changes", "at least", _bridge, lambda c: c.thresholds.min_bridge, "thresholds.min_bridge"),
    Rule(
        "face too small",
        "at least",
        _smallest_area,
        lambda c: c.thresholds.min_area,
        "thresholds.min_area",
        "4.2",
        is_quality=True,
    ),
    Rule(
        "face too large",
        "at most",
        _largest_area,
        lambda c: c.thresholds.max_area,
        "thresholds.max_area",
        "4.2",
        is_quality=True,
    ),
)
NOT_IN_TOP = "not in top K"
LEAK = "leak"
QUALITY: tuple[str, ...] = (*(rule.reason for rule in RULES if rule.is_quality), NOT_IN_TOP)
REASONS: tuple[str, ...] = (*(rule.reason for rule in RULES), NOT_IN_TOP, LEAK)


def decide(measures: Measures, config: CurationConfig, caption: str | None = None) -> Verdict:
    """Whether a clip is kept, and if not, why: the first rule of the table that it fails, of those that decide about clips.

    Args:
        caption: what is said of the clip; None if nothing is.
    """
    return judge(config)(measures, caption)


def is_of_pairs(config: CurationConfig) -> bool:
    """Whether the rules about quality decide about trade-off pairs alone."""
    return config.thresholds.quality_of == "trade-off pairs"


def judge(config: CurationConfig) -> Callable[[Measures, str | None], Verdict]:
    """:func:`decide` for many clips, with the limits looked up once."""
    return _first_failed([rule for rule in RULES if not (rule.is_quality and is_of_pairs(config))], config)


def judge_quality(config: CurationConfig) -> Callable[[Measures, str | None], Verdict]:
    """For clips that are kept: whether they may be in trade-off pairs, and if not, why."""
    return _first_failed([rule for rule in RULES if rule.is_quality and is_of_pairs(config)], config)


def _first_failed(rules: Sequence[Rule], config: CurationConfig) -> Callable[[Measures, str | None], Verdict]:
    looked_up = [(rule.value, float(rule.limit(config)), rule.keeps == "at least", rule.reason) for rule in rules]

    def decide_one(measures: Measures, caption: str | None) -> Verdict:
        for value_of, limit, is_least, reason in looked_up:
            value = value_of(measures, caption, config)
            if value is not None and (value < limit if is_least else value > limit):
                return Verdict(keep=False, reason=reason, value=value, threshold=limit)
        return KEPT

    return decide_one


def unchecked(measures: Measures, config: CurationConfig, caption: str | None = None) -> tuple[str, ...]:
    """Reasons whose rules could not be applied to a clip for want of a measure; they are counted, not held against it."""
    return tuple(rule.reason for rule in RULES if rule.value(measures, caption, config) is None)


def score(measures: Measures, ranking: Ranking) -> float:
    """The weighted sum that ranks clips (section 4.2); each part in 0..1 before its weight. Without aesthetics that part is 0."""
    return (
        ranking.aesthetics * min((measures.aesthetics or 0.0) / 10.0, 1.0)
        + ranking.flow * min(measures.flow / ranking.full_flow, 1.0)
        + ranking.motion * min(measures.motion / ranking.full_motion, 1.0)
    )


def rank(keys: Sequence[str], scores: Sequence[float] | np.ndarray, top: int | None) -> list[Verdict]:
    """The verdicts of clips that passed every other rule: the ``top`` best are kept, equal scores by the order of their keys.

    Args:
        keys: N names of clips, each once.
        scores: N numbers of :func:`score`.

    Returns:
        N verdicts in the given order; ``threshold`` is the score of the last clip that is kept.
    """
    if top is None or len(keys) <= top:
        return [KEPT] * len(keys)
    values = np.asarray(scores, np.float64)  # [N]
    order = np.lexsort((np.asarray(keys), -values))  # the last key of lexsort is the first to sort by
    limit = float(values[order[top - 1]])
    verdicts = [KEPT] * len(keys)
    for index in order[top:]:
        verdicts[index] = Verdict(keep=False, reason=NOT_IN_TOP, value=float(values[index]), threshold=limit)
    return verdicts
