"""Face recognition with a gradient: an ArcFace ONNX file as a torch module, and alignment by sampling.

Detection and embedding of pictures run in onnxruntime (``likeness.faces.pack``); a loss on identity must reach the pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from likeness.errors import CheckpointError
from likeness.faces.align import ARCFACE_SIZE_PX, arcface_template

_MAX_SUPERSAMPLING = 16  # samples a crop px in each direction; a face of 1800 px reaches it


@dataclass(frozen=True)
class _Node:
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class TorchRecogniser(nn.Module):
    """An ArcFace network out of an ONNX file, frozen, in float32, differentiable in its input.

    The weights are buffers: they move with the module and no optimiser sees them. See :data:`SUPPORTED_OPS`.
    """

    def __init__(self, nodes: list[_Node], values: dict[str, Any], input_name: str, output_name: str) -> None:
        super().__init__()
        self._nodes, self._input, self._output = nodes, input_name, output_name
        self._buffer_of: dict[str, str] = {}
        self._constants: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                self._buffer_of[name] = f"weight_{len(self._buffer_of)}"
                self.register_buffer(self._buffer_of[name], value, persistent=False)
            else:
                self._constants[name] = value  # shapes: on the host, whatever the device
        # insightface's rule: a network that begins with a subtraction and a product normalises pixels of 0..255 itself.
        first = [node.op for node in nodes[:8]]
        self._takes_bytes = "Sub" in first and "Mul" in first

    @classmethod
    def from_onnx(cls, path: str | Path) -> TorchRecogniser:
        """Read a network with one input ``[N, 3, 112, 112]`` and one output ``[N, E]``.

        Raises:
            CheckpointError: for a file that is missing or damaged, or an operation that is not supported, by name.
        """
        import onnx
        from onnx import numpy_helper

        try:
            graph = onnx.load(str(path), load_external_data=False).graph
            values = {item.name: _value(numpy_helper.to_array(item)) for item in graph.initializer}
            nodes = []
            for item in graph.node:
                attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in item.attribute}
                if item.op_type == "Constant" and "value" in attributes:
                    values[item.output[0]] = _value(numpy_helper.to_array(attributes["value"]))
                else:
                    nodes.append(_Node(item.op_type, tuple(item.input), tuple(item.output), attributes))
        except Exception as error:  # protobuf and onnx raise types of their own
            raise CheckpointError(f"The face recogniser {path} cannot be read: {error}. Copy it again.") from error
        unknown = sorted({node.op for node in nodes} - set(SUPPORTED_OPS))
        if unknown:
            raise CheckpointError(
                f"The face recogniser {path} uses {', '.join(unknown)}, which cannot be differentiated here; supported are "
                f"{', '.join(SUPPORTED_OPS)}. Use an ArcFace network such as insightface's w600k_r50 or glintr100."
            )
        inputs = [item.name for item in graph.input if item.name not in values]  # old files list their weights too
        if len(inputs) != 1 or len(graph.output) != 1:
            raise CheckpointError(
                f"The network {path} has {len(inputs)} inputs and {len(graph.output)} outputs; a face recogniser has one "
                "of each."
            )
        return cls(nodes, values, inputs[0], graph.output[0].name)

    def forward(self, crops: Tensor) -> Tensor:
        """Embeddings of aligned faces.

        Args:
            crops: ``[N, 3, 112, 112]`` RGB in [-1, 1].

        Returns:
            ``[N, E]`` of L2 norm 1, in the weights' type (float32) also under autocast.
        """
        weights = {name: getattr(self, buffer) for name, buffer in self._buffer_of.items()}
        dtype = next(iter(weights.values())).dtype
        with torch.autocast(crops.device.type, enabled=False):
            crops = crops.to(dtype)
            values: dict[str, Any] = {**self._constants, **weights}
            values[self._input] = (crops + 1) * 127.5 if self._takes_bytes else crops
            for node in self._nodes:
                arguments = [values[name] if name else None for name in node.inputs]
                values[node.outputs[0]] = _OPS[node.op](node.attributes, *arguments)
            return functional.normalize(values[self._output].flatten(1), dim=1)


def align_faces(frames: Tensor, keypoints: Tensor, size: int = ARCFACE_SIZE_PX) -> Tensor:
    """Cut faces out of frames onto ArcFace's template, with a gradient to the frames.

    The transform is :func:`likeness.faces.align.estimate_similarity`'s and sampling is bilinear as in
    :func:`likeness.faces.align.warp`. A face that shrinks more than twofold is sampled several times a crop pixel and
    averaged.

    Args:
        frames: ``[N, 3, H, W]`` in [-1, 1].
        keypoints: ``[N, 5, 2]`` px, finite, not all equal; taken as constants.
        size: side of a crop, px.

    Returns:
        ``[N, 3, size, size]`` in the frames' type, at least float32; -1, black, outside the frame.
    """
    with torch.autocast(frames.device.type, enabled=False):
        frames = frames.float() if frames.dtype in (torch.float16, torch.bfloat16) else frames
        inverse, shrink = _crop_to_frame(keypoints.detach().double(), size)
        # As many samples as pixels of the frame lie under one of the crop.
        factors = torch.where(shrink < 0.5, (1 / shrink).ceil().clamp(max=_MAX_SUPERSAMPLING), 1.0).long()
        crops = frames.new_empty(len(frames), 3, size, size)
        for factor in factors.unique().tolist():
            rows = (factors == factor).nonzero().flatten()
            sampled = _sampled(frames[rows], inverse[rows], size, factor)
            crops = crops.index_copy(0, rows, sampled)
        return crops


def face_boxes(keypoints: Tensor, size: int = ARCFACE_SIZE_PX) -> Tensor:
    """The pixels that :func:`align_faces` looks at.

    Args:
        keypoints: ``[N, 5, 2]`` px, finite, not all equal.
        size: side of a crop, px.

    Returns:
        Upright boxes ``float64 [N, 2, 2]``: lowest and highest (x, y), pixel i reaching from i to i + 1. They may lie outside the frame.
    """
    inverse, _ = _crop_to_frame(keypoints.detach().double(), size)
    corners = inverse.new_tensor([[x, y, 1] for x in (-0.5, size - 0.5) for y in (-0.5, size - 0.5)])
    points = torch.einsum("nij,kj->nki", inverse, corners)
    return torch.stack([points.amin(1), points.amax(1) + 1], 1)  # between pixels two are read


def _crop_to_frame(keypoints: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Maps ``float64 [N, 2, 3]`` from px of the crop to px of the frame, and crop px a frame px ``[N]``.

    With points as complex numbers about their means, the factor is ``sum(conj(s) * t) / sum(|s|^2)``.
    """
    target = torch.from_numpy(arcface_template(size)).to(keypoints)
    source_mean, target_mean = keypoints.mean(1), target.mean(0)
    s = torch.view_as_complex((keypoints - source_mean[:, None]).contiguous())  # [N, 5]
    t = torch.view_as_complex((target - target_mean).contiguous())
    factor = (s.conj() * t).sum(1) / s.abs().square().sum(1)
    back = 1 / factor
    linear = torch.stack([back.real, -back.imag, back.imag, back.real], 1).view(-1, 2, 2)
    shift = source_mean - (linear @ target_mean)
    return torch.cat([linear, shift.unsqueeze(2)], 2), factor.abs()


