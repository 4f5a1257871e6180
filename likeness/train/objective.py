"""The training objective: the backbone's noise process on a video joined with its references.

The sequence is built by the same `join` and `drop`, and read by the same `predict`, as in sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from likeness.conditioning.augment import augment_reference, reference_noise
from likeness.conditioning.sequence import drop, join

if TYPE_CHECKING:
    from torch import Tensor

    from likeness.backbones.base import Backbone
    from likeness.method import Method


@dataclass(frozen=True, eq=False)
class Batch:
    """B training pairs.

    Attributes:
        latents: clean normalised video latents ``[B, C, T, H, W]``.
        references: M tensors of reference pixels ``[B, 3, 1, height, width]`` in [-1, 1].
        prompt_embeds: ``[B, L, D]`` from the backbone's ``encode_text``.
        weights: how much each error counts, ``[B, 1, T, H, W]`` >= 0, as for faces that fill few of a picture's latents;
            None counts all alike.
    """

    latents: Tensor
    references: tuple[Tensor, ...]
    prompt_embeds: Tensor
    weights: Tensor | None = None


def prepare_reference(method: Method, backbone: Backbone, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Augment (ST-DRC Eq. 5), add noise (Concat-ID section 4.3), encode; pixels ``[B, 3, 1, H, W]`` -> latents."""
    if method.augment is not None:
        pixels = augment_reference(pixels, method.augment, generator)
    if method.reference_noise is not None:
        pixels = reference_noise(pixels, method.reference_noise, generator)
    with torch.no_grad():
        return backbone.encode_reference(pixels)


def flow_loss(
    backbone: Backbone, method: Method, batch: Batch, empty_embeds: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Weighted mean squared error of the video's prediction, with text and references dropped independently.

    Args:
        backbone: its ``predict`` takes gradients.
        method: dropout, noise and placement.
        batch: see :class:`Batch`.
        empty_embeds: embeddings ``[1, L, D]`` of the empty prompt, which stand for dropped text.
        generator: on the CPU; the only source of randomness.

    Returns:
        The loss, and the noise levels ``[B]`` that it was taken at.
    """
    z0 = batch.latents
    process = backbone.spec.process.for_video(backbone.spec.num_video_tokens(z0))
    size = z0.shape[0]

    def coins(probability: float, count: int) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    text_dropped = coins(method.text_dropout, size).to(z0.device)
    prompt_embeds = torch.where(text_dropped.view(-1, 1, 1), empty_embeds, batch.prompt_embeds)
    sigma = process.sample_sigma(size, generator).to(z0.device)
    noise = torch.randn(z0.shape, generator=generator).to(z0)
    references = [prepare_reference(method, backbone, pixels, generator) for pixels in batch.references]
    sequence = join(method, process.add_noise(z0, noise, sigma), references)
    # Leaving tokens out changes the sequence's length, which a batch can do only as a whole.
    whole = method.dropped_reference == "absent"
    dropped = coins(method.reference_dropout, 1).expand(size) if whole else coins(method.reference_dropout, size)
    sequence = drop(method, sequence, dropped)
    prediction = backbone.predict(sequence, sigma, prompt_embeds)
    errors = (prediction.float() - process.target(z0, noise, sigma)).square()
    if batch.weights is None:
        return errors.mean(), sigma
    return (errors.mean(1, keepdim=True) * batch.weights).sum() / batch.weights.sum(), sigma
