"""MUSIQ against its published mathematics in numpy, with the masked tokens that the published code fills sequences up with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from likeness.evaluate.networks.musiq import MusiqNetwork, hashed_positions, multiscale_patches

HEADS, LAYERS = 3, 2
Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def network() -> MusiqNetwork:
    torch.manual_seed(7)
    network = MusiqNetwork(width=12, inner=20, heads=HEADS, layers=LAYERS).double().eval()
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim == 1 or value.shape[0] in (1, 3):
                value.normal_(0.2, 0.5)
    return network


def same(x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """TensorFlow's padding of ``[N, C, H, W]``."""
    pads = []
    for side in x.shape[2:]:
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        pads.append((total // 2, total - total // 2))
    return np.pad(x, ((0, 0), (0, 0), *pads))


def convolve(x: np.ndarray, filters: np.ndarray, stride: int = 1) -> np.ndarray:
    kernel = filters.shape[2]
    deviation = filters.std((1, 2, 3), ddof=1, keepdims=True) + 1e-5
    filters = (filters - filters.mean((1, 2, 3), keepdims=True)) / deviation
    padded = same(x, kernel, stride)
    rows, cols = ((side - kernel) // stride + 1 for side in padded.shape[2:])
    total = np.zeros((len(x), len(filters), rows, cols))
    for dy in range(kernel):
        for dx in range(kernel):
            seen = padded[:, :, dy : dy + stride * rows : stride, dx : dx + stride * cols : stride]
            total += np.tensordot(filters[:, :, dy, dx], seen, axes=(1, 1)).swapaxes(0, 1)
    return total


def group_norm(w: Weights, name: str, x: np.ndarray, epsilon: float) -> np.ndarray:
    groups = x.reshape(len(x), 32, -1)
    groups = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + epsilon)
    scale, shift = (w[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("weight", "bias"))
    return groups.reshape(x.shape) * scale + shift


def layer_norm(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def cubic(side: int, scaled: int) -> np.ndarray:
    """Interpolation of a line by Keys' kernel with a = -0.75, the border repeated, as a matrix ``[scaled, side]``."""
    matrix = np.zeros((scaled, side))
    for place in range(scaled):
        middle = (place + 0.5) * side / scaled - 0.5
        for tap in range(math.floor(middle) - 1, math.floor(middle) + 3):
            d = abs(middle - tap)
            near = ((1.25 * d - 2.25) * d) * d + 1
            far = -0.75 * (((d - 5) * d + 8) * d - 4)
            matrix[place, min(max(tap, 0), side - 1)] += near if d <= 1 else far
    return matrix


def tokens(picture: np.ndarray) -> tuple[list[np.ndarray], list[int], list[int], list[bool]]:
    """Patches [3, 32, 32] of a picture [3, H, W]; and of each token its place, its scale, whether it is more than filling."""
    height, width = picture.shape[1:]
    patches, places, scales, valid = [], [], [], []
    for scale, side in enumerate((224, 384, None)):
        x = picture
        if side is not None:
            ratio = side / max(height, width)
            rows, cols = cubic(height, round(height * ratio)), cubic(width, round(width * ratio))
            x = rows @ picture @ cols.T
        x = same(x[None], 32, 32)[0]
        down, across = x.shape[1] // 32, x.shape[2] // 32
        for row in range(down):
            for col in range(across):
                patches.append(x[:, 32 * row : 32 * row + 32, 32 * col : 32 * col + 32])
                places.append(10 * (10 * row // down) + 10 * col // across)
        filling = 0 if side is None else math.ceil(side / 32) ** 2 - down * across
        places += [0] * filling
        scales += [scale] * (down * across) + [0] * filling
        valid += [True] * (down * across) + [False] * filling
    return patches, places, scales, valid


def published(w: Weights, picture: np.ndarray) -> float:
    patches, places, scales, valid = tokens(picture)
    x = np.maximum(group_norm(w, "gn_root", convolve(np.stack(patches), w["conv_root.weight"], 2), 1e-6), 0)
    padded = same(x, 3, 2)
    x = np.max([padded[:, :, dy : dy + 16 : 2, dx : dx + 16 : 2] for dy in range(3) for dx in range(3)], axis=0)
    inner = np.maximum(group_norm(w, "block1.gn1", convolve(x, w["block1.conv1.weight"]), 1e-4), 0)
    inner = np.maximum(group_norm(w, "block1.gn2", convolve(inner, w["block1.conv2.weight"]), 1e-4), 0)
    inner = group_norm(w, "block1.gn3", convolve(inner, w["block1.conv3.weight"]), 1e-4)
    x = np.maximum(inner + group_norm(w, "block1.gn_proj", convolve(x, w["block1.conv_proj.weight"]), 1e-4), 0)
    features = x.transpose(0, 2, 3, 1).reshape(len(x), -1)
    x = np.full((len(valid), 12), 1e3)  # what fills up is masked, whatever it is
    x[valid] = linear(w, "embedding", features)
    encoder = "transformer_encoder"
    x = x + w[f"{encoder}.posembed_input.position_emb"][0][places] + w[f"{encoder}.scaleembed_input.scale_emb"][scales]
    x = np.concatenate([w[f"{encoder}.cls"][0], x])
    mask = np.array([True, *valid])
    for layer in range(LAYERS):
        prefix = f"{encoder}.transformer.encoderblock_{layer}"
        y, out = layer_norm(w, f"{prefix}.norm1", x), []
        q, k, v = (linear(w, f"{prefix}.attention.{name}", y) for name in ("query", "key", "value"))
        for part in np.split(np.arange(q.shape[1]), HEADS):
            logits = q[:, part] @ k[:, part].T / math.sqrt(len(part))
            logits[~(mask[:, None] & mask)] = -1e3
            shares = np.exp(logits - logits.max(1, keepdims=True))
            out.append(shares / shares.sum(1, keepdims=True) @ v[:, part])
        x = x + linear(w, f"{prefix}.attention.out", np.concatenate(out, axis=1))
        y = linear(w, f"{prefix}.mlp.fc1", layer_norm(w, f"{prefix}.norm2", x))
        y = y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2
        x = x + linear(w, f"{prefix}.mlp.fc2", y)
    return float(linear(w, "head", layer_norm(w, f"{encoder}.encoder_norm", x))[0, 0])


@torch.no_grad()
def test_network_is_the_published_mathematics(network: MusiqNetwork) -> None:
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    pictures = np.random.default_rng(8).uniform(-1, 1, (2, 3, 20, 104))
    ours = network(torch.from_numpy(pictures)).numpy()
    assert ours[1] == pytest.approx(published(weights, pictures[1]), abs=1e-9)
    assert abs(ours[0] - ours[1]) > 1e-6  # negative control: the picture matters


@pytest.mark.parametrize(("height", "width"), [(64, 96), (100, 37), (224, 224), (33, 512)])
def test_patches_are_those_of_the_published_code(height: int, width: int) -> None:
    picture = np.random.default_rng(9).uniform(-1, 1, (3, height, width))
    patches, places, scales = multiscale_patches(torch.from_numpy(picture)[None])
    theirs, their_places, their_scales, valid = tokens(picture)
    assert patches.shape[1] == sum(valid)
    assert np.abs(patches[0].numpy() - np.stack(theirs)).max() < 1e-12
    assert places.tolist() == np.array(their_places)[valid].tolist()
    assert scales.tolist() == np.array(their_scales)[valid].tolist()


def test_places_are_exact_for_every_size_of_a_grid() -> None:
    """Steps of 10 / n in float32 never cross an integer for the sizes that occur (up to 512 px: 16 patches)."""
    for rows in range(1, 17):
        for cols in range(1, 17):
            expected = [10 * (10 * row // rows) + 10 * col // cols for row in range(rows) for col in range(cols)]
            assert hashed_positions(rows, cols).tolist() == expected
