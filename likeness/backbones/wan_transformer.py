"""Wan's transformer with references in its sequence.

A sequence is two segments, [video | references]: both pass the same patch embedding and attend to each other, and each
has its own timestep modulation where a method asks for it. Two segments and never a timestep a token: per-token
modulation costs 1.3 GB in float32 a layer at 81 frames of 480 x 832.

Without references everything is the parent's, bit for bit.

Training short sequences (some 100 tokens) on a CPU is 1.3 times as fast after
``transformer.set_attention_backend("_native_math")``: the fused kernel's backward pass is slow there.
"""

# diffusers' names come from a lazy module, which pyright cannot see through.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformerBlock
from diffusers.utils import apply_lora_scale
from torch import Tensor, nn

from likeness.backbones.segments import Modulation, affine, gated
from likeness.conditioning.placement import positions
from likeness.conditioning.sequence import split_tokens
from likeness.errors import UserError
from likeness.method import Placement, ReferenceModulation, ReferenceTimestep
from likeness.types import LatentGrid

Rotary = tuple[Tensor, Tensor]


@lru_cache(maxsize=8)
def rotary_table(
    axis_dims: tuple[int, int, int], grid: LatentGrid, placement: Placement, num_references: int, device: torch.device
) -> Rotary:
    """Cosines and sines ``float32 [1, N, 1, head_dim]`` of the sequence [video | references].

    Taken from the positions themselves and not from a table of fixed length, so that a reference may sit outside the
    area that a video can fill. Equal to diffusers' ``WanRotaryPosEmbed`` on the video. A table of a full-size video
    takes 33 MB, hence a small cache.
    """
    # A table outlives the mode it was made in: one made in inference mode could not serve a training step.
    with torch.inference_mode(False):
        points = positions(placement, grid, num_references)
        # float64 before the cosine: what diffusers uses where the device has it.
        axes: list[Any] = [
            get_1d_rotary_pos_embed(dim, points[:, axis], use_real=True, freqs_dtype=torch.float64)  # type: ignore[arg-type]
            for axis, dim in enumerate(axis_dims)
        ]
        cos = torch.cat([axis[0] for axis in axes], dim=1)
        sin = torch.cat([axis[1] for axis in axes], dim=1)
        return cos[None, :, None].to(device), sin[None, :, None].to(device)


class ConcatWanRotaryPosEmbed(WanRotaryPosEmbed):
    """Wan's rotary embedding, which also places references."""

    def forward(self, hidden_states: Tensor, placement: Placement | None = None, num_references: int = 0) -> Any:
        """Cosines and sines for video latents ``[B, C, T, H, W]``, which are read for their size and device."""
        if placement is None:
            return super().forward(hidden_states)
        sizes = (size // patch for size, patch in zip(hidden_states.shape[2:], self.patch_size, strict=True))
        dims = (self.t_dim, self.h_dim, self.w_dim)
        return rotary_table(dims, LatentGrid(*sizes), placement, num_references, hidden_states.device)


class ConcatWanTransformerBlock(WanTransformerBlock):
    """A Wan block over [video | references]."""

    def __init__(self, dim: int, *args: Any, reference_modulation: ReferenceModulation, **kwargs: Any) -> None:
        super().__init__(dim, *args, **kwargs)
        if reference_modulation == "separate":
            self.scale_shift_table_ref = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        rotary_emb: Any,
        num_video_tokens: int | None = None,
        temb_reference: Tensor | None = None,
        reference_reads_text: bool = False,
    ) -> Tensor:
        """Run the block.

        Args:
            hidden_states: ``[B, N, D]``, the video's tokens first.
            encoder_hidden_states: embedded text ``[B, L, D]``.
            temb: timestep projection ``[B, 6, D]`` of the video.
            rotary_emb: cosines and sines of all N tokens.
            num_video_tokens: where the references begin; None without references.
            temb_reference: timestep projection ``[B, 6, D]`` of the references; None where they share the video's.
            reference_reads_text: whether cross-attention reaches the references.
        """
        if num_video_tokens is None:
            return super().forward(hidden_states, encoder_hidden_states, temb, rotary_emb)
        boundary = num_video_tokens
        video, reference = self._modulations(temb, temb_reference)

        # 1. Self-attention of both segments together
        normed = self.norm1(hidden_states.float())
        normed = affine(normed, boundary, video[:2], reference[:2]).type_as(hidden_states)
        attended = self.attn1(normed, None, None, rotary_emb)
        update = gated(attended, boundary, video.gate_attn, reference.gate_attn)
        hidden_states = (hidden_states.float() + update).type_as(hidden_states)

        # 2. Cross-attention to the text
        readers, rest = (hidden_states, None) if reference_reads_text else split_tokens(hidden_states, boundary)
        if readers.shape[1]:  # a process's share under context parallel may be of references alone
            normed = self.norm2(readers.float()).type_as(hidden_states)
            readers = readers + self.attn2(normed, encoder_hidden_states, None, None)
        hidden_states = readers if rest is None else torch.cat([readers, rest], dim=1)

        # 3. Feed-forward
        normed = self.norm3(hidden_states.float())
        normed = affine(normed, boundary, video[3:5], reference[3:5]).type_as(hidden_states)
        update = gated(self.ffn(normed).float(), boundary, video.gate_ffn, reference.gate_ffn)
        return (hidden_states.float() + update).type_as(hidden_states)

    def _modulations(self, temb: Tensor, temb_reference: Tensor | None) -> tuple[Modulation, Modulation]:
        video = Modulation(*(self.scale_shift_table + temb.float()).chunk(6, dim=1))
        if temb_reference is None:
            return video, video
        if not hasattr(self, "scale_shift_table_ref"):
            return video, Modulation(*(self.scale_shift_table + temb_reference.float()).chunk(6, dim=1))
        reference = Modulation(*(self.scale_shift_table_ref + temb_reference.float()).chunk(6, dim=1))
        # The published AdaLN weights were trained with the attention's shift and scale before the reference's
        # feed-forward as well, and depend on it.
        return video, reference._replace(shift_ffn=reference.shift_attn, scale_ffn=reference.scale_attn)


