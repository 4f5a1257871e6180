"""A face pack that can be computed by hand, in the formats and through the classes of the real ones.

The detector sees a *red* mark as a small face and a *blue* one as a large face; the recogniser's embedding is a coarse
copy of the aligned crop. Both are ONNX files that insightface loads as SCRFD and ArcFace.
The parser is a small random Segformer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from likeness.faces.align import ARCFACE_TEMPLATE
from likeness.faces.parse import PARSING_LABELS

RED, BLUE = (255, 0, 0), (0, 0, 255)
# For each stride: the colour it reacts to and half the side of the boxes it gives, px. A mark must cover a third of a
# cell of stride x stride px. Stride 32 never reacts.
MARKS = {8: (RED, 12.0), 16: (BLUE, 24.0), 32: (None, 0.0)}
# Keypoints about the middle of a face, in half sides of the box: a frontal face.
FRONTAL = (ARCFACE_TEMPLATE - 56.0) / 56.0


def scrfd_like(keypoints: np.ndarray = FRONTAL, num_outputs: int = 9) -> onnx.ModelProto:
    nodes, weights, outputs = [], [], {}

    def layer(name: str, source: str, kernel: np.ndarray, bias: np.ndarray, width: int) -> str:
        """A 1 x 1 convolution to 2 anchors of ``width`` numbers, laid out as SCRFD's outputs ``[K, width]``."""
        for part, value in (("w", kernel[:, :, None, None]), ("b", bias)):
            weights.append(numpy_helper.from_array(value.astype(np.float32), f"{name}_{part}"))
        nodes.append(helper.make_node("Conv", [source, f"{name}_w", f"{name}_b"], [f"{name}_conv"]))
        nodes.append(helper.make_node("Transpose", [f"{name}_conv"], [f"{name}_hwc"], perm=[0, 2, 3, 1]))
        shape = f"{name}_shape"
        weights.append(numpy_helper.from_array(np.array([-1, width], np.int64), shape))
        nodes.append(helper.make_node("Reshape", [f"{name}_hwc", shape], [f"{name}_flat"]))
        return f"{name}_flat"

    for stride, (colour, half_side) in MARKS.items():
        pooled = f"pooled{stride}"
        pool = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
        nodes.append(helper.make_node("AveragePool", ["input"], [pooled], **pool))
        likes = {RED: [0.5, -0.25, -0.25], BLUE: [-0.25, -0.25, 0.5], None: [0, 0, 0]}[colour]  # 1 for the pure colour
        steep = 20.0
        kernel = np.array([np.multiply(likes, steep), np.zeros(3)])
        score = layer(f"score{stride}", pooled, kernel, np.array([-0.35 * steep, -20.0]), 1)
        nodes.append(helper.make_node("Sigmoid", [score], [f"sigmoid{stride}"]))
        outputs[0, stride] = f"sigmoid{stride}"
        # Distances and offsets are counted from the cell's top left corner, in strides; the middle is half a cell on.
        box = np.array([half_side - stride / 2] * 2 + [half_side + stride / 2] * 2) / stride
        outputs[1, stride] = layer(f"box{stride}", pooled, np.zeros((8, 3)), np.tile(box, 2), 4)
        points = (keypoints * half_side + stride / 2).ravel() / stride
        outputs[2, stride] = layer(f"points{stride}", pooled, np.zeros((20, 3)), np.tile(points, 2), 10)
    values = [
        helper.make_tensor_value_info(outputs[kind, stride], TensorProto.FLOAT, ["K", width])
        for kind, width in enumerate((1, 4, 10)[: num_outputs // 3])
        for stride in MARKS
    ]
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "H", "W"])
    return _model(helper.make_graph(nodes, "detector", [picture], values, weights))


def arcface_like(size: int = 112) -> onnx.ModelProto:
    nodes = [
        helper.make_node("AveragePool", ["input"], ["coarse"], kernel_shape=[size // 4] * 2, strides=[size // 4] * 2),
        helper.make_node("Flatten", ["coarse"], ["embedding"]),
    ]
    crop = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, size, size])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 48])
    return _model(helper.make_graph(nodes, "recognizer", [crop], [embedding]))


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def write_pack(folder: Path, *, recognizer: bool = True, keypoints: np.ndarray = FRONTAL) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(scrfd_like(keypoints), folder / "finds.onnx")
    if recognizer:
        onnx.save(arcface_like(), folder / "knows.onnx")
    (folder / "pack.json").write_text('{"det_size": 128, "note": "by hand"}')
    return folder


def small_segformer(names: tuple[str, ...] = PARSING_LABELS) -> SegformerForSemanticSegmentation:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SegformerForSemanticSegmentation(
            SegformerConfig(
                hidden_sizes=[8, 16, 24, 32],
                depths=[1, 1, 1, 1],
                num_attention_heads=[1, 1, 2, 2],
                decoder_hidden_size=16,
                id2label=dict(enumerate(names)),
                label2id={name: index for index, name in enumerate(names)},
            )
        ).eval()


def marked(*marks: tuple[tuple[int, int, int], int, int], size: int = 128, side: int | None = None) -> np.ndarray:
    """A grey picture with square marks ``(colour, x, y)``, one cell of the colour's stride large unless ``side``."""
    picture = np.full((size, size, 3), 128, np.uint8)
    for colour, x, y in marks:
        length = side or {RED: 8, BLUE: 16}[colour]
        picture[y : y + length, x : x + length] = colour
    return picture
