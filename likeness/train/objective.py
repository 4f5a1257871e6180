"""The training objective: the backbone's noise process on a video joined with its references.

The sequence is built by the same `join` and `drop`, and read by the same `predict`, as in sampling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from likeness.backbones.base import Backbone
from likeness.conditioning.augment import augment_reference, reference_noise
from likeness.conditioning.sequence import drop, join
from likeness.diffusion.base import NoiseProcess
from likeness.method import Method
from likeness.train.config import LogitNormal

_FACE_MARGIN = 0.35  # of the distance from eyes to mouth, around them


@dataclass(frozen=True, eq=False)
class Batch:
    """B training pairs with M references each.

    Attributes:
        latents: clean normalised video latents ``[B, C, T, H, W]``.
        references: M tensors of reference canvases ``[B, 3, 1, height, width]`` in [-1, 1], unaugmented.
        prompt_embeds: ``[B, L, D]`` from the backbone's ``encode_text``.
        keypoints: ``[B, M, F, 5, 2]`` px, where each reference's face is in each frame; NaN where it is not seen. None
            where nobody looked.
        reference_embeddings: ``[B, M, E]`` of the unaugmented references, L2-normalised; NaN for one without a face.
        masks: weights of the errors ``[B, 1, T, H, W]`` >= 0; None counts all alike.
    """

    latents: Tensor
    references: tuple[Tensor, ...]
    prompt_embeds: Tensor
    keypoints: Tensor | None = None
    reference_embeddings: Tensor | None = None
    masks: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""

        def moved(value: Any) -> Any:
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        return Batch(
            moved(self.latents),
            tuple(moved(item) for item in self.references),
            moved(self.prompt_embeds),
            moved(self.keypoints),
            moved(self.reference_embeddings),
            moved(self.masks),
        )


class Auxiliary(Protocol):
    """A loss on the clean estimate, beside the flow's: ST-DRC's identity losses."""

    def __call__(
        self,
        backbone: Backbone,
        z_t: Tensor,
        prediction: Tensor,
        sigma: Tensor,
        batch: Batch,
        generators: Sequence[torch.Generator],
        *,
        conditioned: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]: ...


def sample_generators(seed: int, step: int, first: int, count: int) -> list[torch.Generator]:
    """One source of randomness a sample, by its number in the whole batch of an update.

    So a resumed run and one that is shared by another number of processes draw the same numbers.

    Args:
        seed: of the run.
        step: of the update, from 0.
        first: number of the first sample in the batch of the update.
        count: samples.
    """

    def seeded(sample: int) -> torch.Generator:
        digest = hashlib.sha256(f"{seed} {step} {sample}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    return [seeded(first + index) for index in range(count)]


class Objective(nn.Module):
    """The loss of a batch. It holds the transformer as its only submodule, so that whatever wraps a module for training
    (DDP, FSDP, DeepSpeed) wraps this one, and one call is one forward however often the transformer runs in it.

    Args:
        backbone: its ``predict`` takes gradients.
        method: dropout, noise and placement.
        empty_embeds: embeddings ``[1, L, D]`` of the empty prompt, which stand for dropped text.
        auxiliary: losses on the clean estimate, or None.
        noise_levels: to train at; None for those of the backbone's process.
        face_weight: how much more an error counts where a face is; needs the batch's keypoints unless it is 1.
        even_calls: the number of transformer runs that all processes agree on, from this one's; given where parameters
            are sharded and each run is a collective operation.
    """

    def __init__(
        self,
        backbone: Backbone,
        method: Method,
        empty_embeds: Tensor,
        *,
        auxiliary: Auxiliary | None = None,
        noise_levels: LogitNormal | None = None,
        face_weight: float = 1.0,
        even_calls: Callable[[int], int] | None = None,
    ) -> None:
        super().__init__()
        parts: Any = backbone
        self.transformer: nn.Module = parts.transformer
        self._no_split_modules = getattr(
            self.transformer, "_no_split_modules", None
        )  # FSDP's wrapping policy asks for it
        self.backbone, self.method, self.auxiliary = backbone, method, auxiliary
        self.empty_embeds, self.even_calls = empty_embeds, even_calls
        self.noise_levels, self.face_weight = noise_levels, face_weight

    def forward(
        self, batch: Batch, generators: Sequence[torch.Generator], with_auxiliary: bool = True
    ) -> dict[str, Tensor]:
        """Losses of a batch, each a mean over its samples.

        Args:
            batch: on the transformer's device.
            generators: one a sample, on the CPU; the only source of randomness.
            with_auxiliary: False leaves the auxiliary losses out of this step.

        Returns:
            ``loss``, to be differentiated, and its parts without gradient.
        """
        method, z0 = self.method, batch.latents
        process = self.backbone.spec.process.for_video(self.backbone.spec.num_video_tokens(z0))
        coins = torch.stack([torch.rand(2, generator=generator) for generator in generators])
        text_dropped, reference_dropped = coins[:, 0] < method.text_dropout, coins[:, 1] < method.reference_dropout
        shown = (~reference_dropped).nonzero().flatten().tolist()  # on the CPU still: nobody waits for the device
        text_dropped, reference_dropped = text_dropped.to(z0.device), reference_dropped.to(z0.device)
        sigma = torch.cat([self._noise_level(process, generator) for generator in generators]).to(z0.device)
        noise = torch.stack([torch.randn(z0.shape[1:], generator=generator) for generator in generators]).to(z0)
        references = [self._encoded(pixels, generators, shown) for pixels in batch.references]
        prompt_embeds = torch.where(
            text_dropped.view(-1, 1, 1), self.empty_embeds.to(batch.prompt_embeds), batch.prompt_embeds
        )
        z_t = process.add_noise(z0, noise, sigma)
        prediction = self._predict(z_t, references, sigma, prompt_embeds, reference_dropped)

        errors = (
            (prediction.float() - process.target(z0, noise, sigma)).square().mean(1, keepdim=True)
        )  # [B, 1, T, H, W]
        flow = weighted_mean(errors, self._weights(batch)).mean()
        losses = {"flow": flow.detach()}
        loss = flow
        if self.auxiliary is not None and with_auxiliary and references:
            extra, figures = self.auxiliary(
                self.backbone, z_t, prediction, sigma, batch, generators, conditioned=~reference_dropped
            )
            loss = loss + extra
            losses |= {name: torch.tensor(value, device=z0.device) for name, value in figures.items()}
        return {"loss": loss, **losses}

    def _noise_level(self, process: NoiseProcess, generator: torch.Generator) -> Tensor:
        """``float32 [1]``"""
        levels = self.noise_levels
        if levels is None:
            return process.sample_sigma(1, generator)
        return torch.sigmoid(levels.mean + levels.std * torch.randn(1, generator=generator))

    def _encoded(self, pixels: Tensor, generators: Sequence[torch.Generator], shown: list[int]) -> Tensor:
        """Augment (ST-DRC Eq. 5), add noise (Concat-ID section 4.3), encode: ``[B, 3, 1, H, W]`` -> latents, zeros but for samples ``shown``."""
        rows = []
        for index in shown:
            row, generator = pixels[index : index + 1], generators[index]
            if self.method.augment is not None:
                row = augment_reference(row, self.method.augment, generator)
            if self.method.reference_noise is not None:
                row = reference_noise(row, self.method.reference_noise, generator)
            rows.append(row)
        latents = pixels.new_zeros(len(pixels), *self.backbone.spec.latent_shape(*pixels.shape[2:]))
        if rows:
            with torch.no_grad():
                latents[shown] = self.backbone.encode_reference(torch.cat(rows)).to(latents.dtype)
        return latents

    def _predict(
        self, z_t: Tensor, references: Sequence[Tensor], sigma: Tensor, prompt_embeds: Tensor, dropped: Tensor
    ) -> Tensor:
        """The transformer on the batch, with the references of some samples dropped."""

        def run(rows: Tensor | slice, drop_all: bool | Tensor) -> Tensor:
            sequence = join(self.method, z_t[rows], [item[rows] for item in references])
            return self.backbone.predict(drop(self.method, sequence, drop_all), sigma[rows], prompt_embeds[rows])

        if self.method.dropped_reference == "zeros":
            return run(slice(None), dropped)
        # Leaving tokens out changes the sequence's length: those with references and those without run apart.
        groups = [(rows, gone) for rows, gone in ((~dropped, False), (dropped, True)) if rows.any()]
        calls = len(groups) if self.even_calls is None else self.even_calls(len(groups))
        prediction = torch.empty_like(z_t)
        for rows, gone in groups:
            prediction = prediction.masked_scatter(
                rows.view(-1, 1, 1, 1, 1).expand_as(z_t), run(rows, gone).to(prediction.dtype)
            )
        if calls > len(groups):
            prediction = prediction + 0.0 * run(slice(0, 1), True).mean()
        return prediction

    def _weights(self, batch: Batch) -> Tensor | None:
        if self.face_weight == 1.0 or batch.keypoints is None:
            return batch.masks
        spec = self.backbone.spec
        faces = face_weights(batch.keypoints, batch.latents.shape[2:], spec.spatial_stride, spec.temporal_stride)
        weights = 1.0 + (self.face_weight - 1.0) * faces
        return weights if batch.masks is None else weights * batch.masks


def weighted_mean(errors: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of each sample, ``[B, 1, T, H, W]`` -> ``[B]``; a sample whose weights are all 0 counts as 0."""
    if weights is None:
        return errors.flatten(1).mean(1)
    return (errors * weights).flatten(1).sum(1) / weights.flatten(1).sum(1).clamp_min(1e-6)


