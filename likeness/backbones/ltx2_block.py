"""The video's half of a block of LTX-2's transformer, over [video | references]."""

from __future__ import annotations

import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.attention import FeedForward
from diffusers.models.normalization import RMSNorm
from diffusers.models.transformers.transformer_ltx2 import LTX2Attention
from torch import Tensor, nn

from likeness.backbones.segments import Modulation, affine, gated
from likeness.conditioning.sequence import split_tokens

Rotary = tuple[Tensor, Tensor]


def modulation(table: Tensor, temb: Tensor) -> tuple[Tensor, ...]:
    """A block's table ``[P, D]`` and a timestep's ``[B, P * D]`` -> P parameters ``[B, 1, D]``."""
    return (table[None].to(temb.device) + temb.unflatten(1, (table.shape[0], -1))).split(1, dim=1)


class ConcatLTX2TransformerBlock(nn.Module):
    """The video's half of an LTX-2 block, over [video | references]."""

    def __init__(
        self,
        dim: int,
        num_attention_heads: int,
        attention_head_dim: int,
        cross_attention_dim: int,
        *,
        gated_attn: bool,
        cross_attn_mod: bool,
        rope_type: str,
        qk_norm: str,
        activation_fn: str,
        attention_bias: bool,
        attention_out_bias: bool,
        eps: float,
        elementwise_affine: bool,
        ff_bias: bool,
    ) -> None:
        super().__init__()

        def norm() -> RMSNorm:
            return RMSNorm(dim, eps=eps, elementwise_affine=elementwise_affine)

        def attention(cross_dim: int | None) -> LTX2Attention:
            return LTX2Attention(
                query_dim=dim,
                heads=num_attention_heads,
                kv_heads=num_attention_heads,
                dim_head=attention_head_dim,
                bias=attention_bias,
                cross_attention_dim=cross_dim,
                out_bias=attention_out_bias,
                qk_norm=qk_norm,
                rope_type=rope_type,
                apply_gated_attention=gated_attn,
            )

        self.norm1 = norm()
        self.attn1 = attention(None)
        self.norm2 = norm()
        self.attn2 = attention(cross_attention_dim)
        self.norm3 = norm()
        self.ff = FeedForward(dim, activation_fn=activation_fn, bias=ff_bias)
        self.scale_shift_table = nn.Parameter(torch.randn(9 if cross_attn_mod else 6, dim) / dim**0.5)
        if cross_attn_mod:
            self.prompt_scale_shift_table = nn.Parameter(torch.randn(2, dim))

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        rotary_emb: Rotary,
        temb_prompt: Tensor | None = None,
        num_video_tokens: int = 0,
        temb_reference: Tensor | None = None,
        reference_reads_text: bool = True,
    ) -> Tensor:
        """Run the block.

        Args:
            hidden_states: ``[B, N, D]``, the video's tokens first.
            encoder_hidden_states: text ``[B, L, cross_attention_dim]``.
            temb: timestep projection ``[B, P * D]`` of the video.
            rotary_emb: cosines and sines of all N tokens.
            temb_prompt: projection ``[B, 2 * D]`` of the noise level, which modulates the text; None in models that do
                not have it (LTX-2.0, LTX-2.5).
            num_video_tokens: where the references begin; N without references.
            temb_reference: timestep projection of the references; None where they share the video's.
            reference_reads_text: whether cross-attention reaches the references.
        """
        boundary = num_video_tokens
        video = Modulation(*modulation(self.scale_shift_table, temb))
        reference = video
        if temb_reference is not None:
            reference = Modulation(*modulation(self.scale_shift_table, temb_reference))

        # 1. Self-attention of both segments together
        normed = affine(self.norm1(hidden_states), boundary, video[:2], reference[:2])
        attended = self.attn1(normed, query_rotary_emb=rotary_emb)
        hidden_states = hidden_states + gated(attended, boundary, video.gate_attn, reference.gate_attn)

        # 2. Cross-attention to the text
        readers, rest = (hidden_states, None) if reference_reads_text else split_tokens(hidden_states, boundary)
        read = self._read_text(readers, encoder_hidden_states, boundary, video, reference, temb_prompt)
        hidden_states = readers + read
        if rest is not None:
            hidden_states = torch.cat([hidden_states, rest], dim=1)

        # 3. Feed-forward
        normed = affine(self.norm3(hidden_states), boundary, video[3:5], reference[3:5])
        return hidden_states + gated(self.ff(normed), boundary, video.gate_ffn, reference.gate_ffn)

    def _read_text(
        self,
        tokens: Tensor,
        text: Tensor,
        boundary: int,
        video: Modulation,
        reference: Modulation,
        temb_prompt: Tensor | None,
    ) -> Tensor:
        normed = self.norm2(tokens)
        if video.shift_text is None:
            return self.attn2(normed, encoder_hidden_states=text)
        if tokens.shape[1] == boundary:
            reference = video  # only the video reads
        table = self.prompt_scale_shift_table
        # Without a projection of the noise level the table alone modulates the text.
        shift, scale = modulation(table, table.new_zeros(1, table.numel()) if temb_prompt is None else temb_prompt)
        normed = affine(normed, boundary, video[6:8], reference[6:8])  # type: ignore[arg-type]
        read = self.attn2(normed, encoder_hidden_states=text * (1 + scale) + shift)
        return gated(read, boundary, video.gate_text, reference.gate_text)  # type: ignore[arg-type]


# Step caches of diffusers (FirstBlockCache and kin) look a block up by its exact class.
TransformerBlockRegistry.register(
    model_class=ConcatLTX2TransformerBlock,
    metadata=TransformerBlockMetadata(
        return_hidden_states_index=0,
        return_encoder_hidden_states_index=None,  # type: ignore[arg-type]
    ),
)
