"""The identity losses say what Eq. 9 and 10 say."""

import torch
from torch.nn.functional import cosine_similarity, normalize

from likeness.train.losses import identity_loss, temporal_identity_loss


def _embeddings(*shape: int) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


SEEN = torch.tensor([[True, False, True, True], [False] * 4, [False, False, True, False]])


def test_identity_loss_is_the_mean_over_frames_with_a_face() -> None:
    embeddings, reference = _embeddings(3, 4, 8), _embeddings(3, 9)[:, 1:]
    losses = identity_loss(embeddings, reference, SEEN)
    first = 1 - cosine_similarity(embeddings[0, [0, 2, 3]], reference[:1])
    torch.testing.assert_close(losses[0], first.mean())
    torch.testing.assert_close(losses[2], 1 - cosine_similarity(embeddings[2, 2], reference[2], dim=0))
    assert losses[1] == 0


def test_temporal_loss_is_the_distance_from_the_mean_of_frames_with_a_face() -> None:
    embeddings = _embeddings(3, 4, 8)
    losses = temporal_identity_loss(embeddings, SEEN)
    kept = embeddings[0, [0, 2, 3]]
    torch.testing.assert_close(losses[0], (1 - cosine_similarity(kept, kept.mean(0, keepdim=True))).mean())
    assert losses[1] == 0 and losses[2].abs() < 1e-6
    assert temporal_identity_loss(embeddings[:1, :1].expand(1, 4, 8), SEEN[:1]).abs() < 1e-6


def test_unseen_frames_have_no_say_even_as_nan() -> None:
    embeddings, reference = _embeddings(3, 4, 8), _embeddings(3, 8)
    reference.requires_grad_(True)
    spoilt = torch.where(SEEN.unsqueeze(2), embeddings, torch.nan).requires_grad_(True)
    total = (identity_loss(spoilt, reference, SEEN) + temporal_identity_loss(spoilt, SEEN)).sum()
    total.backward()
    torch.testing.assert_close(
        total, (identity_loss(embeddings, reference, SEEN) + temporal_identity_loss(embeddings, SEEN)).sum()
    )
    assert spoilt.grad is not None and spoilt.grad[SEEN].abs().amax(1).min() > 0 and (spoilt.grad[~SEEN] == 0).all()
    assert reference.grad is None, "the reference is a constant"


def test_gradients() -> None:
    embeddings = torch.randn(2, 4, 5, dtype=torch.double, requires_grad=True)
    reference, seen = torch.randn(2, 5, dtype=torch.double), SEEN[:2]
    assert torch.autograd.gradcheck(lambda e: identity_loss(e, reference, seen), (embeddings,))
    assert torch.autograd.gradcheck(lambda e: temporal_identity_loss(e, seen), (embeddings,))
