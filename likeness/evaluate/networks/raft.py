"""RAFT, optical flow by iterated look-ups in a volume of correlations, in its larger version ("RAFT-large").

Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow" (ECCV 2020): section 3.1 (features), 3.2
(correlation), 3.3 (updates and upsampling). The tensors have the names of the authors' raft-things.pth.

Legend: B pairs of frames; h, w a frame's sides divided by 8; L levels of the correlation pyramid; r radius of a look-up.
A flow ``[B, 2, ., .]`` holds x (to the right) first, then y (down), in px of its own grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from likeness.evaluate.weights import RAFT, open_network

STRIDE = 8  # px of a frame to one of the features
MIN_SIDE_PX = 121  # padded to 128: on the coarsest level of a smaller frame one px is left, and nothing lies between

_WIDTHS = (64, 96, 128)  # of the encoders' stages


def _norm(kind: str, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if kind == "batch" else nn.InstanceNorm2d(width)


class Residual(nn.Module):
    """Two normalised convolutions around a shortcut, which is projected where the unit strides."""

    def __init__(self, width_in: int, width: int, norm: str, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1)
        self.norm1 = _norm(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.norm2 = _norm(norm, width)
        if stride > 1:
            # The authors' file has this normalisation under both names.
            self.norm3 = _norm(norm, width)
            self.downsample = nn.Sequential(nn.Conv2d(width_in, width, 1, stride), self.norm3)
        else:
            self.downsample = None

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.norm1(self.conv1(x)))
        x = functional.relu(self.norm2(self.conv2(x)))
        return functional.relu(around + x)


class Encoder(nn.Module):
    """Frames ``[B, 3, H, W]`` in [-1, 1] to features ``[B, width, H/8, W/8]``."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        stem, middle, last = _WIDTHS
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3)
        self.norm1 = _norm(norm, stem)
        self.layer1 = nn.Sequential(Residual(stem, stem, norm, 1), Residual(stem, stem, norm, 1))
        self.layer2 = nn.Sequential(Residual(stem, middle, norm, 2), Residual(middle, middle, norm, 1))
        self.layer3 = nn.Sequential(Residual(middle, last, norm, 2), Residual(last, last, norm, 1))
        self.conv2 = nn.Conv2d(last, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm1(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class MotionEncoder(nn.Module):
    """What was looked up and the flow so far, to features of motion; the flow itself is their last two channels."""

    def __init__(self, looked_up: int, width: int) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(looked_up, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, 1, 1)
        self.convf1 = nn.Conv2d(2, 128, 7, 1, 3)
        self.convf2 = nn.Conv2d(128, 64, 3, 1, 1)
        self.conv = nn.Conv2d(64 + 192, width - 2, 3, 1, 1)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        c = functional.relu(self.convc2(functional.relu(self.convc1(correlation))))
        f = functional.relu(self.convf2(functional.relu(self.convf1(flow))))
        return torch.cat([functional.relu(self.conv(torch.cat([c, f], 1))), flow], 1)


class SeparableGRU(nn.Module):
    """A gated recurrent unit of convolutions along the rows, then one along the columns (equations 3 to 6)."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        for index, (kernel, padding) in enumerate((((1, 5), (0, 2)), ((5, 1), (2, 0))), start=1):
            for gate in "zrq":
                self.add_module(f"conv{gate}{index}", nn.Conv2d(hidden + inputs, hidden, kernel, 1, padding))

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        for index in (1, 2):
            gates = {gate: self.get_submodule(f"conv{gate}{index}") for gate in "zrq"}
            both = torch.cat([hidden, x], 1)
            update, reset = torch.sigmoid(gates["z"](both)), torch.sigmoid(gates["r"](both))
            candidate = torch.tanh(gates["q"](torch.cat([reset * hidden, x], 1)))
            hidden = torch.lerp(hidden, candidate, update)
        return hidden


class FlowHead(nn.Module):
    """The hidden state to a change of the flow."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(hidden, 256, 3, 1, 1)
        self.conv2 = nn.Conv2d(256, 2, 3, 1, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv2(functional.relu(self.conv1(hidden)))


class Update(nn.Module):
    """One step: a new hidden state, a change of the flow and, from the hidden state, how to upsample it."""

    def __init__(self, looked_up: int, hidden: int, context: int) -> None:
        super().__init__()
        self.encoder = MotionEncoder(looked_up, hidden)
        self.gru = SeparableGRU(hidden, context + hidden)
        self.flow_head = FlowHead(hidden)
        self.mask = nn.Sequential(nn.Conv2d(hidden, 256, 3, 1, 1), nn.ReLU(), nn.Conv2d(256, 9 * STRIDE * STRIDE, 1))

    def forward(self, hidden: Tensor, context: Tensor, correlation: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        motion = self.encoder(flow, correlation)
        hidden = self.gru(hidden, torch.cat([context, motion], 1))
        return hidden, self.flow_head(hidden)


class RaftNetwork(nn.Module):
    """Pairs of frames to the flow from the first to the second.

    Args:
        features: width of the features that are correlated.
        hidden: width of the recurrent state.
        context: width of what the first frame says besides; the sum of both is the second encoder's.
        levels, radius: of the correlation pyramid and of a look-up in it.
    """

    def __init__(
        self, features: int = 256, hidden: int = 128, context: int = 128, levels: int = 4, radius: int = 4
    ) -> None:
        super().__init__()
        self.hidden, self.levels, self.radius = hidden, levels, radius
        self.fnet = Encoder(features, "instance")
        self.cnet = Encoder(hidden + context, "batch")
        self.update_block = Update(levels * (2 * radius + 1) ** 2, hidden, context)

    def forward(self, first: Tensor, second: Tensor, iterations: int = 20) -> Tensor:
        """Flow ``[B, 2, H, W]`` in px, of frames ``[B, 3, H, W]`` in [-1, 1] with sides divisible by 8, at least 128."""
        from_first, from_second = self.fnet(torch.cat([first, second])).chunk(2)
        pyramid = correlation_pyramid(from_first, from_second, self.levels)
        state = self.cnet(first)
        hidden, context = torch.tanh(state[:, : self.hidden]), functional.relu(state[:, self.hidden :])
        flow = hidden.new_zeros(len(first), 2, *hidden.shape[2:])
        for _ in range(iterations):
            found = look_up(pyramid, flow, self.radius)
            hidden, change = self.update_block(hidden, context, found, flow)
            flow = flow + change
        # The authors scale the mask by a quarter, for the size of gradients; only the last one is needed here.
        return upsample(flow, 0.25 * self.update_block.mask(hidden))


def correlation_pyramid(first: Tensor, second: Tensor, levels: int) -> list[Tensor]:
    """Products of every feature of one map with every one of the other (equation 1), averaged over ever larger squares.

    Args:
        first, second: ``[B, D, h, w]``.

    Returns:
        ``[B * h * w, 1, h / 2^l, w / 2^l]`` for each level l: one map over the second frame a px of the first.
    """
    batch, depth, height, width = first.shape
    products = torch.einsum("bdn,bdm->bnm", first.flatten(2), second.flatten(2)) / depth**0.5
    pyramid = [products.reshape(batch * height * width, 1, height, width)]
    for _ in range(levels - 1):
        pyramid.append(functional.avg_pool2d(pyramid[-1], 2))
    return pyramid


def look_up(pyramid: list[Tensor], flow: Tensor, radius: int) -> Tensor:
    """Correlations around where the flow leads, on every level, sampled bilinearly; zero outside the frame.

    On each level the neighbourhood is the square of ``2r + 1`` px there, so it grows twofold from level to level.

    Args:
        pyramid: of :func:`correlation_pyramid`.
        flow: ``[B, 2, h, w]``.

    Returns:
        ``[B, L * (2r + 1)^2, h, w]``; within a level the offset in x varies slowest, as in the authors' weights.
    """
    batch, _, height, width = flow.shape
    y, x = torch.meshgrid(
        torch.arange(height, device=flow.device), torch.arange(width, device=flow.device), indexing="ij"
    )
    target = (torch.stack([x, y]) + flow).permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)  # [B * h * w, 1, 1, 2]
    line = torch.arange(-radius, radius + 1, device=flow.device, dtype=flow.dtype)
    offsets = torch.stack(torch.meshgrid(line, line, indexing="ij"), 2)  # [2r + 1, 2r + 1, 2], x along the first axis
    found = []
    for level, correlation in enumerate(pyramid):
        points = target / 2**level + offsets
        extent = points.new_tensor([correlation.shape[3] - 1, correlation.shape[2] - 1])
        sampled = functional.grid_sample(correlation, 2 * points / extent - 1, align_corners=True)
        found.append(sampled.view(batch, height, width, -1))
    return torch.cat(found, 3).permute(0, 3, 1, 2)


def upsample(flow: Tensor, mask: Tensor) -> Tensor:
    """The flow at the frame's size: each px a convex combination of the nine coarse ones around it (section 3.3).

    Args:
        flow: ``[B, 2, h, w]`` in coarse px; beyond its border lies zero.
        mask: ``[B, 9 * 8 * 8, h, w]``: nine logits for each of 8 x 8 px.

    Returns:
        ``[B, 2, 8h, 8w]`` in px of the frame.
    """
    batch, _, height, width = flow.shape
    weights = mask.view(batch, 9, STRIDE, STRIDE, height, width).softmax(1)
    around = functional.unfold(STRIDE * flow, 3, padding=1).view(batch, 2, 9, height, width)
    return torch.einsum("bkyxhw,bckhw->bchywx", weights, around).reshape(batch, 2, STRIDE * height, STRIDE * width)


@dataclass(frozen=True, eq=False)
class Raft:
    """The network with its weights.

    Attributes:
        network: in evaluation mode.
        weights: 16 hex digits of the file's SHA-256.
        official: whether these are the published bytes.
        device: where it runs.
    """

    network: RaftNetwork
    weights: str
    official: bool
    device: str = "cpu"

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Raft:
        """Open raft-things.pth, or its tensors as ``.safetensors``.

        Raises:
            CheckpointError: see :func:`likeness.evaluate.weights.open_network`.
        """
        network, whose = open_network(path, RaftNetwork, RAFT, device)
        return cls(network, whose.weights, whose.official, device)

    @torch.inference_mode()
    def flow(self, first: np.ndarray, second: np.ndarray, iterations: int = 20) -> np.ndarray:
        """Flow between two frames ``uint8 [H, W, 3]`` RGB, each side at least ``MIN_SIDE_PX``.

        Returns:
            ``float32 [H', W', 2]`` (x, y) px, where H', W' are the sides with the border that fills them up to multiples
            of 8: VBench counts it too.
        """
        pair = torch.from_numpy(np.stack([first, second])).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        down, right = (-side % STRIDE for side in pair.shape[2:])
        pair = functional.pad(pair, (right // 2, right - right // 2, down // 2, down - down // 2), mode="replicate")
        flow = self.network(pair[:1], pair[1:], iterations)
        return flow[0].permute(1, 2, 0).cpu().numpy()
