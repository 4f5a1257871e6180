"""MUSIQ, a transformer over patches of a picture at several sizes that says how good it looks, as VBench runs it.

Ke et al., "MUSIQ: Multi-scale Image Quality Transformer" (ICCV 2021), section 3. The tensors have the names of pyiqa's
musiq_spaq_ckpt-358bb6af.pth, and pictures are scaled as there: bicubically, where the paper's own code used a Gaussian.

The published code fills short sequences up with masked tokens. Masked tokens have no part in the result, so there are
none here: all pictures of a batch have the same size and thereby the same number of patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from likeness.evaluate.weights import MUSIQ, open_network

PATCH_PX = 32
LONG_SIDES_PX = (224, 384)  # the scales beside the picture's own size
GRID = 10  # positions are hashed to a grid of 10 x 10

_STEM = 64  # width of the convolutions before the transformer
_GROUPS = 32
_BATCH = 4


class StandardisedConv(nn.Conv2d):
    """A convolution whose filters have mean 0 and deviation 1, padded as TensorFlow's "same": the odd px at the end."""

    def forward(self, input: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        # The deviation of a sample (divided by n - 1), as in the port that the published scores come from.
        filters = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-5)
        return functional.conv2d(
            same_padding(input, self.kernel_size[0], self.stride[0]), filters.view_as(self.weight), stride=self.stride
        )