def _sampled(frames: Tensor, inverse: Tensor, size: int, factor: int) -> Tensor:
    height, width = frames.shape[2:]
    # Centres of the samples, in px of the crop.
    line = (torch.arange(size * factor, device=frames.device, dtype=torch.float64) + 0.5) / factor - 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.einsum("nij,hwj->nhwi", inverse, torch.stack([x, y, torch.ones_like(x)], 2))
    extent = torch.tensor([width, height], device=frames.device, dtype=torch.float64)
    grid = ((2 * points + 1) / extent - 1).to(frames.dtype)
    # Zeros are what grid_sample puts outside; black is -1.
    sampled = functional.grid_sample(frames + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False) - 1
    return functional.avg_pool2d(sampled, factor) if factor > 1 else sampled


def _value(array: Any) -> Any:
    """Weights as float32 tensors; integers (shapes) as numbers of Python."""
    return torch.from_numpy(array.astype("float32")) if array.dtype.kind == "f" else array.tolist()


def _padded(x: Tensor, attributes: dict[str, Any], value: float = 0.0) -> Tensor:
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise CheckpointError(f"The face recogniser pads by {attributes['auto_pad'].decode()}; export it with numbers.")
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    return functional.pad(x, (left, right, top, bottom), value=value) if any((top, left, bottom, right)) else x


def _conv(a: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    stride, dilation = a.get("strides", (1, 1)), a.get("dilations", (1, 1))
    return functional.conv2d(_padded(x, a), weight, bias, tuple(stride), 0, tuple(dilation), a.get("group", 1))


def _batch_norm(a: dict[str, Any], x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return functional.batch_norm(x, mean, variance, scale, shift, training=False, eps=a.get("epsilon", 1e-5))


def _gemm(a: dict[str, Any], x: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
    x, y = x.t() if a.get("transA", 0) else x, y.t() if a.get("transB", 0) else y
    product = a.get("alpha", 1.0) * (x @ y)
    return product if z is None else product + a.get("beta", 1.0) * z


def _prelu(a: dict[str, Any], x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * slope)


def _reshape(a: dict[str, Any], x: Tensor, shape: list[int]) -> Tensor:
    return x.reshape([x.shape[index] if side == 0 else side for index, side in enumerate(shape)])


def _max_pool(a: dict[str, Any], x: Tensor) -> Tensor:
    stride = tuple(a.get("strides", (1, 1)))
    return functional.max_pool2d(
        _padded(x, a, -torch.inf), tuple(a["kernel_shape"]), stride, ceil_mode=bool(a.get("ceil_mode", 0))
    )


_OPS: dict[str, Callable[..., Any]] = {
    "Add": lambda a, x, y: x + y,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Div": lambda a, x, y: x / y,
    "Dropout": lambda a, x, *rest: x,
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "Identity": lambda a, x: x,
    "MatMul": lambda a, x, y: x @ y,
    "MaxPool": _max_pool,
    "Mul": lambda a, x, y: x * y,
    "PRelu": _prelu,
    "Relu": lambda a, x: functional.relu(x),
    "Reshape": _reshape,
    "Sigmoid": lambda a, x: x.sigmoid(),
    "Sub": lambda a, x, y: x - y,
    "Transpose": lambda a, x: x.permute(*a["perm"]),
}
SUPPORTED_OPS = ("Constant", *_OPS)
