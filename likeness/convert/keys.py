"""Which parameter of diffusers' transformer each tensor of a published checkpoint is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from likeness.errors import CheckpointError

Layout = Literal["wan", "sat", "diffusers"]


@dataclass(frozen=True)
class Piece:
    """A parameter, and which of the equal chunks of a source tensor's rows it is made of.

    Attributes:
        name: of the parameter in diffusers.
        chunks: indices of the chunks, in the order in which they are joined.
        of: into how many chunks the source's first axis is cut.
    """

    name: str
    chunks: tuple[int, ...] = (0,)
    of: int = 1

    def take(self, source: Tensor) -> Tensor:
        """The parameter, sharing the source's memory where it is one piece of it."""
        if self.of == 1:
            return source
        if source.ndim == 0 or source.shape[0] % self.of:
            raise CheckpointError(
                f"The tensor for {self.name} has shape {list(source.shape)}, which cannot be cut into {self.of} equal "
                "chunks; this is another architecture."
            )
        pieces = source.chunk(self.of)
        picked = [pieces[index] for index in self.chunks]
        return picked[0] if len(picked) == 1 else torch.cat(picked)


_END = r"\.(?P<end>weight|bias)"
_WAN_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}

# (pattern of the whole source name, parameters with the pattern's groups in braces)
_Table = Sequence[tuple[str, tuple[Piece, ...]]]

_WAN: _Table = (
    *(
        (rf"blocks\.(?P<n>\d+)\.{theirs}_attn\.{name}{_END}", (Piece(f"blocks.{{n}}.{ours}.{other}.{{end}}"),))
        for theirs, ours in (("self", "attn1"), ("cross", "attn2"))
        for name, other in _WAN_ATTENTION.items()
    ),
    # The norm before cross-attention is the third in Wan's own names and the second in diffusers'.
    (rf"blocks\.(?P<n>\d+)\.norm3{_END}", (Piece("blocks.{n}.norm2.{end}"),)),
    (rf"blocks\.(?P<n>\d+)\.ffn\.0{_END}", (Piece("blocks.{n}.ffn.net.0.proj.{end}"),)),
    (rf"blocks\.(?P<n>\d+)\.ffn\.2{_END}", (Piece("blocks.{n}.ffn.net.2.{end}"),)),
    (r"blocks\.(?P<n>\d+)\.modulation", (Piece("blocks.{n}.scale_shift_table"),)),
    (r"blocks\.(?P<n>\d+)\.modulation_ref", (Piece("blocks.{n}.scale_shift_table_ref"),)),
    (rf"time_embedding\.0{_END}", (Piece("condition_embedder.time_embedder.linear_1.{end}"),)),
    (rf"time_embedding\.2{_END}", (Piece("condition_embedder.time_embedder.linear_2.{end}"),)),
    (rf"text_embedding\.0{_END}", (Piece("condition_embedder.text_embedder.linear_1.{end}"),)),
    (rf"text_embedding\.2{_END}", (Piece("condition_embedder.text_embedder.linear_2.{end}"),)),
    (rf"time_projection\.1{_END}", (Piece("condition_embedder.time_proj.{end}"),)),
    (rf"time_projection_ref\.1{_END}", (Piece("condition_embedder.time_proj_ref.{end}"),)),
    (rf"patch_embedding{_END}", (Piece("patch_embedding.{end}"),)),
    (rf"head\.head{_END}", (Piece("proj_out.{end}"),)),
    (r"head\.modulation", (Piece("scale_shift_table"),)),
)

