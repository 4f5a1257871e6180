"""IR-101's network against its published mathematics, written out in numpy over the tensors of a file."""

from __future__ import annotations

import numpy as np
import torch

from likeness.evaluate.networks.iresnet import IResNet

UNITS, WIDTHS, SIZE, EMBEDDING = (2, 1, 2, 1), (6, 8, 8, 10), 32, 7
EPSILON = 1e-5  # of every normalisation


def small_network() -> IResNet:
    """Small, with statistics and slopes that are not those of a fresh network."""
    torch.manual_seed(0)
    network = IResNet(UNITS, WIDTHS, EMBEDDING, SIZE).eval()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif value.is_floating_point() and value.ndim == 1:
            value.normal_(0.3, 0.3)
    return network


def normalise(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    shape = (1, -1, 1, 1) if x.ndim == 4 else (1, -1)
    mean, variance = w[f"{name}.running_mean"].reshape(shape), w[f"{name}.running_var"].reshape(shape)
    x = (x - mean) / np.sqrt(variance + EPSILON)
    if f"{name}.weight" in w:
        x = x * w[f"{name}.weight"].reshape(shape) + w[f"{name}.bias"].reshape(shape)
    return x


def convolve(x: np.ndarray, filters: np.ndarray, stride: int) -> np.ndarray:
    """Tap by tap; as much padding as keeps the size at stride 1."""
    reach = filters.shape[2] // 2
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    total = 0.0
    for dy in range(filters.shape[2]):
        for dx in range(filters.shape[3]):
            seen = padded[:, :, dy : dy + height : stride, dx : dx + width : stride]
            total = total + np.einsum("oc,nchw->nohw", filters[:, :, dy, dx], seen)
    return np.asarray(total)


def rectify(x: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + slopes.reshape(1, -1, 1, 1) * np.minimum(x, 0)


def published(w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    x = rectify(normalise(w, "input_layer.1", convolve(x, w["input_layer.0.weight"], 1)), w["input_layer.2.weight"])
    first_of_stage = np.cumsum((0, *UNITS))[:-1]
    for index in range(sum(UNITS)):
        stride, prefix = (2 if index in first_of_stage else 1), f"body.{index}"
        inner = normalise(w, f"{prefix}.res_layer.0", x)
        inner = normalise(w, f"{prefix}.res_layer.2", convolve(inner, w[f"{prefix}.res_layer.1.weight"], 1))
        inner = rectify(inner, w[f"{prefix}.res_layer.3.weight"])
        inner = normalise(w, f"{prefix}.res_layer.5", convolve(inner, w[f"{prefix}.res_layer.4.weight"], stride))
        if f"{prefix}.shortcut_layer.0.weight" in w:
            projected = convolve(x, w[f"{prefix}.shortcut_layer.0.weight"], stride)
            x = inner + normalise(w, f"{prefix}.shortcut_layer.1", projected)
        else:
            x = inner + x[:, :, ::stride, ::stride]
    x = normalise(w, "output_layer.0", x).reshape(len(x), -1)
    return normalise(w, "output_layer.4", x @ w["output_layer.3.weight"].T + w["output_layer.3.bias"])


@torch.no_grad()
def test_network_is_the_published_mathematics() -> None:
    network = small_network().double()
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    # Widths 6 -> 8 and 8 -> 10 project, 6 -> 6 and 8 -> 8 take every other px: both shortcuts are met.
    assert sum("shortcut_layer.0.weight" in name for name in weights) == 2
    pictures = torch.rand(3, 3, SIZE, SIZE, dtype=torch.float64) * 2 - 1
    ours, theirs = network(pictures).numpy(), published(weights, pictures.numpy())
    assert ours.shape == theirs.shape == (3, EMBEDDING)
    assert np.abs(ours - theirs).max() < 1e-10
    # Negative control: the transcription depends on every kind of tensor.
    for name in ("body.1.res_layer.3.weight", "body.2.shortcut_layer.1.running_var", "output_layer.4.running_mean"):
        assert np.abs(published({**weights, name: weights[name] + 1}, pictures.numpy()) - ours).max() > 1e-6
