"""The video branch of LTX-2's transformer, with references in its sequence.

diffusers' model makes video and audio together: a forward pass always runs both, and 5.87 of LTX-2.3's 18.99 billion
parameters serve the audio or what passes between the two. Here are the video's parameters alone, under the same names,
computing what diffusers does with ``isolate_modalities=True``.

A sequence is two segments, [video | references]: they attend to each other, and the references may have a timestep of
their own.
"""

# diffusers' names come from a lazy module, which pyright cannot see through.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import LTX2VideoTransformer3DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import PixArtAlphaTextProjection
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_ltx2 import (
    LTX2AdaLayerNormSingle,
    LTX2AudioVideoRotaryPosEmbed,
)
from diffusers.utils import apply_lora_scale
from torch import Tensor, nn

from likeness.backbones.ltx2_block import ConcatLTX2TransformerBlock, modulation
from likeness.conditioning.placement import positions
from likeness.conditioning.sequence import split_tokens
from likeness.errors import CheckpointError, UserError
from likeness.method import Placement, ReferenceTimestep
from likeness.types import LatentGrid

Rotary = tuple[Tensor, Tensor]

# Tensors of the audio branch and of what passes between it and the video, in the model and in each block.
AUDIO_KEYS = r"^(transformer_blocks\.\d+\.)?(audio_|av_cross_attn_|video_to_audio_|video_a2v_cross_attn_)"


def token_bounds(
    grid: LatentGrid,
    placement: Placement,
    num_references: int,
    *,
    scale_factors: tuple[int, int, int],
    causal_offset: int,
    fps: float,
) -> Tensor:
    """What each token of [video | references] spans, ``float32 [3, N, 2]``: [start, end) in seconds, px and px.

    Latent 0 holds one frame and each later one ``scale_factors[0]``, hence the shift and the clamp on time. A reference
    spans what a latent of the video at its place would.

    Args:
        grid: of the video, in latents.
        placement: of the references.
        num_references: 0 or more.
        scale_factors: frames, rows and columns of px a latent.
        causal_offset: frames that latent 0 holds.
        fps: frames a second.
    """
    starts = positions(placement, grid, num_references).T.float()  # [3, N]
    bounds = torch.stack([starts, starts + 1], dim=-1) * torch.tensor(scale_factors).view(3, 1, 1)
    bounds[0] = (bounds[0] + causal_offset - scale_factors[0]).clamp(min=0) / fps
    return bounds