_SAT_LAYER = r"transformer\.layers\.(?P<n>\d+)\."
_SAT_NORMS = r"mixins\.adaln_layer\."
_SAT: _Table = (
    (
        rf"{_SAT_LAYER}attention\.query_key_value{_END}",
        tuple(
            Piece(f"transformer_blocks.{{n}}.attn1.to_{name}.{{end}}", (index,), 3) for index, name in enumerate("qkv")
        ),
    ),
    (rf"{_SAT_LAYER}attention\.dense{_END}", (Piece("transformer_blocks.{n}.attn1.to_out.0.{end}"),)),
    (rf"{_SAT_LAYER}input_layernorm{_END}", (Piece("transformer_blocks.{n}.norm1.norm.{end}"),)),
    (rf"{_SAT_LAYER}post_attention_layernorm{_END}", (Piece("transformer_blocks.{n}.norm2.norm.{end}"),)),
    (rf"{_SAT_LAYER}mlp\.dense_h_to_4h{_END}", (Piece("transformer_blocks.{n}.ff.net.0.proj.{end}"),)),
    (rf"{_SAT_LAYER}mlp\.dense_4h_to_h{_END}", (Piece("transformer_blocks.{n}.ff.net.2.{end}"),)),
    # Chunks: video's shift, scale, gate before attention, the same before the feed-forward, then the text's six.
    (
        rf"{_SAT_NORMS}adaLN_modulations\.(?P<n>\d+)\.1{_END}",
        (
            Piece("transformer_blocks.{n}.norm1.linear.{end}", (0, 1, 2, 6, 7, 8), 12),
            Piece("transformer_blocks.{n}.norm2.linear.{end}", (3, 4, 5, 9, 10, 11), 12),
        ),
    ),
    (rf"{_SAT_NORMS}query_layernorm_list\.(?P<n>\d+){_END}", (Piece("transformer_blocks.{n}.attn1.norm_q.{end}"),)),
    (rf"{_SAT_NORMS}key_layernorm_list\.(?P<n>\d+){_END}", (Piece("transformer_blocks.{n}.attn1.norm_k.{end}"),)),
    (rf"transformer\.final_layernorm{_END}", (Piece("norm_final.{end}"),)),
    (rf"time_embed\.0{_END}", (Piece("time_embedding.linear_1.{end}"),)),
    (rf"time_embed\.2{_END}", (Piece("time_embedding.linear_2.{end}"),)),
    (rf"mixins\.patch_embed\.(?P<part>proj|text_proj){_END}", (Piece("patch_embed.{part}.{end}"),)),
    (rf"mixins\.final_layer\.norm_final{_END}", (Piece("norm_out.norm.{end}"),)),
    (rf"mixins\.final_layer\.adaLN_modulation\.1{_END}", (Piece("norm_out.linear.{end}"),)),
    (rf"mixins\.final_layer\.linear{_END}", (Piece("proj_out.{end}"),)),
    # Tables that a forward pass computes, which are no parameters in diffusers.
    (r"mixins\.pos_embed\.freqs_(?:sin|cos)", ()),
    (r"transformer\.position_embeddings\.weight", ()),
)

_TABLES = {
    "wan": [(re.compile(pattern), pieces) for pattern, pieces in _WAN],
    "sat": [(re.compile(pattern), pieces) for pattern, pieces in _SAT],
}


def pieces_of(layout: Layout, key: str) -> tuple[Piece, ...] | None:
    """The parameters in the tensor ``key``; empty for one that is not needed, None for one that is not known."""
    if layout == "diffusers":
        return (Piece(key),)
    for pattern, pieces in _TABLES[layout]:
        if match := pattern.fullmatch(key):
            return tuple(Piece(item.name.format(**match.groupdict()), item.chunks, item.of) for item in pieces)
    return None


def source_of(layout: Layout, parameter: str) -> str:
    """The tensor of a checkpoint that a parameter is made of: the inverse of :func:`pieces_of`; for messages."""
    for pattern, pieces in _TABLES.get(layout, ()):
        # The pattern's groups are the same in both names: {n}, {end} or {part}.
        source = re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", pattern.pattern).replace("\\.", ".")
        for piece in pieces:
            if match := re.fullmatch(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\w+)", re.escape(piece.name)), parameter):
                return source.format(**match.groupdict())
    return parameter
