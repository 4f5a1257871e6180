"""AMT-S, the frame between two frames, as VBench uses it to ask whether a video moves smoothly.

Li et al., "AMT: All-Pairs Multi-Field Transforms for Efficient Frame Interpolation" (CVPR 2023), section 3: correlations of
both directions (3.2), flows that are refined from coarse to fine with their help (3.2), several flows a px at the end (3.3).
The tensors have the names of the authors' amt-s.pth, whose licence (CC BY-NC 4.0) forbids commercial use.

A pair of flows leads from the frame between to the first frame and to the second; ``both`` holds the two after each other,
``[B, 4, h, w]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from likeness.evaluate.networks.raft import correlation_pyramid, look_up
from likeness.evaluate.weights import AMT, open_network

STRIDE = 16  # px of a frame to one of the coarsest features
MIN_SIDE_PX = 113  # padded to 128: of a smaller frame one px is left on the coarsest level of correlations

_LEVELS, _RADIUS = 4, 3
_FEATURES = 84  # that are correlated
_SIDE = 20  # channels of a residual unit that are filtered on their own
_HALFWAY = 0.5


def _conv_relu(width_in: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width_in, width, 3, stride, 1), nn.PReLU(width))


def _resized(x: Tensor, factor: float) -> Tensor:
    return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def warped(x: Tensor, flow: Tensor) -> Tensor:
    """``x [B, C, h, w]`` at where ``flow [B, 2, h, w]`` (x, y px) leads, bilinearly; the border goes on outside."""
    height, width = flow.shape[2:]
    y, x0 = torch.meshgrid(torch.arange(height, device=x.device), torch.arange(width, device=x.device), indexing="ij")
    points = (torch.stack([x0, y]) + flow).permute(0, 2, 3, 1)  # [B, h, w, 2]
    grid = 2 * points / points.new_tensor([width - 1, height - 1]) - 1
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=True)


class Bottleneck(nn.Module):
    """Three convolutions through a quarter of the width around a shortcut, each normalised by the picture's statistics."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width // 4, 1)
        self.conv2 = nn.Conv2d(width // 4, width // 4, 3, stride, 1)
        self.conv3 = nn.Conv2d(width // 4, width, 1)
        self.downsample = nn.Sequential(nn.Conv2d(width_in, width, 1, stride)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        inner = x
        for conv in (self.conv1, self.conv2, self.conv3):
            inner = functional.relu(functional.instance_norm(conv(inner)))
        around = x if self.downsample is None else functional.instance_norm(self.downsample(x))
        return functional.relu(around + inner)


class FeatureEncoder(nn.Module):
    """Frames to what is correlated: ``[B, 3, H, W]`` to ``[B, 84, H/8, W/8]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, 2, 3)
        self.layer1 = nn.Sequential(Bottleneck(32, 32, 1), Bottleneck(32, 32, 1))
        self.layer2 = nn.Sequential(Bottleneck(32, 64, 2), Bottleneck(64, 64, 1))
        self.layer3 = nn.Sequential(Bottleneck(64, 96, 2), Bottleneck(96, 96, 1))
        self.conv2 = nn.Conv2d(96, _FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(functional.instance_norm(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class Pyramid(nn.Module):
    """Frames to features of four sizes, the largest first; each half as large as the one before."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        before = (3, *widths)
        for index, width in enumerate(widths):
            self.add_module(
                f"pyramid{index + 1}", nn.Sequential(_conv_relu(before[index], width, 2), _conv_relu(width, width))
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for stage in self.children():
            x = stage(x)
            found.append(x)
        return found


class SideResidual(nn.Module):
    """Five convolutions around a shortcut; after the first and the third, the last channels are filtered once more."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv3 = _conv_relu(width, width), _conv_relu(width, width)
        self.conv2, self.conv4 = _conv_relu(_SIDE, _SIDE), _conv_relu(_SIDE, _SIDE)
        self.conv5 = nn.Conv2d(width, width, 3, 1, 1)
        self.prelu = nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = x
        for main, side in ((self.conv1, self.conv2), (self.conv3, self.conv4)):
            inner = main(inner)
            inner = torch.cat([inner[:, :-_SIDE], side(inner[:, -_SIDE:])], 1)
        return self.prelu(x + self.conv5(inner))


class Decoder(nn.Module):
    """Joined features to ``out`` channels at twice the size."""

    def __init__(self, width_in: int, width: int, out: int) -> None:
        super().__init__()
        self.convblock = nn.Sequential(
            _conv_relu(width_in, width), SideResidual(width), nn.ConvTranspose2d(width, out, 4, 2, 1)
        )

    def forward(self, *parts: Tensor) -> Tensor:
        return self.convblock(torch.cat(parts, 1))


class Update(nn.Module):
    """What was looked up, to a change of the features between and of both flows, at an eighth of the frame's size.

    Args:
        features: channels of the features.
        factor: how much larger than an eighth they are.
    """

    def __init__(self, features: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        hidden = 76
        self.convc1 = nn.Conv2d(2 * _LEVELS * (2 * _RADIUS + 1) ** 2, 64, 1)
        self.convf1 = nn.Conv2d(4, 40, 7, 1, 3)
        self.convf2 = nn.Conv2d(40, 20, 3, 1, 1)
        self.conv = nn.Conv2d(64 + 20, 68, 3, 1, 1)
        self.gru = self._two(68 + 4 + features, hidden, hidden)
        self.feat_head = self._two(hidden, hidden, features)
        self.flow_head = self._two(hidden, hidden, 4)

    @staticmethod
    def _two(width_in: int, width: int, out: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(width_in, width, 3, 1, 1), nn.LeakyReLU(0.1), nn.Conv2d(width, out, 3, 1, 1))

    def forward(self, features: Tensor, both: Tensor, correlation: Tensor) -> tuple[Tensor, Tensor]:
        if self.factor > 1:
            features = _resized(features, 1 / self.factor)
        c = functional.leaky_relu(self.convc1(correlation), 0.1)
        f = functional.leaky_relu(self.convf2(functional.leaky_relu(self.convf1(both), 0.1)), 0.1)
        seen = functional.leaky_relu(self.conv(torch.cat([c, f], 1)), 0.1)
        state = self.gru(torch.cat([seen, both, features], 1))
        change, change_both = self.feat_head(state), self.flow_head(state)
        if self.factor > 1:
            change, change_both = _resized(change, self.factor), self.factor * _resized(change_both, self.factor)
        return change, change_both


class AmtNetwork(nn.Module):
    """Two frames ``[B, 3, H, W]`` in [0, 1], sides divisible by 16 and at least 128, to the one halfway between them."""

    def __init__(self, widths: tuple[int, int, int, int] = (20, 32, 44, 56), num_flows: int = 3) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.num_flows = num_flows
        self.feat_encoder = FeatureEncoder()
        self.encoder = Pyramid(widths)
        self.decoder4 = Decoder(2 * fourth + 1, 2 * fourth, third + 4)
        self.decoder3 = Decoder(3 * third + 4, 3 * third, second + 4)
        self.decoder2 = Decoder(3 * second + 4, 3 * second, first + 4)
        self.decoder1 = Decoder(3 * first + 4, 3 * first, 8 * num_flows)
        self.update4 = Update(third, 1)
        self.update3 = Update(second, 2)
        self.update2 = Update(first, 4)
        self.comb_block = nn.Sequential(
            nn.Conv2d(3 * num_flows, 6 * num_flows, 3, 1, 1),
            nn.PReLU(6 * num_flows),
            nn.Conv2d(6 * num_flows, 3, 3, 1, 1),
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        mean = torch.stack([first, second]).mean((0, 2, 3, 4)).view(-1, 1, 1, 1)  # of both frames and all channels
        first, second = first - mean, second - mean
        a, b = self.feat_encoder(torch.cat([first, second])).chunk(2)
        correlations = correlation_pyramid(a, b, _LEVELS), correlation_pyramid(b, a, _LEVELS)
        of_first, of_second = self.encoder(first), self.encoder(second)

        time = first.new_full((len(first), 1, *of_first[3].shape[2:]), _HALFWAY)
        both, features = self.decoder4(of_first[3], of_second[3], time).tensor_split((4,), 1)
        both, features = self._updated(self.update4, correlations, both, features)
        for index, decoder, update in ((2, self.decoder3, self.update3), (1, self.decoder2, self.update2)):
            decoded = decoder(*self._joined(features, of_first[index], of_second[index], both))
            both, features = decoded[:, :4] + 2 * _resized(both, 2), decoded[:, 4:]
            both, features = self._updated(update, correlations, both, features)
        decoded = self.decoder1(*self._joined(features, of_first[0], of_second[0], both))
        return self._combined(first, second, mean, decoded, 2 * _resized(both, 2))

    @staticmethod
    def _joined(features: Tensor, of_first: Tensor, of_second: Tensor, both: Tensor) -> list[Tensor]:
        return [features, warped(of_first, both[:, :2]), warped(of_second, both[:, 2:]), both]

    @staticmethod
    def _updated(
        update: Update, correlations: tuple[list[Tensor], list[Tensor]], both: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        small = _resized(both, 1 / update.factor) / update.factor if update.factor > 1 else both
        # Moving steadily, a px goes as far from the first frame to the second as twice from halfway to either.
        found = [
            look_up(correlations[0], small[:, 2:] / _HALFWAY, _RADIUS),
            look_up(correlations[1], small[:, :2] / (1 - _HALFWAY), _RADIUS),
        ]
        change, change_both = update(features, small, torch.cat(found, 1))
        return both + change_both, features + change

    def _combined(self, first: Tensor, second: Tensor, mean: Tensor, decoded: Tensor, both: Tensor) -> Tensor:
        """Every flow moves both frames; the candidates' mean, and what a small network makes of them, is the frame."""
        n = self.num_flows
        to_first, to_second, mask, residual = decoded.split([2 * n, 2 * n, n, 3 * n], 1)
        candidates = []
        for index in range(n):
            pair = slice(2 * index, 2 * index + 2)
            share = torch.sigmoid(mask[:, index : index + 1])
            candidates.append(
                share * warped(first, both[:, :2] + to_first[:, pair])
                + (1 - share) * warped(second, both[:, 2:] + to_second[:, pair])
                + mean
                + residual[:, 3 * index : 3 * index + 3]
            )
        return (torch.stack(candidates).mean(0) + self.comb_block(torch.cat(candidates, 1))).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class Amt:
    """The network with its weights.

    Attributes:
        network: in evaluation mode.
        weights: 16 hex digits of the file's SHA-256.
        official: whether these are the published bytes.
        device: where it runs.
    """

    network: AmtNetwork
    weights: str
    official: bool
    device: str = "cpu"

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Amt:
        """Open amt-s.pth, or its tensors as ``.safetensors``.

        Raises:
            CheckpointError: see :func:`likeness.evaluate.weights.open_network`.
        """
        network, whose = open_network(path, AmtNetwork, AMT, device)
        return cls(network, whose.weights, whose.official, device)

    @torch.inference_mode()
    def between(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The frame halfway between two, ``uint8 [H, W, 3]`` RGB each, sides at least ``MIN_SIDE_PX``; rounded down."""
        pair = torch.from_numpy(np.stack([first, second])).to(self.device).permute(0, 3, 1, 2) / 255
        height, width = pair.shape[2:]
        down, right = -height % STRIDE, -width % STRIDE
        top, left = down // 2, right // 2
        pair = functional.pad(pair, (left, right - left, top, down - top), mode="replicate")
        middle = self.network(pair[:1], pair[1:])[0, :, top : top + height, left : left + width]
        return (middle * 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
