"""The recogniser with a gradient gives what onnxruntime gives; alignment with a gradient gives what cv2 gives."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import likeness
from likeness.errors import CheckpointError
from likeness.faces.align import arcface_template, estimate_similarity, warp
from likeness.faces.torch_recogniser import TorchRecogniser, align_faces

TINY = Path(likeness.__file__).parent / "world/weights/faces/arcface.onnx"


class Block(nn.Module):
    """IResNet's: normalisation first, PReLU between, a strided shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(before), nn.Conv2d(before, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
            nn.PReLU(after), nn.Conv2d(after, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + self.shortcut(x)


def _iresnet(head: list[nn.Module]) -> nn.Module:
    stem = [nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8)]
    blocks = [Block(8, 8), Block(8, 12), Block(12, 16), Block(16, 16)]
    return nn.Sequential(*stem, *blocks, nn.BatchNorm2d(16), nn.Dropout(0.4), *head)


def _export(module: nn.Module, path: Path) -> Path:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
        if isinstance(part, nn.PReLU):
            nn.init.uniform_(part.weight, 0.1, 0.4)
    torch.onnx.export(
        module.eval(), (torch.zeros(1, 3, 112, 112),), str(path), opset_version=13, dynamo=False,
        input_names=["input"], dynamic_axes={"input": {0: "batch"}},
    )  # fmt: skip
    return path


def _by_onnxruntime(path: Path, crops: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    features = np.stack(
        [np.asarray(session.run(None, {session.get_inputs()[0].name: crop[None]})[0]) for crop in crops]
    )
    features = features.reshape(len(crops), -1)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def _crops(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 3, 112, 112)).astype(np.float32)


HEADS = {
    "as w600k_r50": [nn.Flatten(), nn.Linear(16 * 7 * 7, 24), nn.BatchNorm1d(24, affine=False)],
    "pooled": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 24)],
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.filterwarnings("ignore")
def test_an_iresnet_equals_onnxruntime(tmp_path: Path, head: str) -> None:
    torch.manual_seed(0)
    path = _export(_iresnet(HEADS[head]), tmp_path / "arcface.onnx")
    assert "PRelu" in {node.op_type for node in onnx.load(str(path)).graph.node}
    ours = TorchRecogniser.from_onnx(path)(torch.from_numpy(_crops())).numpy()
    np.testing.assert_allclose(ours, _by_onnxruntime(path, _crops()), atol=1e-5)


def test_the_tiny_recogniser_equals_onnxruntime_and_is_frozen() -> None:
    recogniser = TorchRecogniser.from_onnx(TINY)
    crops = torch.from_numpy(_crops()).requires_grad_(True)
    embeddings = recogniser(crops)
    np.testing.assert_allclose(embeddings.detach().numpy(), _by_onnxruntime(TINY, _crops()), atol=1e-4)
    assert not list(recogniser.parameters()) and list(recogniser.buffers()) and not recogniser.state_dict()
    (gradient,) = torch.autograd.grad(embeddings[0, 0], crops)
    assert gradient[0].abs().max() > 0 and (gradient[1:] == 0).all()


def test_autocast_leaves_it_in_float32() -> None:
    recogniser, crops = TorchRecogniser.from_onnx(TINY), torch.from_numpy(_crops(1))
    with torch.autocast("cpu", torch.bfloat16):
        cast = recogniser(crops)
    assert cast.dtype == torch.float32 and cast.equal(recogniser(crops))


def _save(nodes: list, path: Path) -> Path:
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "graph", [tensor("x", 1, ["n", 3, 112, 112])], [tensor("y", 1, None)],
        [onnx.numpy_helper.from_array(np.array(value, np.float32), name) for name, value in
         (("mean", 127.5), ("scale", 0.5))],
    )  # fmt: skip
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)]), str(path))
    return path


def test_a_network_that_normalises_bytes_itself_gets_bytes(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    nodes = [make("Sub", ["x", "mean"], ["a"]), make("Mul", ["a", "scale"], ["b"]), make("Flatten", ["b"], ["y"])]
    crops = torch.from_numpy(_crops(1))
    embedding = TorchRecogniser.from_onnx(_save(nodes, tmp_path / "old.onnx"))(crops)
    torch.testing.assert_close(embedding, nn.functional.normalize(crops.flatten(1)))  # bytes would not be centred else


def test_an_unknown_operation_is_named(tmp_path: Path) -> None:
    path = _save([onnx.helper.make_node("Erf", ["x"], ["y"])], tmp_path / "erf.onnx")
    with pytest.raises(CheckpointError, match=r"Erf.*supported are Constant, Add"):
        TorchRecogniser.from_onnx(path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(CheckpointError, match=r"broken\.onnx"):
        TorchRecogniser.from_onnx(tmp_path / "broken.onnx")


def _keypoints(size_px: float, angle: float, middle: tuple[float, float]) -> np.ndarray:
    points = (arcface_template(112) - 56) / 112 * size_px
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    jitter = np.random.default_rng(1).normal(0, size_px / 50, (5, 2))  # no exact similarity exists
    return points @ turn.T + middle + jitter


def _picture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).uniform(0, 255, (height, width, 3)).astype(np.float32)
    return cv2.GaussianBlur(noise * 1.5 - 64, (0, 0), 2).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("size_px", "angle", "middle"),
    [(60, 0.0, (50, 45)), (40, 0.4, (60, 40)), (140, -0.3, (10, 70)), (300, 0.1, (205, 195))],
)
def test_alignment_equals_the_warp_of_pictures(size_px: float, angle: float, middle: tuple[float, float]) -> None:
    picture = _picture(400, 420)
    keypoints = _keypoints(size_px, angle, middle).astype(np.float32)
    expected = warp(picture, estimate_similarity(keypoints, arcface_template(112)), 112)
    frames = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    crop = (align_faces(frames, torch.from_numpy(keypoints)[None])[0].permute(1, 2, 0).numpy() + 1) * 127.5
    error = np.abs(crop - expected)
    # cv2 rounds positions to 1/32 px and values to integers; shrunk faces are averaged in another way.
    assert error.mean() < 1.0 and np.quantile(error, 0.99) < 8


def test_each_face_is_cut_out_by_its_own_keypoints() -> None:
    frames = torch.rand(3, 3, 160, 180) * 2 - 1
    points = [_keypoints(size, 0.1, (80, 80)) for size in (50, 300, 60)]  # the second is averaged, the others are not
    keypoints = torch.from_numpy(np.stack(points)).float()
    together = align_faces(frames, keypoints)
    alone = torch.cat([align_faces(frames[i : i + 1], keypoints[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("size_px", [9.0, 60.0])
def test_gradient_of_alignment(size_px: float) -> None:
    frames = torch.rand(2, 3, 10, 9, dtype=torch.double).requires_grad_(True)
    keypoints = torch.from_numpy(np.stack([_keypoints(size_px, 0.3, (5, 4)), _keypoints(size_px / 2, -0.1, (3, 5))]))
    assert torch.autograd.gradcheck(lambda pixels: align_faces(pixels, keypoints, size=14), (frames,), fast_mode=True)
