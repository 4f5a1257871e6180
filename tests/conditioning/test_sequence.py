from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likeness.conditioning.sequence import drop, join, split_tokens
from likeness.errors import UserError
from likeness.method import CONCAT_ID, CONCAT_ID_WAN, ST_DRC


def latents(batch: int = 2, frames: int = 3, size: int = 4) -> torch.Tensor:
    return torch.randn(batch, 4, frames, size, size)


@given(st.integers(1, 3), st.integers(1, 20), st.integers(0, 20))
def test_join_then_split_returns_the_video(batch: int, num_video: int, num_references: int) -> None:
    video, references = torch.randn(batch, num_video, 2), torch.randn(batch, num_references, 2)
    first, second = split_tokens(torch.cat([video, references], dim=1), num_video)
    assert first.equal(video)
    assert second.equal(references)


def test_join_keeps_what_it_is_given() -> None:
    video, references = latents(), (latents(frames=1), latents(frames=1))
    sequence = join(CONCAT_ID, video, references)
    assert sequence.video is video
    assert sequence.num_references == 2
    assert sequence.placement == CONCAT_ID.placement
    assert join(CONCAT_ID, video, ()).num_references == 0


def test_join_refuses_what_does_not_fit() -> None:
    with pytest.raises(UserError, match="at most 1"):
        join(CONCAT_ID_WAN, latents(), (latents(frames=1),) * 2)
    with pytest.raises(UserError, match=r"\[2, 4, 1, 4, 4\]"):
        join(CONCAT_ID_WAN, latents(), (latents(frames=1, size=2),))
    with pytest.raises(UserError, match="Reference 0"):
        join(CONCAT_ID_WAN, latents(), (latents(batch=1, frames=1),))


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=2))
def test_zeros_keep_the_tokens_and_are_idempotent(dropped: list[bool]) -> None:
    sequence = join(CONCAT_ID, latents(), (latents(frames=1), latents(frames=1)))
    once = drop(CONCAT_ID, sequence, torch.tensor(dropped))
    twice = drop(CONCAT_ID, once, torch.tensor(dropped))
    for before, after, again in zip(sequence.references, once.references, twice.references, strict=True):
        assert again.equal(after)
        for index, gone in enumerate(dropped):
            assert after[index].equal(torch.zeros_like(after[index]) if gone else before[index])
    assert once.video is sequence.video


def test_a_dropped_infinity_is_zero() -> None:
    sequence = join(CONCAT_ID, latents(), (torch.full((2, 4, 1, 4, 4), torch.inf),))
    assert drop(CONCAT_ID, sequence, True).references[0].eq(0).all()


def test_absence_is_for_a_whole_batch() -> None:
    sequence = join(ST_DRC, latents(), (latents(frames=1),))
    gone = drop(ST_DRC, sequence, True)
    assert gone.references == ()
    assert drop(ST_DRC, gone, True).references == ()
    assert drop(ST_DRC, sequence, torch.tensor([False, False])).references == sequence.references
    with pytest.raises(UserError, match="whole batch"):
        drop(ST_DRC, sequence, torch.tensor([True, False]))


def test_the_method_decides() -> None:
    method = replace(ST_DRC, dropped_reference="zeros")
    assert drop(method, join(method, latents(), (latents(frames=1),)), True).num_references == 1
