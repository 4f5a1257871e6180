"""ViCLIP, CLIP for videos: eight frames and a sentence to unit vectors of one space.

Wang et al., "InternVid" (ICLR 2024), section 4: CLIP ViT-L/14 whose vision tower attends over all patches of all frames, with a
learned embedding of the frame's place. The tensors have the names of the authors' ViClip-InternVid-10M-FLT.pth, whose licence
(CC BY-NC-SA 4.0) forbids commercial use. The sentence is cut at 32 tokens of CLIP's own vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from likeness.errors import CheckpointError
from likeness.evaluate.weights import VICLIP, open_network

NUM_FRAMES = 8
SIZE_PX = 224
_HEAD_DIM = 64


class Attention(nn.Module):
    """Self-attention with one joint projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, is_causal: bool) -> Tensor:
        joint = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = joint.unflatten(2, (3, -1, min(_HEAD_DIM, x.shape[2]))).permute(
            2, 0, 3, 1, 4
        )  # [B, heads, N, .] each
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class Feedforward(nn.Module):
    """Two layers with CLIP's approximation of a GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class Block(nn.Module):
    """Attention and feedforward, each after a normalisation and around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = Attention(width)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = Feedforward(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, is_causal: bool) -> Tensor:
        x = x + self.attn(self.ln_1(x), is_causal)
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Module):
    """Blocks one after another; causal for text."""

    def __init__(self, width: int, layers: int, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.resblocks = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x, self.is_causal)
        return x


class VisionTower(nn.Module):
    """Videos ``[B, 3, T, H, W]``, normalised as for CLIP, to features ``[B, D]``; T as many as the tower was trained with."""

    def __init__(self, width: int, layers: int, patch: int, side: int, frames: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, width, (1, patch, patch), (1, patch, patch), bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((side // patch) ** 2 + 1, width))
        self.temporal_positional_embedding = nn.Parameter(torch.empty(1, frames, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Blocks(width, layers, is_causal=False)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, out))

    def forward(self, videos: Tensor) -> Tensor:
        patches = self.conv1(videos).flatten(3).permute(0, 2, 3, 1)  # [B, T, patches, width]
        places = self.positional_embedding[1:] + self.temporal_positional_embedding[0, :, None]
        whole = (self.class_embedding + self.positional_embedding[0]).expand(len(videos), 1, -1)  # one for all frames
        x = self.transformer(self.ln_pre(torch.cat([whole, (patches + places).flatten(1, 2)], 1)))
        return self.ln_post(x[:, 0]) @ self.proj


class TextTower(nn.Module):
    """Tokens of one sentence ``int64 [1, L]``, its end last, to features ``[1, D]``."""

    def __init__(self, width: int, layers: int, vocabulary: int, longest: int, out: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(longest, width))
        self.transformer = Blocks(width, layers, is_causal=True)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, out))

    def forward(self, tokens: Tensor) -> Tensor:
        # What the authors fill up with comes after the end, which does not see it.
        x = self.transformer(self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]])
        return self.ln_final(x[:, -1]) @ self.text_projection


class ViclipNetwork(nn.Module):
    """Both towers, and the temperature of their training, which cosines do not need."""

    def __init__(
        self,
        vision: tuple[int, int] = (1024, 24),
        text: tuple[int, int] = (768, 12),
        patch: int = 14,
        vocabulary: int = 49408,
        longest: int = 32,
        out: int = 768,
    ) -> None:
        super().__init__()
        self.vision_encoder = VisionTower(*vision, patch, SIZE_PX, NUM_FRAMES, out)
        self.text_encoder = TextTower(*text, vocabulary, longest, out)
        self.temp = nn.Parameter(torch.empty(()))


@dataclass(frozen=True, eq=False)
class Viclip:
    """The network with its weights.

    Attributes:
        network: in evaluation mode.
        tokenizer: a CLIPTokenizer; every CLIP of OpenAI has the same.
        weights: 16 hex digits of the file's SHA-256.
        official: whether these are the published bytes.
        device: where it runs.
    """

    network: ViclipNetwork
    tokenizer: Any
    weights: str
    official: bool
    device: str = "cpu"

    @classmethod
    def load(cls, path: str | Path, tokenizer: Any, device: str = "cpu") -> Viclip:
        """Open ViClip-InternVid-10M-FLT.pth, or its tensors as ``.safetensors``.

        Raises:
            CheckpointError: see :func:`likeness.evaluate.weights.open_network`; or a tokenizer of another vocabulary.
        """
        network, whose = open_network(path, ViclipNetwork, VICLIP, device)
        if len(tokenizer) != network.text_encoder.token_embedding.num_embeddings:
            raise CheckpointError(
                f"ViCLIP knows {network.text_encoder.token_embedding.num_embeddings} tokens, the tokenizer of the CLIP given "
                f"{len(tokenizer)}; give OpenAI's, such as openai/clip-vit-base-patch32."
            )
        return cls(network, tokenizer, whose.weights, whose.official, device)

    @torch.inference_mode()
    def video(self, pixels: Tensor) -> np.ndarray:
        """Embedding of eight frames ``[8, 3, 224, 224]`` that are normalised as for CLIP: ``float32 [D]``, L2 norm 1."""
        features = self.network.vision_encoder(pixels.to(self.device).transpose(0, 1)[None])
        return functional.normalize(features, dim=1)[0].cpu().numpy()

    @torch.inference_mode()
    def text(self, prompt: str) -> np.ndarray:
        """Embedding of a prompt, cut at 32 tokens: ``float32 [D]``, L2 norm 1."""
        longest = len(self.network.text_encoder.positional_embedding)
        tokens = self.tokenizer([prompt], truncation=True, max_length=longest, return_tensors="pt")["input_ids"]
        features = self.network.text_encoder(tokens.to(self.device))
        return functional.normalize(features, dim=1)[0].cpu().numpy()
