"""Quality as VBench defines it (Huang et al., CVPR 2024, section 3.1): aesthetic, imaging, motion smoothness, dynamic degree, ViCLIP.

Every step is that of its code, down to how frames are scaled; where that has consequences the function says so.
``protocol`` is ``vbench`` with the published weights, told by their bytes, and ``vbench-unverified`` with any others: a
number under VBench's name is one of VBench's networks. The only liberty is float32, where VBench runs CLIP in half
precision on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from likeness.errors import CheckpointError
from likeness.evaluate import frames
from likeness.evaluate.types import Backends, Direction, Result, Sample
from likeness.evaluate.weights import AESTHETIC, joined_hash, open_network

if TYPE_CHECKING:
    from likeness.evaluate.networks.amt import Amt
    from likeness.evaluate.networks.clip import Clip
    from likeness.evaluate.networks.musiq import Musiq
    from likeness.evaluate.networks.raft import Raft
    from likeness.evaluate.networks.viclip import Viclip

IMAGING_LONG_SIDE_PX = 512
DYNAMIC_PX = 6.0  # of a frame whose shorter side has 256 px
DYNAMIC_TOP = 0.05  # share of the px that count, those that move most
DYNAMIC_PAIRS = 4 / 16  # share of the frames

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_BATCH = 16


def vbench(*official: bool) -> str:
    """Name of the protocol, by whether each of the networks has its published weights."""
    return "vbench" if all(official) else "vbench-unverified"


@dataclass(frozen=True, eq=False)
class AestheticQuality:
    """LAION's linear head on CLIP ViT-L/14: the mean score of all frames, 1..10, divided by 10.

    Attributes:
        clip: its vision tower is used.
        head: features of the tower to a score.
    """

    clip: Clip
    head: nn.Linear
    weights: str
    protocol: str
    name: str = "aesthetic_quality"
    needs_reference: bool = False
    directions: Mapping[str, Direction] = field(default_factory=lambda: {"aesthetic_quality": "higher"})

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """All frames."""
        return frames.every(num_frames)

    @torch.inference_mode()
    def measure(self, sample: Sample) -> Result:
        """The mean, and its curve over the frames."""
        scores = []
        for batch in _batches(sample):
            features = functional.normalize(self.clip.features(clip_pixels(batch, self.clip.image_size)), dim=1)
            scores.append(self.head(features)[:, 0])
        curve = torch.cat(scores).double() / 10
        return Result(values={self.name: float(curve.mean())}, curves={self.name: curve.tolist()})


@dataclass(frozen=True, eq=False)
class ImagingQuality:
    """MUSIQ trained on SPAQ: the mean score of all frames, 0..100, divided by 100."""

    musiq: Musiq
    weights: str
    protocol: str
    name: str = "imaging_quality"
    needs_reference: bool = False
    directions: Mapping[str, Direction] = field(default_factory=lambda: {"imaging_quality": "higher"})

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """All frames."""
        return frames.every(num_frames)

    def measure(self, sample: Sample) -> Result:
        """The mean, and its curve over the frames."""
        curve = np.concatenate([self.musiq.score(imaging_pixels(batch)) for batch in _batches(sample)]) / 100
        return Result(values={self.name: float(curve.mean(dtype=np.float64))}, curves={self.name: curve.tolist()})


@dataclass(frozen=True, eq=False)
class DynamicDegree:
    """Whether the video moves, 1 or 0, by RAFT's flow between about eight frames a second.

    A pair of frames moves when the 5 % of its px that move most do so by more than 6 px on average (of a frame of 256 px);
    a video does when a quarter of as many pairs as it has frames move. Rounding makes that 0 pairs for a video of two
    frames, so that it always moves, and no video of one frame does: VBench's rule, kept.
    """

    raft: Raft
    weights: str
    protocol: str
    name: str = "dynamic_degree"
    needs_reference: bool = False
    directions: Mapping[str, Direction] = field(default_factory=lambda: {"dynamic_degree": "higher"})

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """Every max(1, round(fps / 8))-th frame."""
        return frames.eighths(num_frames, fps)

    def measure(self, sample: Sample) -> Result:
        """1.0 or 0.0; as a curve how far the fastest px of each pair move; as details what they are held against."""
        from likeness.evaluate.networks.raft import MIN_SIDE_PX

        pictures = sample.take(self.indices(sample.num_frames, sample.fps))
        height, width = pictures.shape[1:3]
        if min(height, width) < MIN_SIDE_PX:
            return _too_small(self.name, "RAFT", MIN_SIDE_PX, height, width)
        lengths = [top_flow(self.raft.flow(first, second)) for first, second in pairwise(pictures)]
        threshold, needed = DYNAMIC_PX * (min(height, width) / 256), round(DYNAMIC_PAIRS * len(pictures))
        moves = bool(lengths) and sum(length > threshold for length in lengths) >= needed
        return Result(
            values={self.name: float(moves)},
            curves={"top_flow_px": lengths},
            details={"threshold_px": threshold, "pairs_needed": needed},
        )


@dataclass(frozen=True, eq=False)
class MotionSmoothness:
    """How well AMT-S foretells every other frame from its neighbours: (255 - mean absolute difference) / 255.

    On a GPU with little memory VBench scales large frames down before it interpolates; here none are.
    """

    amt: Amt
    weights: str
    protocol: str
    name: str = "motion_smoothness"
    needs_reference: bool = False
    directions: Mapping[str, Direction] = field(default_factory=lambda: {"motion_smoothness": "higher"})

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """All frames."""
        return frames.every(num_frames)

    def measure(self, sample: Sample) -> Result:
        """The mean over the frames that lie between two others, and its curve over them."""
        from likeness.evaluate.networks.amt import MIN_SIDE_PX

        pictures = sample.take(frames.every(sample.num_frames))
        height, width = pictures.shape[1:3]
        if min(height, width) < MIN_SIDE_PX:
            return _too_small(self.name, "AMT", MIN_SIDE_PX, height, width)
        if len(pictures) < 3:
            reason = f"no frame lies between two others: the video has {len(pictures)}, and 3 are needed"
            return Result(values={self.name: None}, reason=reason)
        curve = []
        for left in range(0, len(pictures) - 2, 2):
            foretold = self.amt.between(pictures[left], pictures[left + 2]).astype(np.int16)
            curve.append(1 - float(np.abs(pictures[left + 1] - foretold).mean()) / 255)
        return Result(values={self.name: float(np.mean(curve))}, curves={self.name: curve})


@dataclass(frozen=True, eq=False)
class ViclipScore:
    """Cosine of the prompt and eight frames, as VBench's overall consistency has it (and ConsisID's ViCLIP)."""

    viclip: Viclip
    weights: str
    protocol: str
    name: str = "viclip"
    needs_reference: bool = False
    directions: Mapping[str, Direction] = field(default_factory=lambda: {"viclip": "higher"})

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """The middle of each of eight equal intervals."""
        return frames.viclip(num_frames)

    def measure(self, sample: Sample) -> Result:
        """The cosine; none for a row without a prompt."""
        from likeness.evaluate.networks.viclip import SIZE_PX

        if not sample.item.prompt.strip():
            return Result(values={self.name: None}, reason="the row has no prompt")
        pixels = clip_pixels(sample.take(frames.viclip(sample.num_frames)), SIZE_PX, is_rounded=True)
        cosine = np.dot(self.viclip.video(pixels).astype(np.float64), self.viclip.text(sample.item.prompt))
        return Result(values={self.name: float(cosine)})


def aesthetic_quality(backends: Backends) -> AestheticQuality:
    """VBench's aesthetic quality; needs ``--aesthetic`` and ``--clip-large``."""
    from likeness.evaluate.networks.clip import Clip

    path, source = backends.need("aesthetic"), backends.need_model("clip_large")
    clip = Clip.load(source, backends.device)
    width = clip.model.config.projection_dim
    if clip.official and clip.official != "ViT-L/14":
        raise CheckpointError(
            f"{source} is CLIP {clip.official}; --clip-large wants ViT-L/14, such as openai/clip-vit-large-patch14."
        )
    head, whose = open_network(path, lambda: nn.Linear(width, 1), AESTHETIC)
    protocol = vbench(whose.official, clip.official == "ViT-L/14")
    return AestheticQuality(clip, head, joined_hash([clip.weights, whose.weights]), protocol)


