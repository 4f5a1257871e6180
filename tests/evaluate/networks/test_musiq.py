"""MUSIQ: the official file's layout, and places and patches that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from likeness.evaluate.networks.musiq import Musiq, MusiqNetwork, hashed_positions, multiscale_patches, same_padding
from likeness.evaluate.weights import MUSIQ, load_network


def published_names() -> set[str]:
    """Names of the tensors in musiq_spaq_ckpt-358bb6af.pth."""
    encoder = "transformer_encoder"
    names = {"conv_root.weight", *(f"block1.{name}.weight" for name in ("conv1", "conv2", "conv3", "conv_proj"))}
    names |= {f"{encoder}.{name}" for name in ("posembed_input.position_emb", "scaleembed_input.scale_emb", "cls")}
    pairs = ["gn_root", *(f"block1.{name}" for name in ("gn1", "gn2", "gn3", "gn_proj")), "embedding", "head"]
    pairs.append(f"{encoder}.encoder_norm")
    parts = (
        "norm1",
        "norm2",
        "mlp.fc1",
        "mlp.fc2",
        *(f"attention.{name}" for name in ("query", "key", "value", "out")),
    )
    pairs += [f"{encoder}.transformer.encoderblock_{layer}.{part}" for layer in range(14) for part in parts]
    return names | {f"{name}.{part}" for name in pairs for part in ("weight", "bias")}


def test_full_size_has_the_published_names_and_parameters() -> None:
    with torch.device("meta"):
        network = MusiqNetwork()
    state = network.state_dict()
    assert set(state) == published_names()
    assert sum(value.numel() for value in network.parameters()) == 27_125_825  # 27M in the paper's table 1
    assert state["embedding.weight"].shape == (384, 16384) and state["head.weight"].shape == (1, 384)


@pytest.fixture(scope="module")
def musiq(tmp_path_factory: pytest.TempPathFactory) -> Musiq:
    torch.manual_seed(0)
    path: Path = tmp_path_factory.mktemp("musiq") / "musiq.pth"
    torch.save(MusiqNetwork(12, 20, 3, 2).state_dict(), path)
    return Musiq(load_network(path, MusiqNetwork(12, 20, 3, 2), MUSIQ), "", False)


def test_scores_do_not_depend_on_the_batch(musiq: Musiq) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 6, 64, 3), dtype=np.uint8)  # two batches
    scores = musiq.score(pictures)
    assert scores.shape == (5,) and scores.dtype == np.float32 and len(set(scores.tolist())) == 5
    assert musiq.score(pictures[4:]) == pytest.approx(scores[4:], abs=1e-5)
    # 0..255 becomes -1..1.
    pixels = torch.from_numpy(pictures[:1]).permute(0, 3, 1, 2).float()
    assert musiq.score(pixels) == pytest.approx(scores[:1], abs=1e-6)
    assert musiq.network(pixels / 127.5 - 1).numpy() == pytest.approx(scores[:1], abs=1e-5)


def test_places_in_the_hashed_grid() -> None:
    assert hashed_positions(10, 10).tolist() == list(range(100))
    assert hashed_positions(1, 5).tolist() == [0, 2, 4, 6, 8]
    assert hashed_positions(2, 1).tolist() == [0, 50]
    assert hashed_positions(20, 20).view(20, 20)[::2, ::2].flatten().tolist() == list(range(100))
    assert hashed_positions(1, 7).tolist() == [0, 1, 2, 4, 5, 7, 8]
    assert hashed_positions(23, 40).max() == 99


def test_patches_of_a_landscape() -> None:
    """96 x 64 px: 224 x 149 (7 by 5 patches), 384 x 256 (12 by 8) and as it is (3 by 2)."""
    ramp = torch.linspace(-1, 1, 96).expand(1, 3, 64, 96)
    patches, positions, scales = multiscale_patches(ramp)
    assert patches.shape == (1, 35 + 96 + 6, 3, 32, 32)
    assert scales.bincount().tolist() == [35, 96, 6]
    assert positions[-6:].tolist() == [0, 3, 6, 50, 53, 56]
    assert torch.equal(patches[0, -5], ramp[0, :, :32, 32:64])  # the second patch of the first row
    first = patches[0, :35].view(5, 7, 3, 32, 32)
    # 149 px in 5 patches of 32: 11 px of zeros, 5 above and 6 below.
    assert first[0, :, :, :5].abs().max() == 0 and first[4, :, :, 26:].abs().max() == 0
    assert first[0, 0, :, 5:].abs().min() > 0.5 and first[4, 0, :, :26].abs().min() > 0.5


def test_a_scale_of_the_pictures_own_size_is_the_picture() -> None:
    torch.manual_seed(2)
    picture = torch.rand(1, 3, 96, 384)
    patches, _, scales = multiscale_patches(picture)
    assert torch.equal(patches[:, scales == 1], patches[:, scales == 2])


def test_padding_puts_the_odd_px_at_the_end() -> None:
    padded = same_padding(torch.ones(1, 1, 32, 32), kernel=7, stride=2)
    assert padded.shape == (1, 1, 37, 37)
    assert padded[0, 0, 10].tolist() == [0.0] * 2 + [1.0] * 32 + [0.0] * 3
    assert same_padding(torch.ones(1, 1, 8, 8), kernel=1, stride=1).shape == (1, 1, 8, 8)
