"""AMT-S: the official file's layout, frames that are foretold, and an independent reading of its last step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from likeness.evaluate.networks.amt import MIN_SIDE_PX, Amt, AmtNetwork, SideResidual, warped


def published_names() -> set[str]:
    """Names of the tensors in amt-s.pth."""

    def pair(*names: str) -> set[str]:
        return {f"{name}.{part}" for name in names for part in ("weight", "bias")}

    def conv_relu(*names: str) -> set[str]:
        return pair(*(f"{name}.0" for name in names)) | {f"{name}.1.weight" for name in names}

    names = pair("feat_encoder.conv1", "feat_encoder.conv2")
    for layer in (1, 2, 3):
        names |= pair(*(f"feat_encoder.layer{layer}.{unit}.conv{index}" for unit in (0, 1) for index in (1, 2, 3)))
    names |= pair("feat_encoder.layer2.0.downsample.0", "feat_encoder.layer3.0.downsample.0")
    for stage in (1, 2, 3, 4):
        names |= conv_relu(f"encoder.pyramid{stage}.0", f"encoder.pyramid{stage}.1")
        block = f"decoder{stage}.convblock"
        names |= conv_relu(f"{block}.0", *(f"{block}.1.conv{index}" for index in (1, 2, 3, 4)))
        names |= pair(f"{block}.1.conv5", f"{block}.2") | {f"{block}.1.prelu.weight"}
    for stage in (2, 3, 4):
        names |= pair(*(f"update{stage}.{name}" for name in ("convc1", "convf1", "convf2", "conv")))
        names |= pair(*(f"update{stage}.{head}.{i}" for head in ("gru", "feat_head", "flow_head") for i in (0, 2)))
    return names | pair("comb_block.0", "comb_block.2") | {"comb_block.1.weight"}


def test_full_size_has_the_published_names_and_parameters() -> None:
    with torch.device("meta"):
        network = AmtNetwork()
    assert set(network.state_dict()) == published_names()
    assert sum(value.numel() for value in network.parameters()) == 2_990_543  # 3.0M in the paper's table 1


@pytest.fixture(scope="module")
def amt(tmp_path_factory: pytest.TempPathFactory) -> Amt:
    """Of full size, from a file as its authors saved it."""
    torch.manual_seed(0)
    path: Path = tmp_path_factory.mktemp("amt") / "amt-s.pth"
    torch.save({"state_dict": AmtNetwork().state_dict(), "epoch": 300, "optim": {}}, path)
    return Amt.load(path)


def test_the_frame_between_has_the_size_of_its_neighbours(amt: Amt) -> None:
    first, second = np.random.default_rng(0).integers(0, 256, (2, MIN_SIDE_PX, 130, 3), dtype=np.uint8)
    middle = amt.between(first, second)
    assert middle.shape == first.shape and middle.dtype == np.uint8
    # The border that fills the sides up to 128 x 144 is cut off again.
    padded = [np.pad(frame, ((7, 8), (7, 7), (0, 0)), mode="edge") for frame in (first, second)]
    assert np.abs(amt.between(*padded)[7:-8, 7:-7].astype(int) - middle).max() <= 1


@torch.no_grad()
def test_without_corrections_the_frame_between_is_the_mean() -> None:
    """All flows, residuals and the small network are 0 and both masks a half: what is left is the two frames' mean."""
    torch.manual_seed(1)
    network = AmtNetwork((8, 8, 8, 10)).eval()
    for decoder in (network.decoder1, network.decoder2, network.decoder3, network.decoder4):
        for value in decoder.convblock[2].parameters():
            value.zero_()
    for module in (network.update2.flow_head[2], network.update3.flow_head[2], network.update4.flow_head[2]):
        for value in module.parameters():
            value.zero_()
    for value in network.comb_block.parameters():
        value.zero_()
    first, second = torch.rand(2, 1, 3, 128, 128)
    assert (network(first, second) - (first + second) / 2).abs().max() < 1e-5
    # Flows of 4 px to the right to the first frame, 4 to the left to the second, at the last step.
    bias = network.decoder1.convblock[2].bias
    bias[:12] = torch.tensor([4.0, 0.0] * 3 + [-4.0, 0.0] * 3)
    inner = network(first, second)[..., 8:-8]
    assert (inner - (first[..., 12:-4] + second[..., 4:-12]) / 2).abs().max() < 1e-5
    bias[12:15] = 100.0  # the mask takes the first frame alone
    assert (network(first, second)[..., 8:-8] - first[..., 12:-4]).abs().max() < 1e-5
    bias[15:] = -9.0  # what is added; the frame stays in 0..1
    assert network(first, second).abs().max() == 0


def test_warping_follows_the_flow_and_repeats_the_border() -> None:
    line = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 5, 8)
    flow = torch.zeros(1, 2, 5, 8)
    flow[:, 0] = 2.5
    assert warped(line, flow)[0, 0, 2].tolist() == pytest.approx([2.5, 3.5, 4.5, 5.5, 6.5, 7, 7, 7], abs=1e-5)
    flow[:, 0], flow[:, 1] = 0, -3
    column = torch.arange(5.0).view(1, 1, 5, 1).expand(1, 1, 5, 8)
    assert warped(column, flow)[0, 0, :, 3].tolist() == pytest.approx([0, 0, 0, 0, 1], abs=1e-5)


@torch.no_grad()
def test_last_channels_of_a_unit_are_filtered_once_more() -> None:
    unit = SideResidual(24)
    x = torch.randn(1, 24, 6, 6)
    before = unit(x)
    for value in unit.conv2.parameters():
        value.zero_()
    changed = (unit(x) - before).abs().amax((0, 2, 3))
    assert changed.min() > 0  # the third convolution mixes all channels again
    weight = unit.conv3[0].weight
    weight[:, -20:] = 0  # unless it does not read the side
    for value in (unit.conv4[0].weight, unit.conv4[0].bias):
        value.normal_()
    with_side = unit(x)
    for value in unit.conv2.parameters():
        value.normal_()
    assert (unit(x) - with_side).abs().max() == 0
