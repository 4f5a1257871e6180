"""RAFT against its published mathematics: encoders and updates over a table of tensors, look-ups computed where needed.

The volume of correlations is never built here. Averaging it over squares of the second frame's px is the same as averaging
that frame's features (section 3.2 of the paper), so each sample is a product of features, gathered by integer coordinates.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from likeness.evaluate.networks.raft import RaftNetwork, correlation_pyramid, look_up, upsample

SIZE, LEVELS, RADIUS = (40, 56), 2, 2


@pytest.fixture(scope="module")
def network() -> RaftNetwork:
    torch.manual_seed(3)
    network = RaftNetwork(features=32, hidden=24, context=20, levels=LEVELS, radius=RADIUS).double().eval()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif value.is_floating_point() and value.ndim == 1:
            value.normal_(0.1, 0.2)
    return network


def norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """By the statistics of training where the file has them (batch), else by those of the picture (instance)."""
    if f"{name}.weight" not in w:
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-5).sqrt()
    column = {part: w[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")}
    return (x - column["running_mean"]) / (column["running_var"] + 1e-5).sqrt() * column["weight"] + column["bias"]


def conv(w: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    filters = w[f"{name}.weight"]
    reach = (filters.shape[2] // 2, filters.shape[3] // 2)
    return functional.conv2d(x, filters, w[f"{name}.bias"], stride, reach)


def encode(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    x = norm(w, f"{name}.norm1", conv(w, f"{name}.conv1", x, 2)).relu()
    for layer in (1, 2, 3):
        for unit in (0, 1):
            prefix, stride = f"{name}.layer{layer}.{unit}", 2 if layer > 1 and unit == 0 else 1
            inner = norm(w, f"{prefix}.norm1", conv(w, f"{prefix}.conv1", x, stride)).relu()
            inner = norm(w, f"{prefix}.norm2", conv(w, f"{prefix}.conv2", inner)).relu()
            if stride == 2:
                x = norm(w, f"{prefix}.norm3", conv(w, f"{prefix}.downsample.0", x, 2))
            x = (x + inner).relu()
    return conv(w, f"{name}.conv2", x)


def looked_up(first: np.ndarray, second: np.ndarray, flow: np.ndarray, levels: int, radius: int) -> np.ndarray:
    """first, second: [D, h, w]; flow: [2, h, w] -> [levels * (2r + 1)^2, h, w]."""
    depth, height, width = first.shape
    y0, x0 = np.mgrid[:height, :width]
    channels = []
    for level in range(levels):
        rows, cols = second.shape[1:]
        for dx in range(-radius, radius + 1):
            for dy in range(-radius, radius + 1):
                x, y = (x0 + flow[0]) / 2**level + dx, (y0 + flow[1]) / 2**level + dy
                left, top = np.floor(x).astype(int), np.floor(y).astype(int)
                total = 0.0
                for row, col in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                    share = (1 - abs(x - col)) * (1 - abs(y - row))
                    inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
                    there = second[:, row.clip(0, rows - 1), col.clip(0, cols - 1)]
                    total = total + share * inside * (first * there).sum(0)
                channels.append(total / np.sqrt(depth))
        second = second[:, : rows // 2 * 2, : cols // 2 * 2].reshape(depth, rows // 2, 2, cols // 2, 2).mean((2, 4))
    return np.stack(channels)


def upsampled(flow: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """flow: [2, h, w]; logits: [576, h, w] -> [2, 8h, 8w]."""
    _, height, width = flow.shape
    weights = np.exp(logits.reshape(9, 8, 8, height, width))
    weights /= weights.sum(0)
    padded = np.pad(8 * flow, ((0, 0), (1, 1), (1, 1)))
    fine = np.zeros((2, 8 * height, 8 * width))
    for y in range(8):
        for x in range(8):
            for place in range(9):
                row, col = divmod(place, 3)
                fine[:, y::8, x::8] += weights[place, y, x] * padded[:, row : row + height, col : col + width]
    return fine


def published(w: dict[str, Tensor], first: Tensor, second: Tensor, iterations: int, hidden_width: int) -> np.ndarray:
    """One pair of frames [1, 3, H, W]."""
    f1, f2 = (encode(w, "fnet", frame)[0].numpy() for frame in (first, second))
    state = encode(w, "cnet", first)
    hidden, context = state[:, :hidden_width].tanh(), state[:, hidden_width:].relu()
    flow = torch.zeros(1, 2, *state.shape[2:], dtype=torch.float64)
    block = "update_block"
    for _ in range(iterations):
        found = torch.from_numpy(looked_up(f1, f2, flow[0].numpy(), LEVELS, RADIUS))[None]
        c = conv(w, f"{block}.encoder.convc2", conv(w, f"{block}.encoder.convc1", found).relu()).relu()
        f = conv(w, f"{block}.encoder.convf2", conv(w, f"{block}.encoder.convf1", flow).relu()).relu()
        motion = conv(w, f"{block}.encoder.conv", torch.cat([c, f], 1)).relu()
        seen = torch.cat([context, motion, flow], 1)
        for pass_ in "12":
            z = conv(w, f"{block}.gru.convz{pass_}", torch.cat([hidden, seen], 1)).sigmoid()
            r = conv(w, f"{block}.gru.convr{pass_}", torch.cat([hidden, seen], 1)).sigmoid()
            q = conv(w, f"{block}.gru.convq{pass_}", torch.cat([r * hidden, seen], 1)).tanh()
            hidden = (1 - z) * hidden + z * q
        flow = flow + conv(w, f"{block}.flow_head.conv2", conv(w, f"{block}.flow_head.conv1", hidden).relu())
    logits = conv(w, f"{block}.mask.2", conv(w, f"{block}.mask.0", hidden).relu()) / 4
    return upsampled(flow[0].numpy(), logits[0].numpy())


@torch.no_grad()
def test_network_is_the_published_mathematics(network: RaftNetwork) -> None:
    torch.manual_seed(4)
    first, second = (torch.rand(2, 3, *SIZE, dtype=torch.float64) * 2 - 1 for _ in range(2))
    ours = network(first, second, iterations=3).numpy()
    assert ours.shape == (2, 2, *SIZE)
    weights = dict(network.state_dict())
    for index in range(2):
        theirs = published(weights, first[index : index + 1], second[index : index + 1], 3, network.hidden)
        assert np.abs(ours[index] - theirs).max() < 1e-9
    assert np.abs(ours[0] - ours[1]).max() > 1e-3  # negative control: the frames matter


@torch.no_grad()
def test_encoder_is_the_published_mathematics(network: RaftNetwork) -> None:
    frame = torch.rand(1, 3, 32, 40, dtype=torch.float64)
    for name in ("fnet", "cnet"):
        ours = network.get_submodule(name)(frame)
        assert ours.shape[2:] == (4, 5)
        assert (ours - encode(dict(network.state_dict()), name, frame)).abs().max() < 1e-10


def test_look_up_is_a_product_of_averaged_features() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(2, 6, 16, 18))
    flow = rng.normal(scale=6.0, size=(2, 16, 18))  # many samples fall outside
    pyramid = correlation_pyramid(torch.from_numpy(first)[None], torch.from_numpy(second)[None], 4)
    assert [tuple(level.shape[2:]) for level in pyramid] == [(16, 18), (8, 9), (4, 4), (2, 2)]
    ours = look_up(pyramid, torch.from_numpy(flow)[None], 3)[0].numpy()
    assert np.abs(ours - looked_up(first, second, flow, 4, 3)).max() < 1e-12


def test_upsampling_is_a_convex_combination() -> None:
    rng = np.random.default_rng(6)
    flow, logits = rng.normal(size=(2, 3, 5)), rng.normal(size=(576, 3, 5))
    ours = upsample(torch.from_numpy(flow)[None], torch.from_numpy(logits)[None])[0].numpy()
    assert np.abs(ours - upsampled(flow, logits)).max() < 1e-12