def face_weights(keypoints: Tensor, size: Sequence[int], spatial_stride: int, temporal_stride: int) -> Tensor:
    """Which latents see a face.

    Args:
        keypoints: ``[B, M, F, 5, 2]`` px, NaN where a face is not seen; ``F = temporal_stride * (T - 1) + 1``.
        size: the latents' (T, H, W).
        spatial_stride: px a latent covers.
        temporal_stride: frames a latent covers, but for the first, which covers one.

    Returns:
        ``float32 [B, 1, T, H, W]``, 1 where any frame of the latent shows any of the faces, else 0.
    """
    num, height, width = size
    low, high = keypoints.amin(3), keypoints.amax(3)  # [B, M, F, 2] around eyes and mouth
    margin = (high - low).amax(-1, keepdim=True) * _FACE_MARGIN
    low, high = (low - margin) / spatial_stride, (high + margin) / spatial_stride
    rows = torch.arange(height, device=keypoints.device).view(-1, 1)
    columns = torch.arange(width, device=keypoints.device).view(1, -1)

    def inside(box_low: Tensor, box_high: Tensor) -> Tensor:
        """[..., 2] -> [..., H, W]; comparisons with NaN are false, which is what an unseen face needs."""
        (x0, y0), (x1, y1) = (value[..., None, None].unbind(-3) for value in (box_low, box_high))
        return (columns + 1 > x0) & (columns < x1) & (rows + 1 > y0) & (rows < y1)

    frames = inside(low, high).any(1)  # [B, F, H, W]
    latents = [frames[:, :1].any(1)]
    latents += [frames[:, 1 + temporal_stride * (t - 1) : 1 + temporal_stride * t].any(1) for t in range(1, num)]
    return torch.stack(latents, 1).unsqueeze(1).float()