def same_padding(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around ``[.., H, W]`` such that a window of ``kernel`` px has ceil(side / stride) places on each side."""
    height, width = x.shape[-2:]
    down, right = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (height, width))
    return functional.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))


class Bottleneck(nn.Module):
    """The residual unit that makes features of a patch: ``[N, 64, 8, 8]`` to ``[N, 256, 8, 8]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = StandardisedConv(width, width, 1, bias=False)
        self.gn1 = nn.GroupNorm(_GROUPS, width, eps=1e-4)
        self.conv2 = StandardisedConv(width, width, 3, bias=False)
        self.gn2 = nn.GroupNorm(_GROUPS, width, eps=1e-4)
        self.conv3 = StandardisedConv(width, 4 * width, 1, bias=False)
        self.gn3 = nn.GroupNorm(_GROUPS, 4 * width, eps=1e-4)
        self.conv_proj = StandardisedConv(width, 4 * width, 1, bias=False)
        self.gn_proj = nn.GroupNorm(_GROUPS, 4 * width, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        around = self.gn_proj(self.conv_proj(x))
        x = functional.relu(self.gn1(self.conv1(x)))
        x = functional.relu(self.gn2(self.conv2(x)))
        return functional.relu(around + self.gn3(self.conv3(x)))


class Attention(nn.Module):
    """Self-attention with separate projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Feedforward(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and feedforward, each after a normalisation and around a shortcut."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Feedforward(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PositionTable(nn.Module):
    """What is learned of each place of the hashed grid, ``[1, GRID^2, width]``, row by row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_emb = nn.Parameter(torch.zeros(1, GRID * GRID, width))


class ScaleTable(nn.Module):
    """What is learned of each scale, ``[S, width]``: smallest first, the picture's own size last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_emb = nn.Parameter(torch.zeros(len(LONG_SIDES_PX) + 1, width))


class Transformer(nn.Module):
    """Embedded patches with their places to what the class token has gathered, ``[B, width]``."""

    def __init__(self, width: int, inner: int, heads: int, layers: int) -> None:
        super().__init__()
        self.posembed_input = PositionTable(width)
        self.scaleembed_input = ScaleTable(width)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.transformer = nn.ModuleDict({f"encoderblock_{i}": Block(width, inner, heads) for i in range(layers)})

    def forward(self, x: Tensor, positions: Tensor, scales: Tensor) -> Tensor:
        """x: ``[B, N, width]``; positions, scales: ``int64 [N]``."""
        x = x + self.posembed_input.position_emb[0, positions] + self.scaleembed_input.scale_emb[scales]
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        for block in self.transformer.values():
            x = block(x)
        return self.encoder_norm(x)[:, 0]


class MusiqNetwork(nn.Module):
    """Pictures ``[B, 3, H, W]`` in [-1, 1] to scores ``[B]``; on SPAQ they lie in about 0..100, higher is better."""

    def __init__(self, width: int = 384, inner: int = 1152, heads: int = 6, layers: int = 14) -> None:
        super().__init__()
        self.conv_root = StandardisedConv(3, _STEM, 7, 2, bias=False)
        self.gn_root = nn.GroupNorm(_GROUPS, _STEM, eps=1e-6)
        self.block1 = Bottleneck(_STEM)
        self.embedding = nn.Linear(4 * _STEM * (PATCH_PX // 4) ** 2, width)
        self.transformer_encoder = Transformer(width, inner, heads, layers)
        self.head = nn.Linear(width, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        patches, positions, scales = multiscale_patches(pictures)
        embedded = self.embedding(self._features(patches.flatten(0, 1)))
        gathered = self.transformer_encoder(embedded.unflatten(0, patches.shape[:2]), positions, scales)
        return self.head(gathered)[:, 0]

    def _features(self, patches: Tensor) -> Tensor:
        """Patches ``[N, 3, 32, 32]`` to ``[N, 8 * 8 * 256]``, the channel fastest."""
        x = functional.relu(self.gn_root(self.conv_root(patches)))
        x = functional.max_pool2d(same_padding(x, 3, 2), 3, 2)
        return self.block1(x).permute(0, 2, 3, 1).flatten(1)


def multiscale_patches(pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures at every scale, each cut into squares of 32 px (section 3.1).

    Args:
        pictures: ``[B, 3, H, W]`` in [-1, 1].

    Returns:
        patches: ``[B, N, 3, 32, 32]``, scale after scale, row by row; a border of zeros fills the last ones up.
        positions: ``int64 [N]``, place in the hashed grid.
        scales: ``int64 [N]``.
    """
    height, width = pictures.shape[2:]
    sizes = [
        (_scaled(height, side / max(height, width)), _scaled(width, side / max(height, width)))
        for side in LONG_SIDES_PX
    ]
    patches, positions, scales = [], [], []
    for index, size in enumerate([*sizes, (height, width)]):
        # Even at equal size: interpolation at the very same places leaves every px as it is.
        x = pictures if size == (height, width) else functional.interpolate(pictures, size, mode="bicubic")
        x = same_padding(x, PATCH_PX, PATCH_PX)
        rows, cols = x.shape[2] // PATCH_PX, x.shape[3] // PATCH_PX
        cut = x.unflatten(3, (cols, PATCH_PX)).unflatten(2, (rows, PATCH_PX))  # [B, 3, rows, 32, cols, 32]
        patches.append(cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2))
        positions.append(hashed_positions(rows, cols))
        scales.append(torch.full((rows * cols,), index))
    device = pictures.device
    return torch.cat(patches, 1), torch.cat(positions).to(device), torch.cat(scales).to(device)


def hashed_positions(rows: int, cols: int) -> Tensor:
    """Place of every patch in a grid of 10 x 10 laid over the picture, ``int64 [rows * cols]`` in 0..99 (section 3.2)."""
    line = torch.arange(GRID, dtype=torch.float32)[None, None]
    # By interpolation, not i * 10 // n: its step is rounded to float32, and the published weights saw that.
    row, col = (functional.interpolate(line, count, mode="nearest").long()[0, 0] for count in (rows, cols))
    return (row[:, None] * GRID + col).flatten()


def _scaled(side: int, ratio: float) -> int:
    return max(round(side * ratio), 1)


@dataclass(frozen=True, eq=False)
class Musiq:
    """The network with its weights.

    Attributes:
        network: in evaluation mode.
        weights: 16 hex digits of the file's SHA-256.
        official: whether these are the published bytes.
        device: where it runs.
    """

    network: MusiqNetwork
    weights: str
    official: bool
    device: str = "cpu"

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Musiq:
        """Open pyiqa's checkpoint trained on SPAQ, or its tensors as ``.safetensors``.

        Raises:
            CheckpointError: see :func:`likeness.evaluate.weights.open_network`.
        """
        network, whose = open_network(path, MusiqNetwork, MUSIQ, device)
        return cls(network, whose.weights, whose.official, device)

    @torch.inference_mode()
    def score(self, pictures: np.ndarray | Tensor) -> np.ndarray:
        """Scores of pictures of one size.

        Args:
            pictures: ``uint8 [N, H, W, 3]`` RGB, or a tensor ``[N, 3, H, W]`` of 0..255 that was scaled already.

        Returns:
            ``float32 [N]``, about 0..100.
        """
        pixels = pictures if isinstance(pictures, Tensor) else torch.from_numpy(pictures).permute(0, 3, 1, 2)
        scores = [self.network(part.to(self.device).float() / 127.5 - 1).cpu() for part in pixels.split(_BATCH)]
        return torch.cat(scores).numpy()
