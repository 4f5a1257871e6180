"""LTX-2.3 (and 2.0), text to video without sound, as a backbone."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from likeness.backbones.base import BackboneSpec
from likeness.backbones.ltx2_transformer import ConcatLTX2Transformer3DModel
from likeness.conditioning.sequence import Sequence
from likeness.diffusion.shifted import DynamicShiftFlow
from likeness.errors import UserError
from likeness.method import Method

__all__ = ["ConcatLTX2Transformer3DModel", "Ltx2Backbone"]

logger = logging.getLogger(__name__)

# Tokens of a prompt that LTX-2 was trained with. A tokenizer may ask for fewer; Gemma's names no limit.
MAX_SEQUENCE_LENGTH = 1024


@dataclass(eq=False)
class Ltx2Backbone:
    """The video branch of an LTX-2 transformer, its VAE and its text encoder behind the ``Backbone`` protocol.

    Attributes:
        transformer: of any size.
        vae: an ``AutoencoderKLLTX2Video``.
        text_encoder: a ``Gemma3ForConditionalGeneration``.
        tokenizer: its tokenizer.
        scheduler: a ``FlowMatchEulerDiscreteScheduler``; only its config is read.
        connectors: an ``LTX2TextConnectors``, from the text encoder's layers to what the transformer reads.
        fps: frames a second, which the positions of the video's tokens are measured in.
        window_context: latents on either side that :meth:`decode_window` decodes along, 1 or more.
        spec: read off the parts.

    Raises:
        UserError: for parts that do not belong together.
    """

    transformer: ConcatLTX2Transformer3DModel
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    connectors: Any
    fps: float = 24.0
    window_context: int = 6
    spec: BackboneSpec = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.transformer, ConcatLTX2Transformer3DModel):
            raise UserError(
                f"The transformer is a {type(self.transformer).__name__}, which makes sound too and takes no references. "
                "Take its video branch by ConcatLTX2Transformer3DModel.from_base(transformer)."
            )
        if not self.fps > 0 or self.window_context < 1:
            raise UserError(
                f"fps {self.fps} and window_context {self.window_context} were given; fps is above 0, window_context 1 or "
                "more."
            )
        config, vae, connectors = self.transformer.config, self.vae.config, self.connectors.config
        strides = (self.vae.temporal_compression_ratio, *[self.vae.spatial_compression_ratio] * 2)
        text = self.text_encoder.config.get_text_config()
        width = connectors.video_connector_num_attention_heads * connectors.video_connector_attention_head_dim
        for found, wanted, what in (
            (vae.latent_channels, config.in_channels, "channels of the VAE's latents and the transformer's input"),
            (vae.latent_channels, config.out_channels, "channels of the VAE's latents and the transformer's output"),
            (strides, tuple(config.vae_scale_factors), "frames and px a latent, of the VAE and the transformer"),
            (
                width,
                config.caption_channels if config.use_prompt_embeddings else config.cross_attention_dim,
                "width of the text, from the connectors and into the transformer",
            ),
            (
                (text.hidden_size, text.num_hidden_layers + 1),
                (connectors.caption_channels, connectors.text_proj_in_factor),
                "width and number of the text encoder's layers, of its own and as the connectors take them",
            ),
        ):
            if found != wanted:
                raise UserError(f"The parts belong to different models: {what} are {found} and {wanted}.")
        if vae.timestep_conditioning:
            raise UserError("This VAE decodes from a noise level of its own, which no LTX-2 release does. Use theirs.")
        self.spec = BackboneSpec(
            name="LTX-2",
            spatial_stride=strides[1],
            temporal_stride=strides[0],
            patch=(1, 1, 1),
            latent_channels=vae.latent_channels,
            process=DynamicShiftFlow.from_config(self.scheduler.config),
        )

    @property
    def max_sequence_length(self) -> int:
        """Tokens that a prompt is padded or cut to."""
        return min(self.tokenizer.model_max_length, MAX_SEQUENCE_LENGTH)

    def check_method(self, method: Method) -> None:
        """Refuse a modulation of references of their own, for which there are no weights.

        Raises:
            UserError: naming the method, its field and the way out.
        """
        if method.reference_modulation != "shared":
            raise UserError(
                f"Method {method.name!r} has reference_modulation = {method.reference_modulation!r}, which LTX-2 cannot do: "
                "it has one modulation for all tokens. Use a method with 'shared', e.g. 'st-drc' or 'concat-id-wan', or "
                "dataclasses.replace(method, reference_modulation='shared') and weights trained so."
            )

    def encode_text(self, prompts: list[str]) -> Tensor:
        """What the transformer reads of prompts, ``[B, L, D]``: the connectors' stream for the video.

        The connectors mix all layers of the text encoder, put learned registers in the place of the padding and run a
        few layers of their own; every one of the L tokens is to be read, so no mask goes with them. Independent of the
        noise level: LTX-2.3 modulates them by it inside the transformer's blocks.

        Longer prompts are cut, which is logged with the number of tokens lost.
        """
        prompts = [prompt.strip() for prompt in prompts]
        length = self.max_sequence_length
        tokens = self.tokenizer(
            prompts, padding="max_length", padding_side="left", max_length=length, truncation=True,
            return_attention_mask=True, return_tensors="pt",
        )  # fmt: skip
        for prompt, mask in zip(prompts, tokens.attention_mask, strict=True):
            lost = len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids) - length if mask.all() else 0
            if lost > 0:
                logger.warning("The prompt is too long: its last %d tokens of %d are not read.", lost, lost + length)
        device = get_module_execution_device(self.text_encoder)
        mask = tokens.attention_mask.to(device)
        # The language head's output is not wanted; over a large vocabulary it would take a gigabyte.
        layers = self.text_encoder(
            input_ids=tokens.input_ids.to(device), attention_mask=mask, output_hidden_states=True, logits_to_keep=1
        ).hidden_states
        device = get_module_execution_device(self.connectors)
        hidden = torch.stack(layers, dim=-1).to(device, self.connectors.dtype)  # [B, L, hidden, layers]
        return self.connectors(hidden, mask.to(device), padding_side="left")[0]

    def encode_video(self, pixels: Tensor) -> Tensor:
        """``[B, 3, F, H, W]`` in [-1, 1] -> normalised latents ``float32 [B, C, T, H, W]``, the posterior's mode."""
        device = get_module_execution_device(self.vae)
        latents = self.vae.encode(pixels.to(device, self.vae.dtype)).latent_dist.mode().float()
        mean, deviation = self._statistics(device)
        return (latents - mean) / deviation

    def encode_reference(self, pixels: Tensor) -> Tensor:
        """``[B, 3, 1, H, W]`` in [-1, 1] -> normalised latents ``float32 [B, C, 1, H, W]``.

        The encoder is causal: a picture is encoded as a video's first frame is.
        """
        return self.encode_video(pixels)

    def predict(self, sequence: Sequence, sigma: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Velocity of the video.

        Args:
            sequence: from ``conditioning.sequence.join``.
            sigma: noise levels ``[B]`` in 0..1.
            prompt_embeds: ``[B, L, D]`` from :meth:`encode_text`.

        Returns:
            ``[B, C, T, H, W]`` in the transformer's type.
        """
        method, dtype = sequence.method, self.transformer.dtype
        device = get_module_execution_device(self.transformer)
        return self.transformer(
            sequence.video.to(device, dtype),
            self.spec.process.timestep(sigma.to(device)),
            prompt_embeds.to(device, dtype),
            return_dict=False,
            references=tuple(item.to(device, dtype) for item in sequence.references),
            placement=method.placement,
            reference_reads_text=method.reference_reads_text,
            reference_timestep=method.reference_timestep,
            fps=self.fps,
        )[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents ``[B, C, T, H, W]`` -> pixels ``float32 [B, 3, F, H, W]`` in [-1, 1]."""
        device = get_module_execution_device(self.vae)
        mean, deviation = self._statistics(device)
        latents = (latents.to(device).float() * deviation + mean).to(self.vae.dtype)
        return self.vae.decode(latents, return_dict=False)[0].clamp(-1.0, 1.0).float()

    def decode_window(self, latents: Tensor, start: int, length: int) -> Tensor:
        """Decode some latents of a video, with gradient to those alone.

        The decoder looks both ways in time, so ``window_context`` latents on either side are decoded along, without a
        gradient to themselves. What lies further away is missing: the frames are those of :meth:`decode` but for a
        difference that falls with the context (see ``docs/backbones.md``) and is 0 where it reaches both ends.

        Args:
            latents: normalised, ``[B, C, T, H, W]``.
            start, length: the window, in latents; ``1 <= length`` and ``start + length <= T``.

        Returns:
            Pixels ``float32 [B, 3, F, H, W]``: eight frames a latent, but one for latent 0.

        Raises:
            UserError: for a window that leaves the video.
        """
        total, end = latents.shape[2], start + length
        if start < 0 or length < 1 or end > total:
            raise UserError(f"The window {start} + {length} leaves a video of {total} latents.")
        first, last = max(0, start - self.window_context), min(total, end + self.window_context)
        before, after = latents[:, :, first:start].detach(), latents[:, :, end:last].detach()
        pixels = self.decode(torch.cat([before, latents[:, :, start:end], after], dim=2))
        # Whichever latent comes first makes a single frame, the last of those it would make.
        offset = self.spec.temporal_stride * first
        return pixels[:, :, self._first_frame(start) - offset : self._first_frame(end) - offset]

    def _first_frame(self, latent: int) -> int:
        """Number of the first frame that a latent covers."""
        return max(0, self.spec.temporal_stride * (latent - 1) + 1)

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the VAE's latents, ``float32 [1, C, 1, 1, 1]`` each."""
        vae = self.vae
        mean, deviation = (item.float().to(device).view(1, -1, 1, 1, 1) for item in (vae.latents_mean, vae.latents_std))
        return mean, deviation / vae.config.scaling_factor
