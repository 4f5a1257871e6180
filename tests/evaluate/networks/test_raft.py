"""RAFT: the official file's layout, and answers of its look-up and upsampling that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from likeness.evaluate.networks.raft import MIN_SIDE_PX, Raft, RaftNetwork, correlation_pyramid, look_up, upsample


def published_names() -> set[str]:
    """Names of the tensors in raft-things.pth, without ``module.``: the second encoder alone has stored statistics."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    layers, norms = [], ["cnet.norm1"]
    for encoder in ("fnet", "cnet"):
        layers += [f"{encoder}.conv1", f"{encoder}.conv2"]
        for unit in (f"{encoder}.layer{layer}.{index}" for layer in (1, 2, 3) for index in (0, 1)):
            layers += [f"{unit}.conv1", f"{unit}.conv2"]
            norms += [f"{unit}.norm1", f"{unit}.norm2"] if encoder == "cnet" else []
        for unit in (f"{encoder}.layer2.0", f"{encoder}.layer3.0"):
            layers.append(f"{unit}.downsample.0")
            norms += [f"{unit}.norm3", f"{unit}.downsample.1"] if encoder == "cnet" else []
    layers += [f"update_block.encoder.{name}" for name in ("convc1", "convc2", "convf1", "convf2", "conv")]
    layers += [f"update_block.gru.conv{gate}{index}" for gate in "zrq" for index in (1, 2)]
    layers += ["update_block.flow_head.conv1", "update_block.flow_head.conv2"]
    layers += ["update_block.mask.0", "update_block.mask.2"]
    return {f"{name}.{part}" for name in layers for part in ("weight", "bias")} | {
        f"{name}.{part}" for name in norms for part in norm
    }


def test_full_size_has_the_published_names_and_parameters() -> None:
    with torch.device("meta"):
        network = RaftNetwork()
    assert set(network.state_dict()) == published_names()
    assert sum(value.numel() for value in network.parameters()) == 5_257_536  # 5.3M in the paper's table 1


@pytest.fixture(scope="module")
def raft(tmp_path_factory: pytest.TempPathFactory) -> Raft:
    """Of full size, from a file as its authors saved it: out of DataParallel, in the old format."""
    torch.manual_seed(0)
    path: Path = tmp_path_factory.mktemp("raft") / "raft-things.pth"
    state = {f"module.{name}": value for name, value in RaftNetwork().state_dict().items()}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return Raft.load(path)


def test_flow_is_that_of_the_frames_with_their_border(raft: Raft) -> None:
    first, second = np.random.default_rng(0).integers(0, 256, (2, 122, 131, 3), dtype=np.uint8)
    flow = raft.flow(first, second, iterations=1)
    assert flow.shape == (128, 136, 2) and flow.dtype == np.float32 and np.isfinite(flow).all()
    padded = [np.pad(frame, ((3, 3), (2, 3), (0, 0)), mode="edge") for frame in (first, second)]
    assert np.abs(raft.flow(*padded, iterations=1) - flow).max() < 1e-4
    assert len(raft.weights) == 16 and not raft.official


def test_smallest_frames_leave_two_px_on_the_coarsest_level() -> None:
    assert -(-MIN_SIDE_PX // 8) * 8 // 8 // 2**3 == 2
    assert -(-(MIN_SIDE_PX - 1) // 8) * 8 // 8 // 2**3 == 1


# Each px of a map of 4 x 6 has a feature of its own, so products are 1 with itself and 0 with all others.
ROWS, COLS = 4, 6
ONE_HOT = torch.eye(ROWS * COLS, dtype=torch.float64).view(1, ROWS * COLS, ROWS, COLS)


def centre_and_right(flow_x: float, flow_y: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Look-ups of level 0 at the target itself and one px to its right, [rows, cols], of 1 where features agree."""
    flow = torch.tensor([flow_x, flow_y], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, ROWS, COLS)
    pyramid = correlation_pyramid(ONE_HOT, ONE_HOT, levels=2)
    found = look_up(pyramid, flow, radius=1)[0] * (ROWS * COLS) ** 0.5
    assert found.shape == (2 * 9, ROWS, COLS)
    return found[4], found[7]  # the offset in x varies slowest: (0, 0) and (1, 0)


def test_look_up_without_flow_finds_the_px_itself() -> None:
    centre, right = centre_and_right(0, 0)
    assert centre.numpy() == pytest.approx(1)
    assert right.abs().max() < 1e-12


def test_look_up_follows_the_flow() -> None:
    centre, right = centre_and_right(-1, 0)  # one px to the left: the px itself lies one to the right
    assert centre.abs().max() < 1e-12
    assert right.numpy() == pytest.approx(1)  # at the left border as well: there the target alone lies outside
    centre, right = centre_and_right(-0.25, 0)  # between two px: shares of 3/4 and 1/4
    assert centre.numpy() == pytest.approx(0.75) and right.numpy() == pytest.approx(0.25)
    centre, _ = centre_and_right(0, 0.5)  # half a px down; nothing lies below the last row
    assert centre.numpy() == pytest.approx(0.5)


def test_coarser_levels_average_squares() -> None:
    fine, coarse = correlation_pyramid(ONE_HOT, ONE_HOT, levels=2)
    assert fine.shape == (24, 1, 4, 6) and coarse.shape == (24, 1, 2, 3)
    one = 24**-0.5
    assert fine[7, 0].nonzero().tolist() == [[1, 1]] and fine[7, 0, 1, 1].item() == pytest.approx(one)
    assert coarse[7, 0].nonzero().tolist() == [[0, 0]] and coarse[7, 0, 0, 0].item() == pytest.approx(one / 4)


def mask_of(place: int) -> torch.Tensor:
    """A mask that takes one of the nine neighbours alone, rows first."""
    mask = torch.zeros(1, 9, 8, 8, 3, 4)
    mask[:, place] = 1000.0  # the others' shares are 0 in float32
    return mask.view(1, 576, 3, 4)


def test_upsampling_by_one_neighbour_is_a_shift() -> None:
    flow = torch.arange(24.0).view(1, 2, 3, 4)
    blocks = 8 * flow.repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert torch.equal(upsample(flow, mask_of(4)), blocks)
    right = upsample(flow, mask_of(5))  # the neighbour to the right; beyond the border lies zero
    assert torch.equal(right[..., :24], blocks[..., 8:]) and right[..., 24:].abs().max() == 0
    below = upsample(flow, mask_of(7))
    assert torch.equal(below[:, :, :16], blocks[:, :, 8:]) and below[:, :, 16:].abs().max() == 0


def test_upsampling_keeps_a_constant_flow() -> None:
    torch.manual_seed(1)
    flow = torch.tensor([2.0, -3.0]).view(1, 2, 1, 1).expand(1, 2, 5, 6)
    fine = upsample(flow, torch.randn(1, 576, 5, 6))
    inner = fine[0, :, 8:-8, 8:-8]  # at the border some neighbours are the zeros beyond it
    assert (inner - torch.tensor([16.0, -24.0]).view(2, 1, 1)).abs().max() < 1e-4
    assert fine[0, 0].min() >= 0 and fine[0, 0].max() < 16 + 1e-4
