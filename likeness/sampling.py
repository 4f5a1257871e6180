"""The one denoising loop, for every method and backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from likeness.backbones.base import Backbone
from likeness.conditioning.guidance import combine
from likeness.conditioning.sequence import drop, join
from likeness.diffusion import Generators
from likeness.errors import UserError
from likeness.method import Method, Stream, merge_streams, without_references

# Called after each step with its number from 0, the sigma it started from and the new latents; latents that it returns
# replace those.
StepCallback = Callable[[int, float, Tensor], Tensor | None]


@torch.no_grad()
def denoise(
    backbone: Backbone,
    method: Method,
    *,
    latents: Tensor,
    references: Sequence[Tensor],
    prompt_embeds: Tensor,
    negative_embeds: Tensor | None,
    num_inference_steps: int,
    streams: Sequence[Stream],
    generator: Generators = None,
    callback: StepCallback | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Tensor:
    """Denoise latents by the steps of the backbone's sampler, guided by a weighted sum of streams.

    A step runs one prediction for each distinct pair of conditions that the streams need and whose weight is not zero.
    A stream without the reference sees what the method calls a dropped reference: no tokens, or a zero latent.

    Args:
        backbone: predicts, and brings the sampler of its noise process.
        method: says how references join and how they are dropped.
        latents: Gaussian noise ``[B, C, T, H, W]``.
        references: clean latents ``[B, C, 1, H, W]`` each; none runs the base model.
        prompt_embeds: ``[B, L, D]``.
        negative_embeds: of the negative or the empty prompt, ``[B, L, D]``; may be None if every stream reads the text.
        num_inference_steps: 1 or more.
        streams: from ``method.guidance.streams``; their order does not matter.
        generator: of the noise of samplers that add some; one, or one a video.
        callback: see :data:`StepCallback`.
        progress: called after each step with (steps done, steps in all).
        stop: asked before each step; once true, the latents are returned as they are.

    Returns:
        Clean latents ``float32 [B, C, T, H, W]``.

    Raises:
        UserError: for fewer than 1 step, weights that do not sum to 1, missing negative embeddings, or references that
            do not fit the method or the latents.
    """
    backbone.check_method(method)
    streams = merge_streams(streams) if references else without_references(streams)
    total = sum(stream.weight for stream in streams)
    if abs(total - 1.0) > 1e-4:
        raise UserError(f"The weights of the guidance streams sum to {total:.6g}; they must sum to 1.")
    if negative_embeds is None and not all(stream.text for stream in streams):
        raise UserError(
            "Guidance needs a prediction without the text: give negative_embeds, or set text guidance to 1."
        )

    process = backbone.spec.process.for_video(backbone.spec.num_video_tokens(latents))
    sampler = process.sampler(num_inference_steps, generator)
    latents = latents.float()
    for step, sigma in enumerate(sampler.sigmas[:-1].tolist()):
        if stop is not None and stop():
            break
        levels = torch.full((latents.shape[0],), sigma, device=latents.device)
        full = join(method, latents, references)
        dropped = drop(method, full, True)
        predictions = {}
        for stream in streams:
            text = prompt_embeds if stream.text else negative_embeds
            assert text is not None  # checked above
            sequence = full if stream.reference else dropped
            with _cache_context(backbone, stream, step, sampler.sigmas):
                predictions[stream.text, stream.reference] = backbone.predict(sequence, levels, text)
        prediction = combine(streams, predictions).to(latents.device)
        latents = sampler.step(step, latents, prediction)
        if callback is not None:
            replaced = callback(step, sigma, latents)
            latents = latents if replaced is None else replaced.float()
        if progress is not None:
            progress(step + 1, num_inference_steps)
    return latents


def _cache_context(backbone: Backbone, stream: Stream, step: int, sigmas: Tensor) -> AbstractContextManager[None]:
    """A state of its own for each stream in diffusers' step caches: streams differ in what they compute and in length."""
    transformer = getattr(backbone, "transformer", None)
    if not hasattr(transformer, "cache_context"):
        return nullcontext()
    name = f"text={stream.text}, reference={stream.reference}"
    place = {"step_index": step, "sigma": sigmas[step].item(), "num_inference_steps": len(sigmas) - 1}
    return transformer.cache_context(name, **place)  # type: ignore[union-attr]