class ConcatLTX2Transformer3DModel(ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin, CacheMixin):
    """The video branch of diffusers' ``LTX2VideoTransformer3DModel``, of which a forward pass also takes references.

    Parameters have the names that they have there, so any LTX-2 folder of diffusers loads: the audio's tensors
    (:data:`AUDIO_KEYS`) are left where they are. Settings are diffusers' too, and tell LTX-2.0 (caption projection) from
    LTX-2.3 (gated attention, text modulated by the noise level, split rotation) and LTX-2.5 (``ff_bias=False``,
    ``use_prompt_adaln_single=False``).
    """

    config: Any  # a table whose keys are attributes too
    _gradient_checkpointing_func: Any

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ["norm"]
    _no_split_modules = ["ConcatLTX2TransformerBlock"]
    _repeated_blocks = ["ConcatLTX2TransformerBlock"]
    _keys_to_ignore_on_load_unexpected = [AUDIO_KEYS]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 128,
        out_channels: int | None = 128,
        patch_size: int = 1,
        patch_size_t: int = 1,
        num_attention_heads: int = 32,
        attention_head_dim: int = 128,
        cross_attention_dim: int = 4096,
        vae_scale_factors: tuple[int, int, int] = (8, 32, 32),
        pos_embed_max_pos: int = 20,
        base_height: int = 2048,
        base_width: int = 2048,
        gated_attn: bool = False,
        cross_attn_mod: bool = False,
        num_layers: int = 48,
        activation_fn: str = "gelu-approximate",
        qk_norm: str = "rms_norm_across_heads",
        norm_elementwise_affine: bool = False,
        norm_eps: float = 1e-6,
        caption_channels: int = 3840,
        attention_bias: bool = True,
        attention_out_bias: bool = True,
        rope_theta: float = 10000.0,
        rope_double_precision: bool = True,
        causal_offset: int = 1,
        rope_type: str = "interleaved",
        use_prompt_embeddings: bool = True,
        ff_bias: bool = True,
        use_prompt_adaln_single: bool = True,
    ) -> None:
        super().__init__()
        if (patch_size_t, patch_size) != (1, 1):
            raise UserError(
                f"This LTX-2 transformer has patches of {patch_size_t} x {patch_size} x {patch_size} latents; the "
                "published ones have a latent a token, which is what is implemented. Use one of those."
            )
        dim = num_attention_heads * attention_head_dim
        self.proj_in = nn.Linear(in_channels, dim)
        if use_prompt_embeddings:
            self.caption_projection = PixArtAlphaTextProjection(in_features=caption_channels, hidden_size=dim)
        self.time_embed = LTX2AdaLayerNormSingle(dim, num_mod_params=9 if cross_attn_mod else 6)
        if cross_attn_mod and use_prompt_adaln_single:
            self.prompt_adaln = LTX2AdaLayerNormSingle(dim, num_mod_params=2)
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        self.rope = LTX2AudioVideoRotaryPosEmbed(
            dim=dim,
            base_num_frames=pos_embed_max_pos,
            base_height=base_height,
            base_width=base_width,
            scale_factors=vae_scale_factors,
            theta=rope_theta,
            causal_offset=causal_offset,
            double_precision=rope_double_precision,
            rope_type=rope_type,
            num_attention_heads=num_attention_heads,
        )
        self.transformer_blocks = nn.ModuleList(
            ConcatLTX2TransformerBlock(
                dim,
                num_attention_heads,
                attention_head_dim,
                cross_attention_dim,
                gated_attn=gated_attn,
                cross_attn_mod=cross_attn_mod,
                rope_type=rope_type,
                qk_norm=qk_norm,
                activation_fn=activation_fn,
                attention_bias=attention_bias,
                attention_out_bias=attention_out_bias,
                eps=norm_eps,
                elementwise_affine=norm_elementwise_affine,
                ff_bias=ff_bias,
            )
            for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.proj_out = nn.Linear(dim, out_channels or in_channels)
        self.gradient_checkpointing = False

    @classmethod
    def from_base(cls, base: LTX2VideoTransformer3DModel) -> ConcatLTX2Transformer3DModel:
        """Take over the video's weights of diffusers' audio and video transformer, sharing their memory.

        Raises:
            CheckpointError: naming a tensor of neither branch, or one that is missing.
        """
        own = cls._get_init_keys(cls)
        with torch.device("meta"):
            model = cls(**{key: value for key, value in base.config.items() if key in own})
        state = video_tensors(base.state_dict())
        odd = sorted(state.keys() ^ model.state_dict().keys())
        if odd:
            raise CheckpointError(
                f"{len(odd)} tensors are missing or unknown, {odd[0]} among them: not an LTX-2 model."
            )
        model.load_state_dict(state, assign=True)
        return model.train(base.training)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        references: tuple[Tensor, ...] = (),
        placement: Placement | None = None,
        reference_reads_text: bool = True,
        reference_timestep: ReferenceTimestep = "shared",
        fps: float = 24.0,
    ) -> Any:
        """Predict the video's velocity.

        Args:
            hidden_states: noisy video latents ``[B, C, T, H, W]``.
            timestep: ``[B]`` in 0..1000.
            encoder_hidden_states: text ``[B, L, D]`` from the connectors.
            return_dict: False for a tuple.
            attention_kwargs: ``{"scale": ...}`` of a LoRA.
            references: clean latents ``[B, C, 1, H, W]`` each.
            placement: rotary positions of the references.
            reference_reads_text: whether cross-attention reaches the references.
            reference_timestep: "clean" modulates the references as at timestep 0. The text stays modulated by the
                video's noise level for both.
            fps: frames a second, part of the positions.

        Returns:
            The prediction ``[B, C, T, H, W]`` of the video alone.
        """
        batch, _, *sizes = hidden_states.shape
        rotary_emb = self._rotary(LatentGrid(*sizes), placement or Placement(), len(references), fps, hidden_states)
        latents = [item.flatten(2).transpose(1, 2) for item in (hidden_states, *references)]  # [B, N, C] each
        num_video_tokens = latents[0].shape[1]
        tokens = self.proj_in(torch.cat(latents, dim=1))  # [B, N, D]

        def embed(level: Tensor, embedder: nn.Module) -> tuple[Tensor, Tensor]:
            return embedder(level.flatten(), batch_size=batch, hidden_dtype=tokens.dtype)

        temb, embedded = embed(timestep, self.time_embed)
        temb_prompt = embed(timestep, self.prompt_adaln)[0] if hasattr(self, "prompt_adaln") else None
        temb_reference = None
        if references and reference_timestep == "clean":
            temb_reference = embed(torch.zeros_like(timestep), self.time_embed)[0]
        text = encoder_hidden_states
        if self.config.use_prompt_embeddings:
            text = self.caption_projection(text)

        inputs = (text, temb, rotary_emb, temb_prompt, num_video_tokens, temb_reference, reference_reads_text)
        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, tokens, *inputs)
            else:
                tokens = block(tokens, *inputs)

        tokens = split_tokens(tokens, num_video_tokens)[0]
        shift, scale = modulation(self.scale_shift_table, embedded.repeat(1, 2))
        output = self.proj_out(self.norm_out(tokens) * (1 + scale) + shift)
        output = output.transpose(1, 2).unflatten(2, sizes)  # [B, C, T, H, W]
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _rotary(self, grid: LatentGrid, placement: Placement, count: int, fps: float, like: Tensor) -> Rotary:
        """Cosines and sines of [video | references], expanded over the batch, which diffusers' rotation wants.

        Not cached: the table of 121 frames of 704 x 1216 takes 220 MB, and a GPU makes it in a millisecond.
        """
        bounds = token_bounds(
            grid,
            placement,
            count,
            scale_factors=tuple(self.config.vae_scale_factors),
            causal_offset=self.config.causal_offset,
            fps=fps,
        )
        cos, sin = self.rope(bounds[None].to(like.device))
        return cos.expand(len(like), *cos.shape[1:]), sin.expand(len(like), *sin.shape[1:])


def video_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of an audio and video transformer's tensors that are not :data:`AUDIO_KEYS`."""
    return {name: value for name, value in state.items() if not re.match(AUDIO_KEYS, name)}
