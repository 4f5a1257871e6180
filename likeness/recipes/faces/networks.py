"""The two convolutional networks of the tiny face pack; both export to the files that InsightFace loads.

Convolutions are dense rather than depthwise: on a CPU with bf16 units they learn more per second. They have no bias, for
a batch normalisation follows each of them and is folded into it on export.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)
ANCHORS_PER_CELL = 2
# The face size in px that each anchor is meant for, stride by stride: SCRFD's own sizes.
ANCHOR_SIZES = ((16, 32), (64, 128), (256, 512))


def conv_norm(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps H and W (at stride 1) with its normalisation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def conv_norm_relu(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """`conv_norm` with its activation."""
    layers = conv_norm(inputs, outputs, kernel=kernel, stride=stride, groups=groups)
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two 3x3 convolutions around an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm_relu(channels, channels), conv_norm(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


class FaceEncoder(nn.Module):
    """Aligned 112 px faces -> embeddings, not normalised (ArcFace's convention).

    The first layer sees 4x4 blocks of pixels: the faces of 64 px videos are enlarged about three times when aligned, so
    that a full-resolution stem would spend most of the time on interpolated pixels.
    """

    def __init__(self, widths: tuple[int, ...] = (48, 96, 160), blocks: tuple[int, ...] = (0, 1, 1), dim: int = 512):
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(4), conv_norm_relu(48, widths[0])]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            if stage:
                layers.append(conv_norm_relu(widths[stage - 1], width, stride=2))
            layers.extend(Residual(width) for _ in range(count))
        self.body = nn.Sequential(*layers)
        self.reduce = conv_norm(widths[-1], 24, kernel=1)
        # The flattened map keeps where things are, which tells people apart; an average would forget it.
        self.project = nn.Linear(24 * 7 * 7, dim, bias=False)
        self.normalise = nn.BatchNorm1d(dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, 112, 112] RGB in [-1, 1] -> [B, dim]."""
        return self.normalise(self.project(self.reduce(self.body(pixels)).flatten(1)))


class FaceDetector(nn.Module):
    """SCRFD's form: per stride and anchor a score, a box and five keypoints, as distances from the cell's corner.

    The wide depthwise kernels at stride 32 let one cell see a face that fills a 640 px picture.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 80, 112), neck: int = 48) -> None:
        super().__init__()
        stem, quarter, *pyramid = widths
        self.stem = nn.Sequential(
            conv_norm_relu(3, stem, stride=2),
            conv_norm_relu(stem, quarter, stride=2),
        )
        wide = nn.Sequential(*[_WideBlock(pyramid[2]) for _ in range(3)])
        self.stages = nn.ModuleList(
            [
                nn.Sequential(conv_norm_relu(quarter, pyramid[0], stride=2), conv_norm_relu(pyramid[0], pyramid[0])),
                nn.Sequential(conv_norm_relu(pyramid[0], pyramid[1], stride=2), _WideBlock(pyramid[1])),
                nn.Sequential(conv_norm_relu(pyramid[1], pyramid[2], stride=2), wide),
            ]
        )
        self.lateral = nn.ModuleList([conv_norm(width, neck, kernel=1) for width in pyramid])
        self.smooth = nn.ModuleList([conv_norm_relu(neck, neck) for _ in pyramid])
        outputs = ANCHORS_PER_CELL * (1 + 4 + 10)
        heads = [nn.Conv2d(neck, outputs, 1) for _ in pyramid]
        for head in heads:
            nn.init.normal_(head.weight, std=0.01)
            bias = torch.zeros(outputs)
            bias[:ANCHORS_PER_CELL] = -4.6  # a prior of 1 %: most cells have no face
            head.bias = nn.Parameter(bias)
        self.heads = nn.ModuleList(heads)

    def forward(self, pixels: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """pixels [B, 3, H, W] RGB, (x - 127.5) / 128, H and W multiples of 32 -> per stride (logits, boxes, keypoints).

        Each is [B, K, 1 | 4 | 10] with K = H/s * W/s * 2, anchors innermost, in units of the stride.
        """
        x = self.stem(pixels)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        above = None
        levels: list[tuple[Tensor, Tensor, Tensor]] = []
        for level in (2, 1, 0):
            x = self.lateral[level](maps[level])
            above = x if above is None else x + F.interpolate(above, scale_factor=2.0, mode="nearest")
            raw = self.heads[level](self.smooth[level](F.relu(above)))
            levels.insert(0, _split(raw, level))
        return tuple(levels)


class _WideBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(channels, channels, kernel=7, groups=channels),
            conv_norm_relu(channels, 2 * channels, kernel=1),
            conv_norm(2 * channels, channels, kernel=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def _split(raw: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
    """raw [B, 2 * 15, h, w] -> logits [B, K, 1], boxes [B, K, 4], keypoints [B, K, 10]."""
    a = ANCHORS_PER_CELL
    batch, _, height, width = raw.shape
    logits, boxes, keypoints = raw.float().split((a, 4 * a, 10 * a), dim=1)
    # The network speaks in sizes of its anchor, so that every level regresses numbers of about one.
    size = [pixels / STRIDES[level] for pixels in ANCHOR_SIZES[level]]
    boxes = torch.cat([F.softplus(part) * s for part, s in zip(boxes.split(4, 1), size, strict=True)], 1)
    keypoints = torch.cat([part * s for part, s in zip(keypoints.split(10, 1), size, strict=True)], 1)
    parts = ((logits, 1), (boxes, 4), (keypoints, 10))
    flat = [part.permute(0, 2, 3, 1).reshape(batch, height * width * a, numbers) for part, numbers in parts]
    return flat[0], flat[1], flat[2]
