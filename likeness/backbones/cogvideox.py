"""CogVideoX-5B (1.0), text to video, as a backbone.

Its blocks attend over [text | frames] jointly and take the rotary table from the caller, so references need no class of
their own: they are further frames of diffusers' stock transformer, placed by further rows of the table. The text always
reaches them, and they share the video's timestep and modulation.

diffusers' default ``norm_eps`` is 1e-5; CogVideoX was trained with 1e-6. The backbone uses what the transformer's
config says: in small models' outputs the two differ by 1e-5 to 3e-5.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed, get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from likeness.backbones.base import BackboneSpec
from likeness.conditioning.placement import reference_positions
from likeness.conditioning.sequence import Sequence
from likeness.diffusion.vprediction import SamplerName, VPrediction
from likeness.errors import UserError
from likeness.method import Method, Placement
from likeness.types import LatentGrid

logger = logging.getLogger(__name__)

Rotary = tuple[Tensor, Tensor]


@dataclass(eq=False)
class CogVideoXBackbone:
    """A CogVideoX transformer, its VAE and its text encoder behind the ``Backbone`` protocol.

    Attributes:
        transformer: a ``CogVideoXTransformer3DModel`` with rotary positions, of any size.
        vae: an ``AutoencoderKLCogVideoX``.
        text_encoder: a ``T5EncoderModel``.
        tokenizer: its tokenizer.
        scheduler: a ``CogVideoXDPMScheduler`` or ``CogVideoXDDIMScheduler``; only its config and class are read.
        sampler: see ``VPrediction``. None takes the scheduler config's entry ``sampler``, and without one the
            sampler that the scheduler's class stands for. The published Concat-ID weights were sampled by "sat-dpm".
        spec: read off the parts.

    Raises:
        UserError: for parts that do not belong together, or a model that cannot take references.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    sampler: SamplerName | None = None
    spec: BackboneSpec = field(init=False)

    def __post_init__(self) -> None:
        config, vae = self.transformer.config, self.vae.config
        if config.patch_size_t is not None:
            raise UserError(
                f"This is CogVideoX 1.5, whose patches span {config.patch_size_t} latent frames; a reference is a "
                "single one. Use CogVideoX 1.0, e.g. CogVideoX-5b."
            )
        if not config.use_rotary_positional_embeddings or config.use_learned_positional_embeddings:
            raise UserError(
                "This CogVideoX has a table of absolute positions (as CogVideoX-2b and the image-to-video models do), "
                "in which a reference has no place. Use a model with rotary positions alone, e.g. CogVideoX-5b."
            )
        if config.in_channels != vae.latent_channels or config.out_channels != vae.latent_channels:
            raise UserError(
                f"The transformer takes {config.in_channels} and makes {config.out_channels} channels, the VAE has "
                f"{vae.latent_channels}: they belong to different models, or to an image-to-video model. Use a "
                "text-to-video one."
            )
        if self.text_encoder.config.d_model != config.text_embed_dim:
            raise UserError(
                f"The transformer reads text of width {config.text_embed_dim}, the text encoder writes "
                f"{self.text_encoder.config.d_model}: they belong to different models."
            )
        stride = int(vae.temporal_compression_ratio)
        self.spec = BackboneSpec(
            name="CogVideoX",
            spatial_stride=2 ** (len(vae.block_out_channels) - 1),
            temporal_stride=stride,
            patch=(1, config.patch_size, config.patch_size),
            latent_channels=vae.latent_channels,
            process=VPrediction.from_config(self.scheduler.config, self.sampler or _sampler_of(self.scheduler)),
            # The decoder takes latents in pairs after the first: of an even number it makes three frames too many.
            frame_step=2 * stride,
        )

    @property
    def max_sequence_length(self) -> int:
        """Tokens that a prompt is padded or cut to."""
        return self.transformer.config.max_text_seq_length

    def check_method(self, method: Method) -> None:
        """Refuse what joint attention under one timestep cannot express.

        Raises:
            UserError: naming the method, its field and the way out.
        """
        for name, possible, reason in (
            ("reference_reads_text", True, "its attention is joint, so the text reaches every token"),
            ("reference_timestep", "shared", "it has one timestep a video"),
            ("reference_modulation", "shared", "it has one modulation for all frames"),
        ):
            given = getattr(method, name)
            if given != possible:
                raise UserError(
                    f"Method {method.name!r} has {name} = {given!r}, which CogVideoX cannot do: {reason}. Use a method "
                    f"with {possible!r}, e.g. 'concat-id', or dataclasses.replace(method, {name}={possible!r}) and "
                    "weights trained so."
                )

    def encode_text(self, prompts: list[str]) -> Tensor:
        """Embeddings ``[B, L, D]``, of the padding too: CogVideoX reads it unmasked, as it was trained.

        Longer prompts are cut, which is logged with the number of tokens lost.
        """
        length = self.max_sequence_length
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_attention_mask=True,
            return_tensors="pt",
        )  # fmt: skip
        for prompt, mask in zip(prompts, tokens.attention_mask, strict=True):
            lost = len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids) - length if mask.all() else 0
            if lost > 0:
                logger.warning("The prompt is too long: its last %d tokens of %d are not read.", lost, lost + length)
        device = get_module_execution_device(self.text_encoder)
        return self.text_encoder(tokens.input_ids.to(device)).last_hidden_state

    def encode_video(self, pixels: Tensor) -> Tensor:
        """``[B, 3, F, H, W]`` in [-1, 1] -> normalised latents ``float32 [B, C, T, H, W]``, the posterior's mode."""
        device = get_module_execution_device(self.vae)
        posterior = self.vae.encode(pixels.to(device, self.vae.dtype)).latent_dist
        return posterior.mode().float() * self.vae.config.scaling_factor

    def encode_reference(self, pixels: Tensor) -> Tensor:
        """``[B, 3, 1, H, W]`` in [-1, 1] -> normalised latents ``float32 [B, C, 1, H, W]``.

        A picture is encoded alone, as Concat-ID was trained. Unlike in Wan this is not what it is as a video's first
        frame, since the encoder normalises over the frames that it sees together.
        """
        return self.encode_video(pixels)

    def predict(self, sequence: Sequence, sigma: Tensor, prompt_embeds: Tensor) -> Tensor:
        """v of the video.

        Args:
            sequence: from ``conditioning.sequence.join``.
            sigma: noise levels ``[B]`` in 0..1.
            prompt_embeds: ``[B, L, D]`` from :meth:`encode_text`.

        Returns:
            ``[B, C, T, H, W]`` in the transformer's type.
        """
        dtype, device = self.transformer.dtype, get_module_execution_device(self.transformer)
        config, num_frames = self.transformer.config, sequence.video.shape[2]
        sizes = (size // patch for size, patch in zip(sequence.video.shape[2:], self.spec.patch, strict=True))
        rotary = rotary_table(
            config.attention_head_dim,
            (config.sample_height // config.patch_size, config.sample_width // config.patch_size),
            LatentGrid(*sizes),
            sequence.placement,
            sequence.num_references,
            device,
        )
        frames = torch.cat([item.to(device, dtype) for item in (sequence.video, *sequence.references)], dim=2)
        output = self.transformer(
            frames.transpose(1, 2),  # [B, T + M, C, H, W]
            prompt_embeds.to(device, dtype),
            self.spec.process.timestep(sigma.to(device)),
            image_rotary_emb=rotary,
            return_dict=False,
        )[0]
        return output[:, :num_frames].transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents ``[B, C, T, H, W]``, T odd -> pixels ``float32 [B, 3, F, H, W]`` in [-1, 1].

        Raises:
            UserError: for an even T.
        """
        return self.vae.decode(self._denormalised(latents), return_dict=False)[0].clamp(-1.0, 1.0).float()

    def decode_window(self, latents: Tensor, start: int, length: int) -> Tensor:
        """Decode some latents of a video, with gradient to those alone.

        The decoder takes the first latents and then pairs, and normalises over each such chunk, so the chunks stay as
        they are: it runs over those before the window without gradient, which fills its caches, then over those that
        the window touches. The frames equal those of :meth:`decode` (without tiling).

        Args:
            latents: normalised, ``[B, C, T, H, W]``, T odd.
            start, length: the window, in latents; ``1 <= length`` and ``start + length <= T``.

        Returns:
            Pixels ``float32 [B, 3, F, H, W]``: four frames a latent, but one for latent 0.

        Raises:
            UserError: for an even T or a window that leaves the video.
        """
        total, end = latents.shape[2], start + length
        if start < 0 or length < 1 or end > total:
            raise UserError(f"The window {start} + {length} leaves a video of {total} latents.")
        vae, latents = self.vae, self._denormalised(latents)
        # A chunk may reach beyond the window on either side.
        latents = torch.cat([latents[:, :, :start].detach(), latents[:, :, start:end], latents[:, :, end:].detach()], 2)
        decoded: list[Tensor] = []
        begin = first = 0
        cache = None
        for chunk in _chunks(total, vae.num_latent_frames_batch_size):
            if begin >= end:
                break
            touched = begin + chunk > start
            with torch.set_grad_enabled(touched and torch.is_grad_enabled()):
                item = latents[:, :, begin : begin + chunk]
                if vae.post_quant_conv is not None:
                    item = vae.post_quant_conv(item)
                frames, cache = vae.decoder(item, conv_cache=cache)
            begin += chunk
            if touched:
                decoded.append(frames)
            else:
                first = begin
        offset = self._first_frame(first)
        pixels = torch.cat(decoded, dim=2)[:, :, self._first_frame(start) - offset : self._first_frame(end) - offset]
        return pixels.clamp(-1.0, 1.0).float()

    def _first_frame(self, latent: int) -> int:
        """Number of the first frame that a latent covers."""
        return max(0, self.spec.temporal_stride * (latent - 1) + 1)

    def _denormalised(self, latents: Tensor) -> Tensor:
        if latents.shape[2] % 2 == 0:
            stride = self.spec.temporal_stride
            raise UserError(
                f"A video of {latents.shape[2]} latents was given; CogVideoX decodes an odd number of them, which is "
                f"1 + {2 * stride} n frames."
            )
        device = get_module_execution_device(self.vae)
        return (latents.to(device).float() / self.vae.config.scaling_factor).to(self.vae.dtype)


def _sampler_of(scheduler: Any) -> SamplerName:
    """What a scheduler stands for: its config's word, or its class."""
    return scheduler.config.get("sampler") or ("ddim" if "DDIM" in type(scheduler).__name__ else "dpm")


def _chunks(total: int, size: int) -> list[int]:
    """Latents that ``AutoencoderKLCogVideoX`` decodes together: the first chunk takes what does not divide."""
    count = max(total // size, 1)
    first = min(size + total % size, total)
    return [first] + [size] * (count - 1)


@lru_cache(maxsize=8)
def rotary_table(
    head_dim: int,
    base: tuple[int, int],
    grid: LatentGrid,
    placement: Placement,
    num_references: int,
    device: torch.device,
) -> Rotary:
    """Cosines and sines ``float32 [N, head_dim]`` of the sequence [video | references].

    The video's are diffusers' own. Where the video has not the size that the model was trained at, diffusers maps rows
    and columns onto the trained grid, linearly; the references' rows and columns go through the same maps, and on
    beyond the video where a placement asks for it. Time stays as it is.

    Args:
        head_dim: of the attention.
        base: tokens (rows, columns) of a video of the trained size, where the maps are the identity.
        grid: of the video.
        placement: of the references.
        num_references: 0 or more.
        device: of the table.
    """
    # A table outlives the mode it was made in: one made in inference mode could not serve a training step.
    with torch.inference_mode(False):
        region = get_resize_crop_region_for_grid((grid.height, grid.width), base[1], base[0])
        tables = [get_3d_rotary_pos_embed(head_dim, region, (grid.height, grid.width), grid.frames)]
        (top, left), (bottom, right) = region
        for index in range(num_references):
            time, rows, cols = reference_positions(placement, grid, index).double().unbind(1)
            points = (time, _mapped(rows, top, bottom, grid.height), _mapped(cols, left, right, grid.width))
            dims = (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
            axes: list[Any] = [
                get_1d_rotary_pos_embed(dim, point.float(), use_real=True)  # type: ignore[arg-type]
                for dim, point in zip(dims, points, strict=True)
            ]
            tables.append((torch.cat([axis[0] for axis in axes], 1), torch.cat([axis[1] for axis in axes], 1)))
        cos, sin = (torch.cat(parts).to(device) for parts in zip(*tables, strict=True))
        return cos, sin


def _mapped(places: Tensor, start: int, stop: int, count: int) -> Tensor:
    """Token places on diffusers' grid, which has ``count`` places from ``start`` to ``stop (count - 1) / count``."""
    if count == 1:
        return start + places * (stop - start)
    return start + places * ((stop * (count - 1) / count - start) / (count - 1))
