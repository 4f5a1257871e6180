"""IR-101, the recogniser behind FaceSim-Cur: an improved residual network trained with CurricularFace's loss.

Deng et al., "ArcFace" (CVPR 2019), section 3.1 (the unit and the head); Huang et al., "CurricularFace" (CVPR 2020). The
tensors have the names of the file that ConsisID scores with, glint360k_curricular_face_r101_backbone.bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from likeness.evaluate.weights import IR101, open_network
from likeness.faces.align import ARCFACE_SIZE_PX, arcface_template, estimate_similarity, warp

# Units a stage of IR-101, and the width of each stage.
UNITS = (3, 13, 30, 3)
WIDTHS = (64, 128, 256, 512)

_ALIGNED_PX = 224  # ConsisID aligns at twice the network's size and halves the picture
_BATCH = 64


class Unit(nn.Module):
    """Two convolutions with normalisation before, between and after, and a shortcut; the second one strides.

    The shortcut is a projection where the width changes, and takes every other pixel where only the size does.
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        if width_in != width:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        else:
            self.shortcut_layer = None
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(width_in),
            nn.Conv2d(width_in, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        around = x[:, :, :: self.stride, :: self.stride] if self.shortcut_layer is None else self.shortcut_layer(x)
        return around + self.res_layer(x)


class IResNet(nn.Module):
    """Pictures ``[N, 3, size, size]`` in [-1, 1] to embeddings ``[N, embedding]`` of any length.

    Args:
        units, widths: of each stage; every stage halves the picture.
        embedding: length of an embedding.
        size: side of a picture in px, divisible by 16.
    """

    def __init__(
        self,
        units: tuple[int, ...] = UNITS,
        widths: tuple[int, ...] = WIDTHS,
        embedding: int = 512,
        size: int = ARCFACE_SIZE_PX,
    ) -> None:
        super().__init__()
        stem = widths[0]
        self.input_layer = nn.Sequential(nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem))
        body, width_in = [], stem
        for count, width in zip(units, widths, strict=True):
            body += [Unit(width_in if index == 0 else width, width, 2 if index == 0 else 1) for index in range(count)]
            width_in = width
        self.body = nn.Sequential(*body)
        side = size // 2 ** len(units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(width_in),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(width_in * side * side, embedding),
            nn.BatchNorm1d(embedding, affine=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.output_layer(self.body(self.input_layer(x)))


@dataclass(frozen=True, eq=False)
class Curricular:
    """The recogniser as ConsisID calls it.

    Attributes:
        network: in evaluation mode.
        weights: 16 hex digits of the file's SHA-256.
        official: whether these are the published bytes.
        device: where it runs.
    """

    network: IResNet
    weights: str
    official: bool
    device: str = "cpu"

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Curricular:
        """Open the official file, or its tensors as ``.safetensors``.

        Raises:
            CheckpointError: a file that is broken or of another network (see :func:`likeness.evaluate.weights.open_network`).
        """
        network, whose = open_network(path, IResNet, IR101, device)
        return cls(network, whose.weights, whose.official, device)

    @torch.inference_mode()
    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """Identities of aligned faces.

        Args:
            crops: ``uint8 [N, 112, 112, 3]`` RGB, see :func:`curricular_crop`; N may be 0.

        Returns:
            ``float32 [N, 512]``, L2 norm 1.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2)  # [N, 3, 112, 112]
        embeddings = [
            functional.normalize(self.network(part.to(self.device).float() / 127.5 - 1), dim=1).cpu()
            for part in pixels.split(_BATCH)
        ]
        return torch.cat(embeddings).numpy()


def curricular_crop(picture: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """A face on ArcFace's template as ConsisID cuts it: aligned at 224 px without averaging, then halved bilinearly.

    Args:
        picture: ``uint8 [H, W, 3]``.
        keypoints: ``[5, 2]`` px.

    Returns:
        ``uint8 [112, 112, 3]`` in the picture's order of channels.
    """
    matrix = estimate_similarity(keypoints, arcface_template(_ALIGNED_PX))
    aligned = warp(picture, matrix, _ALIGNED_PX, antialias=False)
    return cv2.resize(aligned, (ARCFACE_SIZE_PX, ARCFACE_SIZE_PX), interpolation=cv2.INTER_LINEAR)
