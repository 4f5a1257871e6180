import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.errors import UserError
from likeness.method import (
    CONCAT_ID,
    CONCAT_ID_WAN,
    METHODS,
    ST_DRC,
    Guidance,
    Method,
    Stream,
    merge_streams,
    without_references,
)

scales = st.floats(-20, 20).map(lambda value: round(value, 3))
kinds = st.sampled_from([Guidance(kind="joint", text=5.0), Guidance(kind="decoupled", text=5.0, reference=7.5)])


def test_published_streams() -> None:
    assert ST_DRC.guidance.streams() == (
        Stream(-4.0, False, False),
        Stream(-2.5, True, False),
        Stream(7.5, True, True),
    )
    assert CONCAT_ID_WAN.guidance.streams() == (Stream(-4.0, False, True), Stream(5.0, True, True))


def test_a_reference_scale_decouples_a_joint_method() -> None:
    assert CONCAT_ID_WAN.guidance.streams(5.0, 7.5) == ST_DRC.guidance.streams()


@given(kinds, scales, st.none() | scales)
def test_weights_sum_to_one(guidance: Guidance, text: float, reference: float | None) -> None:
    for streams in (guidance.streams(text, reference), without_references(guidance.streams(text, reference))):
        assert sum(stream.weight for stream in streams) == pytest.approx(1.0)
        assert all(stream.weight != 0 for stream in streams)
        assert len({(stream.text, stream.reference) for stream in streams}) == len(streams)


def test_needless_streams_are_not_run() -> None:
    assert CONCAT_ID_WAN.guidance.streams(1.0) == (Stream(1.0, True, True),)
    assert ST_DRC.guidance.streams(5.0, 5.0) == (Stream(-4.0, False, False), Stream(5.0, True, True))
    assert without_references(ST_DRC.guidance.streams()) == (Stream(-4.0, False, False), Stream(5.0, True, False))


@given(
    st.permutations(
        [Stream(-4.0, False, False), Stream(-2.5, True, False), Stream(3.5, True, True), Stream(4.0, True, True)]
    )
)
def test_merging_does_not_depend_on_order(streams: list[Stream]) -> None:
    assert merge_streams(streams) == ST_DRC.guidance.streams()


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_scales_are_finite(scale: float) -> None:
    with pytest.raises(UserError, match="finite"):
        ST_DRC.guidance.streams(scale)
    with pytest.raises(UserError, match="finite"):
        CONCAT_ID.guidance.streams(5.0, scale)


@pytest.mark.parametrize("name", METHODS)
def test_methods_survive_json(name: str) -> None:
    assert Method.from_dict(json.loads(json.dumps(METHODS[name].to_dict()))) == METHODS[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "unknown key"),
        ({"placement": {"rows": 1, "depth": 2}}, "method.placement has the unknown key.s. depth"),
        ({"placement": 3}, "method.placement was given as 3"),
        ({"placement": {"rows": -1}}, "negative"),
        ({"text_dropout": 1.5}, "0..1"),
        ({"text_dropout": "often"}, "not a complete Method"),
        ({"dropped_reference": "gone"}, "'absent', 'zeros'"),
        ({"guidance": {"kind": "decoupled", "text": 5.0}}, "guidance.reference"),
        ({"guidance": {"kind": "joint", "text": 5.0, "reference": 7.5}}, "decoupled"),
        ({"max_references": 0}, "at least 1"),
        ({"flipped_kinds": ["hat"]}, "flipped_kinds was given as 'hat'"),
    ],
)
def test_wrong_methods_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Method.from_dict({**CONCAT_ID.to_dict(), **change})


def test_what_is_flipped_survives_json_and_files_from_before_it_still_read() -> None:
    flipped = replace(CONCAT_ID, flipped_kinds=("clothing",))
    values = json.loads(json.dumps(flipped.to_dict()))
    assert values["flipped_kinds"] == ["clothing"] and Method.from_dict(values) == flipped
    del values["flipped_kinds"]
    assert Method.from_dict(values) == CONCAT_ID and values == CONCAT_ID.to_dict()


def test_a_missing_field_is_refused() -> None:
    values = CONCAT_ID.to_dict()
    del values["placement"]
    with pytest.raises(UserError, match="placement"):
        Method.from_dict(values)


def test_an_ablation_is_a_replace() -> None:
    assert replace(ST_DRC, augment=None) != ST_DRC


def test_references_follow_the_published_order() -> None:
    CONCAT_ID.check_references(["face", "face", "clothing", "background"])
    CONCAT_ID.check_references([])
    with pytest.raises(UserError, match="faces first, then clothing, then the background"):
        CONCAT_ID.check_references(["background", "face"])
    with pytest.raises(UserError, match=r"5 references .* at most 4"):
        CONCAT_ID.check_references(["face"] * 5)
    with pytest.raises(UserError, match=r"'clothing' .* made for face"):
        CONCAT_ID_WAN.check_references(["clothing"])
    with pytest.raises(UserError, match="kinds"):
        replace(CONCAT_ID, kinds=("dog",))
