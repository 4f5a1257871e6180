"""Wan 2.x text-to-video models, of any size, as a backbone."""

from __future__ import annotations

import html
import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from likeness.backbones.base import BackboneSpec
from likeness.backbones.wan_transformer import ConcatWanTransformer3DModel
from likeness.backbones.wan_window import decode_latents
from likeness.conditioning.sequence import Sequence
from likeness.diffusion import RectifiedFlow
from likeness.errors import UserError
from likeness.method import Method

__all__ = ["ConcatWanTransformer3DModel", "WanBackbone"]

logger = logging.getLogger(__name__)

# Tokens of a prompt that Wan was trained with. A tokenizer may ask for fewer; those that name no limit say 1e30.
MAX_SEQUENCE_LENGTH = 512


@dataclass(eq=False)
class WanBackbone:
    """A Wan transformer, its VAE and its text encoder behind the ``Backbone`` protocol.

    Attributes:
        transformer: of any size.
        vae: an ``AutoencoderKLWan``, in the manner of Wan 2.1 or 2.2.
        text_encoder: a ``UMT5EncoderModel``.
        tokenizer: its tokenizer.
        scheduler: a ``FlowMatchEulerDiscreteScheduler``; only its ``num_train_timesteps`` and ``shift`` are read.
        timestep_dtype: the published Concat-ID code rounds timesteps to bfloat16 before embedding them; None keeps
            float32.
        spec: read off the parts.

    Raises:
        UserError: for parts that do not belong together.
    """

    transformer: ConcatWanTransformer3DModel
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    timestep_dtype: torch.dtype | None = None
    spec: BackboneSpec = field(init=False)

    def __post_init__(self) -> None:
        config, vae, scheduler = self.transformer.config, self.vae.config, self.scheduler.config
        if config.in_channels != vae.z_dim or config.out_channels != vae.z_dim:
            raise UserError(
                f"The transformer takes {config.in_channels} and makes {config.out_channels} channels, the VAE has "
                f"{vae.z_dim}: they belong to different models, or to an image-to-video model. Use a text-to-video one."
            )
        patch = tuple(config.patch_size)
        if patch[0] != 1:
            raise UserError(f"The transformer's patches {patch} span frames; a reference is a single latent frame.")
        self.spec = BackboneSpec(
            name="Wan",
            # From the layers themselves: scale_factor_spatial in the config is a default that small models leave as is.
            spatial_stride=2 ** (len(vae.dim_mult) - 1) * (vae.patch_size or 1),
            temporal_stride=2 ** sum(vae.temperal_downsample),
            patch=patch,
            latent_channels=vae.z_dim,
            process=RectifiedFlow(scheduler.num_train_timesteps, scheduler.shift),
        )

    @property
    def max_sequence_length(self) -> int:
        """Tokens that a prompt is padded or cut to."""
        return min(self.tokenizer.model_max_length, MAX_SEQUENCE_LENGTH)

    def check_method(self, method: Method) -> None:
        """Refuse a method whose modulation the weights do not have.

        Raises:
            UserError: naming both.
        """
        given = self.transformer.config.reference_modulation
        if method.reference_modulation != given:
            raise UserError(
                f"Method {method.name!r} needs {method.reference_modulation} modulation of references, this Wan "
                f"transformer has {given} modulation. Use a method that fits the weights, or make new weights with "
                "ConcatWanTransformer3DModel.from_base and train them."
            )

    def encode_text(self, prompts: list[str]) -> Tensor:
        """Embeddings ``[B, L, D]``, zero past each prompt's end (there is no attention mask in the transformer).

        Longer prompts are cut, which is logged with the number of tokens lost.
        """
        prompts = [_clean(prompt) for prompt in prompts]
        length = self.max_sequence_length
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_attention_mask=True,
            return_tensors="pt",
        )  # fmt: skip
        mask = tokens.attention_mask
        for prompt in (prompts[index] for index in torch.nonzero(mask.all(dim=1)).flatten().tolist()):
            lost = len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids) - length
            if lost > 0:
                logger.warning("The prompt is too long: its last %d tokens of %d are not read.", lost, lost + length)
        device = get_module_execution_device(self.text_encoder)
        mask = mask.to(device)
        embeds = self.text_encoder(tokens.input_ids.to(device), mask).last_hidden_state
        return embeds * mask.unsqueeze(-1).to(embeds.dtype)

    def encode_video(self, pixels: Tensor) -> Tensor:
        """``[B, 3, F, H, W]`` in [-1, 1] -> normalised latents ``float32 [B, C, T, H, W]``, the posterior's mode."""
        device = get_module_execution_device(self.vae)
        posterior = self.vae.encode(pixels.to(device, self.vae.dtype)).latent_dist
        mean, deviation = self._statistics(device)
        return (posterior.mode().float() - mean) / deviation

    def encode_reference(self, pixels: Tensor) -> Tensor:
        """``[B, 3, 1, H, W]`` in [-1, 1] -> normalised latents ``float32 [B, C, 1, H, W]``.

        Wan's VAE encodes a picture as it does a video's first frame.
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
        timestep = self.spec.process.timestep(sigma.to(device))
        if self.timestep_dtype is not None:
            timestep = timestep.to(self.timestep_dtype).float()
        return self.transformer(
            sequence.video.to(device, dtype),
            timestep,
            prompt_embeds.to(device, dtype),
            return_dict=False,
            references=tuple(item.to(device, dtype) for item in sequence.references),
            placement=method.placement,
            reference_reads_text=method.reference_reads_text,
            reference_timestep=method.reference_timestep,
        )[0]

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents ``[B, C, T, H, W]`` -> pixels ``float32 [B, 3, F, H, W]`` in [-1, 1]."""
        return self.vae.decode(self._denormalised(latents), return_dict=False)[0].float()

    def decode_window(self, latents: Tensor, start: int, length: int) -> Tensor:
        """Decode some latents of a video, with gradient to those alone.

        The decoder is causal: what it keeps of the latents before the window is made without gradient and only as far back
        as each layer looks. The frames equal those of :meth:`decode`.

        Args:
            latents: normalised, ``[B, C, T, H, W]``.
            start, length: the window, in latents; ``1 <= length`` and ``start + length <= T``.

        Returns:
            Pixels ``float32 [B, 3, F, H, W]``: four frames a latent, but one for latent 0.
        """
        if start < 0 or length < 1 or start + length > latents.shape[2]:
            raise UserError(f"The window {start} + {length} leaves a video of {latents.shape[2]} latents.")
        vae = self.vae
        pixels = decode_latents(vae, self._denormalised(latents), start, length)
        if vae.config.patch_size is not None:
            pixels = unpatchify(pixels, vae.config.patch_size)
        return pixels.clamp(-1.0, 1.0).float()

    def _denormalised(self, latents: Tensor) -> Tensor:
        device = get_module_execution_device(self.vae)
        mean, deviation = self._statistics(device)
        return (latents.to(device).float() * deviation + mean).to(self.vae.dtype)

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the VAE's latents, ``[1, C, 1, 1, 1]`` each."""
        config = self.vae.config
        mean, deviation = (
            torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, deviation


def _clean(prompt: str) -> str:
    """Resolve HTML entities, doubly escaped ones too, and collapse white space, as Wan's training captions were."""
    return " ".join(html.unescape(html.unescape(prompt)).split())
