"""Text: whether the video shows what the prompt says, by CLIP.

CLIP-Score (papers: ST-DRC, section 4.1, after ConsisID): 100 times the cosine of the prompt, cut at 77 tokens, and each of
16 frames, the mean over the frames. ConsisID multiplies by the model's own temperature, which is 100 in the published
weights of openai/clip-vit-base-patch32.

- ``consisid-bgr``: red and blue exchanged, as the official script feeds the frames; what published numbers are. With other
  weights than those, told by their bytes, it is called ``consisid-bgr-unverified``.
- ``corrected``: the frames as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import numpy as np

from likeness.evaluate import frames
from likeness.evaluate.types import Backends, Direction, Result, Sample

if TYPE_CHECKING:
    from likeness.evaluate.networks.clip import Clip

Order = Literal["consisid-bgr", "corrected"]


class FrameClip:
    """CLIP, and its embeddings of frames, each computed once as long as the decoded video lives."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self._frames: WeakKeyDictionary[Sample, dict[int, np.ndarray]] = WeakKeyDictionary()

    def frames(self, sample: Sample, indices: np.ndarray) -> np.ndarray:
        """Embeddings of frames by their numbers in the video, ``float32 [K, D]``, L2 norm 1."""
        known = self._frames.setdefault(sample, {})
        missing = np.array(sorted({int(index) for index in indices} - known.keys()), np.int64)
        known.update(zip(missing.tolist(), self.clip.images(sample.take(missing)), strict=True))
        return np.stack([known[int(index)] for index in indices])


def frame_clip(backends: Backends) -> FrameClip:
    """The CLIP that was given; the same one for all metrics of it.

    Raises:
        BackendAbsent: none was given.
        CheckpointError: see :meth:`likeness.evaluate.networks.clip.Clip.load`.
    """
    return _load_once(backends.need_model("clip"), backends.device)


@lru_cache(maxsize=1)
def _load_once(source: str, device: str) -> FrameClip:
    from likeness.evaluate.networks.clip import Clip

    return FrameClip(Clip.load(source, device))


@dataclass(frozen=True, eq=False)
class ClipScore:
    """CLIP-Score under one protocol; see the module."""

    name: str
    order: Order
    weights: str
    shared: FrameClip
    needs_reference: bool = False

    @property
    def protocol(self) -> str:
        """The order of colours; ConsisID's own name stands for its weights alone."""
        is_official = self.shared.clip.official == "ViT-B/32"
        return self.order if is_official or self.order == "corrected" else f"{self.order}-unverified"

    @property
    def directions(self) -> Mapping[str, Direction]:
        """More is better."""
        return {"clip_score": "higher"}

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """ConsisID's 16 frames: the start of each sixteenth."""
        return frames.clip_score(num_frames)

    def measure(self, sample: Sample) -> Result:
        """The score, and its curve over the frames."""
        if not sample.item.prompt.strip():
            return Result(values={"clip_score": None}, reason="the row has no prompt")
        indices = self.indices(sample.num_frames, sample.fps)
        if self.order == "corrected":
            seen = self.shared.frames(sample, indices)
        else:
            seen = self.shared.clip.images(np.ascontiguousarray(sample.take(indices)[..., ::-1]))
        curve = 100 * (seen.astype(np.float64) @ self.shared.clip.texts([sample.item.prompt])[0])  # [16]
        return Result(values={"clip_score": float(curve.mean())}, curves={"clip_score": curve.tolist()})


def clip_score(backends: Backends) -> ClipScore:
    """CLIP-Score as ConsisID computes it."""
    shared = frame_clip(backends)
    return ClipScore("clip_score", "consisid-bgr", shared.clip.weights, shared)


def clip_score_corrected(backends: Backends) -> ClipScore:
    """CLIP-Score of frames with their colours in the order that CLIP was trained with."""
    shared = frame_clip(backends)
    return ClipScore("clip_score_corrected", "corrected", shared.clip.weights, shared)