class ConcatWanTransformer3DModel(WanTransformer3DModel):
    """diffusers' Wan transformer, of which a forward pass also takes references.

    With ``reference_modulation="shared"`` the parameters are those of the parent, name by name, so any Wan
    text-to-video folder of diffusers loads. "separate" (Concat-ID-Wan-AdaLN) adds a timestep projection and a
    modulation table a block for the references; make one from ordinary weights with :meth:`from_base`.
    """

    config: Any  # a table whose keys are attributes too
    condition_embedder: Any
    _gradient_checkpointing_func: Any

    _no_split_modules = ["ConcatWanTransformerBlock"]
    _repeated_blocks = ["ConcatWanTransformerBlock"]
    _keep_in_fp32_modules = [*WanTransformer3DModel._keep_in_fp32_modules, "scale_shift_table_ref"]
    # The parent's plan serves: rotary tables and tokens are split, what comes out of proj_out is put together again.

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        reference_modulation: ReferenceModulation = "shared",
    ) -> None:
        # The parent makes everything but the blocks, of which ours are another class.
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=0,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
        )
        self.register_to_config(num_layers=num_layers)
        dim = num_attention_heads * attention_head_dim
        self.blocks = nn.ModuleList(
            ConcatWanTransformerBlock(
                dim,
                ffn_dim,
                num_attention_heads,
                qk_norm,  # type: ignore[arg-type]
                cross_attn_norm,
                eps,
                added_kv_proj_dim,
                reference_modulation=reference_modulation,
            )
            for _ in range(num_layers)
        )
        self.rope = ConcatWanRotaryPosEmbed(attention_head_dim, patch_size, rope_max_seq_len)  # type: ignore[arg-type]
        if reference_modulation == "separate":
            self.condition_embedder.time_proj_ref = nn.Linear(dim, 6 * dim)

    @classmethod
    def from_base(
        cls, base: WanTransformer3DModel, reference_modulation: ReferenceModulation = "shared"
    ) -> ConcatWanTransformer3DModel:
        """Take over the weights of a Wan transformer, sharing their memory.

        The references' own modulation, if any, starts as a copy of the video's, with which the model computes what it
        did before but for the published feed-forward modulation of the AdaLN variant.
        """
        settings = {key: value for key, value in base.config.items() if not key.startswith("_")}
        with torch.device("meta"):
            model = cls(**{**settings, "reference_modulation": reference_modulation})
        state = dict(base.state_dict())
        if reference_modulation == "separate":
            for name in ("weight", "bias"):
                video = state[f"condition_embedder.time_proj.{name}"]
                state.setdefault(f"condition_embedder.time_proj_ref.{name}", video.clone())
            for index in range(model.config.num_layers):
                video = state[f"blocks.{index}.scale_shift_table"]
                state.setdefault(f"blocks.{index}.scale_shift_table_ref", video.clone())
        model.load_state_dict(state, assign=True)
        # Buffers that are not saved were made on the meta device.
        config = model.config
        model.rope = ConcatWanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
        model.rope.to(next(base.parameters()).device)
        return model.train(base.training)

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Any,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        references: tuple[Tensor, ...] | None = None,
        placement: Placement | None = None,
        reference_reads_text: bool = False,
        reference_timestep: ReferenceTimestep = "shared",
    ) -> Any:
        """Predict the video's velocity.

        Args:
            hidden_states: noisy video latents ``[B, C, T, H, W]``.
            timestep: ``[B]`` in 0..1000.
            encoder_hidden_states: text embeddings ``[B, L, text_dim]``.
            encoder_hidden_states_image, attention_kwargs: as the parent.
            references: clean latents ``[B, C, 1, H, W]`` each; None or empty for the parent's forward pass.
            placement: rotary positions of the references.
            reference_reads_text: whether cross-attention reaches the references.
            reference_timestep: "clean" modulates the references as at timestep 0.
            return_dict: False for a tuple.

        Returns:
            The prediction ``[B, C, T, H, W]`` of the video alone.
        """
        if not references:
            return super().forward(
                hidden_states, timestep, encoder_hidden_states, encoder_hidden_states_image, return_dict
            )
        if timestep.ndim != 1 or encoder_hidden_states_image is not None:
            raise UserError("References go with one timestep a video and without image embeddings (text-to-video).")
        latents = hidden_states
        rotary_emb = self.rope(latents, placement or Placement(), len(references))

        tokens = [self.patch_embedding(item).flatten(2).transpose(1, 2) for item in (latents, *references)]
        num_video_tokens = tokens[0].shape[1]
        tokens = torch.cat(tokens, dim=1)  # [B, N, D]
        temb, projection, text, _ = self.condition_embedder(timestep, encoder_hidden_states)
        projection_reference = self._reference_projection(temb, reference_timestep)

        inputs = (text, projection.unflatten(1, (6, -1)), rotary_emb)
        extra = (self._local_boundary(num_video_tokens, tokens.shape[1]), projection_reference, reference_reads_text)
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(block, tokens, *inputs, *extra)
            else:
                tokens = block(tokens, *inputs, *extra)

        output = self._unembed(tokens, temb, latents.shape)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _reference_projection(self, temb: Tensor, reference_timestep: ReferenceTimestep) -> Tensor | None:
        """Timestep projection ``[B, 6, D]`` of the references; None where it is the video's."""
        embedder = self.condition_embedder
        separate = self.config.reference_modulation == "separate"
        if reference_timestep == "shared" and not separate:
            return None
        if reference_timestep == "clean":
            zero = embedder.timesteps_proj(torch.zeros(temb.shape[0], device=temb.device))
            zero = zero.to(next(embedder.time_embedder.parameters()).dtype)
            temb = embedder.time_embedder(zero).type_as(temb)
        project = embedder.time_proj_ref if separate else embedder.time_proj
        return project(embedder.act_fn(temb)).unflatten(1, (6, -1))

    def _local_boundary(self, num_video_tokens: int, num_tokens: int) -> int:
        """Where the references begin in this process's share of the sequence: in all of it without context parallel."""
        config = getattr(self._parallel_config, "context_parallel_config", None)
        if config is None:
            return num_video_tokens
        mesh = config._flattened_mesh
        # As torch.tensor_split cuts: the first ranks take one token more where the number does not divide.
        share, longer = divmod(num_tokens, mesh.size())
        rank = torch.distributed.get_rank(mesh.get_group())
        start, length = rank * share + min(rank, longer), share + (rank < longer)
        return min(max(num_video_tokens - start, 0), length)

    def _unembed(self, tokens: Tensor, temb: Tensor, shape: torch.Size) -> Tensor:
        """Output norm, projection and unpatchify: tokens ``[B, N, D]``, the video's first -> ``[B, C, T, H, W]``.

        The references pass the projection too, for context parallel puts the sequence together behind it.
        """
        shift, scale = (self.scale_shift_table.to(temb.device) + temb.unsqueeze(1)).chunk(2, dim=1)
        shift, scale = shift.to(tokens.device), scale.to(tokens.device)
        tokens = (self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens)
        patch = self.config.patch_size
        sizes = [size // step for size, step in zip(shape[2:], patch, strict=True)]
        patches = self.proj_out(tokens)[:, : math.prod(sizes)]
        patches = patches.unflatten(2, (*patch, -1)).unflatten(1, sizes)  # [B, T, H, W, pt, ph, pw, C]
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


# Step caches of diffusers (FirstBlockCache and kin) look a block up by its exact class.
TransformerBlockRegistry.register(
    model_class=ConcatWanTransformerBlock,
    metadata=TransformerBlockMetadata(
        return_hidden_states_index=0,
        return_encoder_hidden_states_index=None,  # type: ignore[arg-type]
    ),
)
