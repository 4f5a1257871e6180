"""A curation's configuration: strict, reversible, with the paper's numbers; a mistake is named with its key."""

from __future__ import annotations

import json

import pytest

from likeness.curate.config import CurationConfig
from likeness.errors import UserError

CONFIG = CurationConfig()


def test_it_survives_json() -> None:
    changed = CONFIG.override(["ranking.top=50000", 'thresholds.extra_terms=["Frau"]', "pairing.cross=[0.6,0.8]"])
    assert CurationConfig.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed != CONFIG
    assert changed.ranking.top == 50_000 and changed.thresholds.extra_terms == ("Frau",)
    assert CurationConfig.from_dict({}) == CONFIG


def test_the_defaults_are_the_papers() -> None:
    """Section 4.2, appendices A.1 and B.1."""
    assert (CONFIG.measuring.samples_per_second, CONFIG.measuring.references, CONFIG.measuring.max_people) == (2, 5, 3)
    pairing = CONFIG.pairing
    assert (pairing.cross, pairing.tradeoff, pairing.several) == ((0.7, 0.9), (0.9, 0.99), (0.87, 0.97))
    assert (pairing.min_matched, pairing.leak) == (2, 0.45)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("thresholds.max_breaks", "key=value"),
        ("thresholds.breaks=0.2", "there is no 'breaks'"),
        ("limits.max_breaks=0.2", "there is no 'limits'"),
        ("thresholds.max_breaks=30", "thresholds.max_breaks was given as 30.0; it is a share"),
        ("thresholds.max_breaks=many", "thresholds.max_breaks was given as 'many'"),
        ("thresholds.min_cosine=1.5", "a cosine is in -1..1"),
        ("thresholds.min_area=0.95", "no clip could be kept"),
        ("thresholds.min_duration_s=-1", "0 or more"),
        ("thresholds.count_over=frames", "thresholds.count_over"),
        ("thresholds.human_terms=1", "thresholds.human_terms was given as 1"),
        ("measuring.tie=most", "measuring.tie"),
        ("measuring.samples_per_second=0", "greater than 0"),
        ("measuring.references=0", "1 or more"),
        ("measuring.flow_height=8", "32 or more"),
        ("measuring.clip=folder", "Set both or neither"),
        ("ranking.top=0", "1 or more"),
        ("ranking.full_flow=0", "greater than 0"),
        ("pairing.cross=[0.9,0.7]", "the lower first"),
        ("pairing.cross=[0.9]", "2 entries"),
        ("pairing.leak=2", "a cosine is in -1..1"),
        ("pairing.min_matched=0", "1 or more"),
    ],
)
def test_a_wrong_value_is_named(setting: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        CONFIG.override([setting])
