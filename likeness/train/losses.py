"""ST-DRC's face-guided losses on embeddings of generated frames, Eq. 9 and 10. Eq. 11 and 12 join them in ``identity``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-6  # the equations' epsilon: a video without a face divides 0 by it


def identity_loss(embeddings: Tensor, reference: Tensor, seen: Tensor) -> Tensor:
    """Mean cosine distance of the frames with a face from the reference (Eq. 9).

    Args:
        embeddings: ``[B, F, E]``; those of frames without a face are not read.
        reference: ``[B, E]``, or one a frame ``[B, F, E]``; taken as a constant.
        seen: ``bool [B, F]``, whether a frame has a valid face.

    Returns:
        ``[B]`` in 0..2; 0 for a video without a face.
    """
    reference = reference.detach()
    return _mean_distance(embeddings, reference.unsqueeze(1) if reference.ndim == 2 else reference, seen)


def temporal_identity_loss(embeddings: Tensor, seen: Tensor) -> Tensor:
    """Mean cosine distance of the frames with a face from their own mean (Eq. 10), which has a gradient as well.

    Args:
        embeddings: ``[B, F, E]``; those of frames without a face are not read.
        seen: ``bool [B, F]``.

    Returns:
        ``[B]`` in 0..2; 0 for a video with fewer than two faces.
    """
    weights = seen.to(embeddings.dtype)
    kept = torch.where(seen.unsqueeze(2), embeddings, 0.0)
    mean = kept.sum(1) / (weights.sum(1, keepdim=True) + EPSILON)
    return _mean_distance(embeddings, mean.unsqueeze(1), seen)


def _mean_distance(embeddings: Tensor, centre: Tensor, seen: Tensor) -> Tensor:
    weights = seen.to(embeddings.dtype)
    kept = torch.where(seen.unsqueeze(2), embeddings, 0.0)  # not a product: an unseen face may be NaN
    distances = 1.0 - functional.cosine_similarity(kept, centre, dim=2)
    return (weights * distances).sum(1) / (weights.sum(1) + EPSILON)