def imaging_quality(backends: Backends) -> ImagingQuality:
    """VBench's imaging quality; needs ``--musiq``."""
    from likeness.evaluate.networks.musiq import Musiq

    musiq = Musiq.load(backends.need("musiq"), backends.device)
    return ImagingQuality(musiq, musiq.weights, vbench(musiq.official))


def dynamic_degree(backends: Backends) -> DynamicDegree:
    """VBench's dynamic degree; needs ``--raft``."""
    from likeness.evaluate.networks.raft import Raft

    raft = Raft.load(backends.need("raft"), backends.device)
    return DynamicDegree(raft, raft.weights, vbench(raft.official))


def motion_smoothness(backends: Backends) -> MotionSmoothness:
    """VBench's motion smoothness; needs ``--amt``."""
    from likeness.evaluate.networks.amt import Amt

    amt = Amt.load(backends.need("amt"), backends.device)
    return MotionSmoothness(amt, amt.weights, vbench(amt.official))


def viclip(backends: Backends) -> ViclipScore:
    """ViCLIP's score; needs ``--viclip``, and of ``--clip`` the tokenizer."""
    from likeness.evaluate.networks.clip import load_tokenizer
    from likeness.evaluate.networks.viclip import Viclip

    path, source = backends.need("viclip"), backends.need_model("clip")
    network = Viclip.load(path, load_tokenizer(source), backends.device)
    return ViclipScore(network, network.weights, vbench(network.official))


