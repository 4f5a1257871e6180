import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from likeness.conditioning.guidance import combine
from likeness.method import ST_DRC, Stream


def predictions(dtype: torch.dtype = torch.float32) -> dict[tuple[bool, bool], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    keys = [(False, False), (True, False), (True, True)]
    return {key: torch.randn(2, 3, generator=generator).to(dtype) for key in keys}


def test_equals_equation_13() -> None:
    values = predictions()
    nothing, text, both = values.values()
    expected = nothing + 5.0 * (text - nothing) + 7.5 * (both - text)
    torch.testing.assert_close(combine(ST_DRC.guidance.streams(), values), expected)


@given(st.permutations(ST_DRC.guidance.streams()))
def test_order_changes_nothing(streams: list[Stream]) -> None:
    values = predictions()
    expected = combine(ST_DRC.guidance.streams(), values)
    assert combine(streams, values).equal(expected)
    assert combine(streams, [values[stream.text, stream.reference] for stream in streams]).equal(expected)


def test_sums_in_float32() -> None:
    values = predictions(torch.bfloat16)
    exact = combine(ST_DRC.guidance.streams(), {key: value.double() for key, value in values.items()})
    combined = combine(ST_DRC.guidance.streams(), values)
    assert combined.dtype == torch.float32
    torch.testing.assert_close(combined, exact.float(), rtol=1e-6, atol=1e-6)


def test_a_list_must_have_one_prediction_a_stream() -> None:
    with pytest.raises(ValueError, match="argument"):
        combine(ST_DRC.guidance.streams(), list(predictions().values())[:2])
