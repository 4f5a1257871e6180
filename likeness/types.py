"""Values that travel between the parts of the package.

Legend of axes, used in comments and suffixes everywhere:

====  ==========================================================  =========================
axis  meaning                                                     unit
====  ==========================================================  =========================
B     batch: one entry a video
F     frames of a video in pixel space                            frames
H, W  height and width                                            px, or latents in a latent
T     frames of a latent video, ``T = (F - 1) / temporal stride + 1``
C     channels (3 for RGB pixels)
N     tokens of a sequence
L     tokens of a prompt
D     width of an embedding
M     references of one video
P     people in one frame
====  ==========================================================  =========================

Pixels are RGB: ``uint8`` in 0..255 outside the models, floats in [-1, 1] inside. Pixel coordinates have their origin
at the top left corner of the picture, x to the right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from likeness.errors import UserError


@dataclass(frozen=True)
class LatentGrid:
    """Size of a video in transformer tokens (latents after patchifying)."""

    frames: int
    height: int
    width: int

    @property
    def tokens_per_frame(self) -> int:
        return self.height * self.width

    @property
    def num_tokens(self) -> int:
        return self.frames * self.height * self.width


@dataclass(frozen=True, eq=False)
class Video:
    """Frames of a video with their rate.

    Attributes:
        frames: ``uint8 [F, H, W, 3]`` RGB.
        fps: frames per second, > 0.

    Raises:
        UserError: for another shape or type of frames, no frames, or a rate that is not positive.
    """

    frames: np.ndarray
    fps: float

    def __post_init__(self) -> None:
        frames = self.frames
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
            raise UserError(
                f"Video frames were given as {frames.dtype} {list(frames.shape)}; they must be uint8 [F, H, W, 3] RGB "
                "with at least one frame. Convert them first."
            )
        if not self.fps > 0:
            raise UserError(f"A video was given {self.fps} frames per second; the rate must be greater than 0.")

    @property
    def num_frames(self) -> int:
        return self.frames.shape[0]

    @property
    def height(self) -> int:
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        return self.frames.shape[2]

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps


@dataclass(frozen=True, eq=False)
class Face:
    """A face found in a picture.

    Attributes:
        box: ``(x0, y0, x1, y1)`` in px; may reach beyond the picture for a face cut by its border.
        keypoints: ``float32 [5, 2]`` px: the eye on the left of the picture, the eye on the right, the nose, the left
            and the right corner of the mouth, all as seen in the picture.
        score: the detector's confidence in 0..1.
    """

    box: tuple[float, float, float, float]
    keypoints: np.ndarray
    score: float

    @cached_property
    def area(self) -> float:
        """Area of the box in px^2; 0 for an empty box."""
        x0, y0, x1, y1 = self.box
        return max(x1 - x0, 0.0) * max(y1 - y0, 0.0)

    def is_truncated(self, height: int, width: int) -> bool:
        """Whether the box touches or crosses the border of a picture of ``height`` x ``width`` px."""
        x0, y0, x1, y1 = self.box
        return x0 <= 0 or y0 <= 0 or x1 >= width or y1 >= height
