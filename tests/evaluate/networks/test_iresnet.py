"""IR-101: the official file's layout, its size, and crops as ConsisID cuts them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from likeness.evaluate.networks.iresnet import Curricular, IResNet, curricular_crop
from likeness.evaluate.weights import IR101, load_network, origin
from likeness.faces.align import ARCFACE_TEMPLATE


def published_names() -> set[str]:
    """Names of the tensors in glint360k_curricular_face_r101_backbone.bin: 3 + 13 + 30 + 3 units."""

    def norm(name: str, affine: bool = True) -> set[str]:
        parts = ("running_mean", "running_var", "num_batches_tracked", *(("weight", "bias") if affine else ()))
        return {f"{name}.{part}" for part in parts}

    names = {"input_layer.0.weight", "input_layer.2.weight", "output_layer.3.weight", "output_layer.3.bias"}
    names |= norm("input_layer.1") | norm("output_layer.0") | norm("output_layer.4", affine=False)
    for unit in range(49):
        layer = f"body.{unit}.res_layer"
        names |= {f"{layer}.1.weight", f"{layer}.3.weight", f"{layer}.4.weight"}
        names |= norm(f"{layer}.0") | norm(f"{layer}.2") | norm(f"{layer}.5")
    for unit in (3, 16, 46):  # where the width doubles
        names |= {f"body.{unit}.shortcut_layer.0.weight"} | norm(f"body.{unit}.shortcut_layer.1")
    return names


def test_full_size_has_the_published_names_and_parameters() -> None:
    with torch.device("meta"):
        network = IResNet()
    state = network.state_dict()
    assert set(state) == published_names()
    assert sum(value.numel() for value in network.parameters()) == 65_150_912
    assert state["output_layer.3.weight"].shape == (512, 512 * 7 * 7)
    assert [state[f"body.{unit}.res_layer.4.weight"].shape[0] for unit in (0, 3, 16, 46)] == [64, 128, 256, 512]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("curricular") / "backbone.bin"
    torch.save(IResNet((1, 1, 1, 1), (4, 4, 6, 6), 512).state_dict(), path)
    return path


def test_embeddings_are_unit_vectors_whatever_the_batch(small: Path) -> None:
    network = load_network(small, IResNet((1, 1, 1, 1), (4, 4, 6, 6), 512), IR101)
    whose = origin(small, IR101)
    curricular = Curricular(network, whose.weights, whose.official)
    assert not whose.official and not network.training
    crops = np.random.default_rng(0).integers(0, 256, (67, 112, 112, 3), dtype=np.uint8)  # more than one batch
    embeddings = curricular(crops)
    assert embeddings.shape == (67, 512) and embeddings.dtype == np.float32
    assert np.abs(np.linalg.norm(embeddings, axis=1) - 1).max() < 1e-6
    assert np.abs(curricular(crops[65:66]) - embeddings[65:66]).max() < 1e-6
    assert curricular(crops[:0]).shape == (0, 512)
    # What ConsisID feeds: RGB, (x / 255 - 0.5) / 0.5.
    pixels = (torch.from_numpy(crops[:2]).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    expected = network(pixels)
    assert np.abs(embeddings[:2] - (expected / expected.norm(dim=1, keepdim=True)).numpy()).max() < 1e-5
    assert np.abs(curricular(crops[:2, ..., ::-1]) - embeddings[:2]).max() > 1e-4  # the order of channels matters


@pytest.mark.slow
def test_full_size_loads_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "glint360k_curricular_face_r101_backbone.bin"
    torch.save(IResNet().state_dict(), path)
    embeddings = Curricular.load(path)(np.full((1, 112, 112, 3), 90, np.uint8))
    assert embeddings.shape == (1, 512) and np.isfinite(embeddings).all()


def test_crop_is_an_aligned_face_halved() -> None:
    """Keypoints that lie on the template at twice the size need no turning: the crop is the picture, halved."""
    picture = cv2.resize(np.random.default_rng(1).integers(0, 256, (28, 28, 3), dtype=np.uint8), (224, 224))
    crop = curricular_crop(picture, 2 * ARCFACE_TEMPLATE)
    expected = picture.reshape(112, 2, 112, 2, 3).mean((1, 3))
    assert crop.shape == (112, 112, 3)
    assert np.abs(crop - expected).max() <= 1