def clip_pixels(pictures: np.ndarray, size: int, *, is_rounded: bool = False) -> Tensor:
    """Frames ready for CLIP as VBench scales them: bicubically without averaging, and cropped.

    Args:
        pictures: ``uint8 [N, H, W, 3]`` RGB.
        size: side of the square, px.
        is_rounded: whether scaled px become whole numbers in 0..255 again, as for ViCLIP; for the aesthetic head
            overshoots are kept.

    Returns:
        ``float32 [N, 3, size, size]``.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    height, width = pixels.shape[2:]
    short = min(height, width)
    # The shorter side becomes `size`, the longer one is rounded down.
    scaled = tuple(size if side == short else int(size * side / short) for side in (height, width))
    if scaled != (height, width):
        pixels = functional.interpolate(pixels, scaled, mode="bicubic", align_corners=False)
    if is_rounded:
        pixels = pixels.clamp(0, 255).round()
    top, left = (round((side - size) / 2) for side in scaled)
    pixels = pixels[:, :, top : top + size, left : left + size] / 255
    return (pixels - torch.tensor(_CLIP_MEAN).view(3, 1, 1)) / torch.tensor(_CLIP_STD).view(3, 1, 1)


def imaging_pixels(pictures: np.ndarray) -> Tensor:
    """Frames as VBench scales them for MUSIQ: bilinearly without averaging, to a longer side of at most 512 px.

    Args:
        pictures: ``uint8 [N, H, W, 3]`` RGB.

    Returns:
        ``float32 [N, 3, h, w]`` in 0..255.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    height, width = pixels.shape[2:]
    if max(height, width) <= IMAGING_LONG_SIDE_PX:
        return pixels
    scale = IMAGING_LONG_SIDE_PX / max(height, width)
    return functional.interpolate(
        pixels, (int(scale * height), int(scale * width)), mode="bilinear", align_corners=False
    )


def top_flow(flow: np.ndarray) -> float:
    """Mean length of the 5 % longest vectors of a flow ``[H, W, 2]``, px."""
    lengths = np.hypot(flow[..., 0], flow[..., 1]).ravel()
    count = int(len(lengths) * DYNAMIC_TOP)
    return float(np.partition(lengths, len(lengths) - count)[-count:].mean(dtype=np.float64))


def _batches(sample: Sample) -> list[np.ndarray]:
    pictures = sample.take(frames.every(sample.num_frames))
    return [pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH)]


def _too_small(name: str, network: str, least: int, height: int, width: int) -> Result:
    reason = f"{network} needs frames of at least {least} px a side; these have {width} x {height}"
    return Result(values={name: None}, reason=reason)
