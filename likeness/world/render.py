"""Drawing: parallel rays marched through a signed-distance head, painted, lit, and laid over a body and a background.

`draw` is deterministic and vectorised over frames; it also tells the truth about each picture: labels of every pixel,
boxes, five keypoints, pose and expression of every person in every frame.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import torch

from likeness.world.clip import CLOTHES, FPS, NUM_FRAMES, Clip, Motion, motion_of
from likeness.world.paint import CLOTH, HAIR, NECK, Painter, over
from likeness.world.person import Traits, traits_of
from likeness.world.places import background
from likeness.world.shape import hair_distance, head_distance, ripple, shape_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

_MARCH_STEPS = 8
_STRIDE = 0.025
_START, _END = 1.25, -1.1  # the marched range along the view, in head units
_CHUNK_PIXELS = 16 * 64 * 64  # rays at a time: the working set stays in the second-level cache
_PIVOT = (0.0, -0.35, -0.15)  # heads turn about the top of the neck
_CLOTHES = np.array(
    [
        [0.78, 0.12, 0.13],
        [0.14, 0.28, 0.72],
        [0.13, 0.52, 0.22],
        [0.93, 0.80, 0.16],
        [0.93, 0.93, 0.93],
        [0.10, 0.10, 0.12],
        [0.46, 0.16, 0.60],
        [0.95, 0.50, 0.10],
    ],
    np.float32,
)
assert len(_CLOTHES) == len(CLOTHES)


@dataclass(frozen=True)
class Drawing:
    """B clips of F frames, P people. Boxes are x0, y0, x1, y1 and keypoints x, y in pixels; keypoints are the left eye, right
    eye, nose, left and right mouth corner as seen in the picture; angles in radians; `visible` says whether a face shows."""

    pixels: np.ndarray  # uint8 [B, F, H, W, 3]
    labels: np.ndarray  # uint8 [B, F, H, W], face-parsing labels
    owner: np.ndarray  # uint8 [B, F, H, W], 0 for the background, i + 1 for person i
    boxes: np.ndarray  # float32 [B, F, P, 4]
    keypoints: np.ndarray  # float32 [B, F, P, 5, 2]
    visible: np.ndarray  # bool [B, F, P]
    motion: tuple[Motion, ...]  # B motions [F, P]


def draw(
    clips: Sequence[Clip], *, height: int = 64, width: int = 64, num_frames: int = NUM_FRAMES, fps: float = FPS
) -> Drawing:
    """Draw clips that show the same number of people (photographs have one frame; do not mix them with clips).

    Raises:
        ValueError: clips with different numbers of people, or photographs among clips.
    """
    if len({(len(clip.people), clip.photo) for clip in clips}) != 1:
        raise ValueError("draw takes clips of one kind at a time: as many people in each, photographs apart from clips")
    motions = tuple(motion_of(clip, num_frames, fps) for clip in clips)
    frames, people = motions[0].x.shape
    batch = len(clips)
    backgrounds = np.stack([background(clip.place, clip.noise[0], height, width) for clip in clips])
    pixels = np.repeat(backgrounds[:, None], frames, 1).reshape(batch * frames, height, width, 3)
    labels = np.zeros((batch * frames, height, width), np.uint8)
    owner = np.zeros_like(labels)
    boxes = np.zeros((batch * frames, people, 4), np.float32)
    keypoints = np.zeros((batch * frames, people, 5, 2), np.float32)
    visible = np.zeros((batch * frames, people), bool)
    chunk = max(1, _CHUNK_PIXELS // (height * width))
    with torch.inference_mode(), _one_thread():
        for slot in range(people):
            traits = traits_of([clip.people[slot] for clip in clips])
            state = {
                field.name: np.concatenate([getattr(m, field.name)[:, slot] for m in motions])
                for field in fields(Motion)
            }
            clothes = np.array([clip.clothes[slot] for clip in clips])
            lights = np.stack([clip.noise[0, 12:20] for clip in clips])
            for start in range(0, batch * frames, chunk):
                rows = np.arange(start, min(start + chunk, batch * frames))
                layer = _Layer(
                    traits, {k: v[rows] for k, v in state.items()}, rows // frames, clothes, lights, height, width
                )
                alpha, rgb, layer_labels, points = layer.render()
                pixels[rows] += (rgb - pixels[rows]) * alpha[..., None]
                shown = alpha > 0.5
                labels[rows] = np.where(shown, layer_labels, labels[rows])
                owner[rows] = np.where(shown, slot + 1, owner[rows])
                keypoints[rows, slot] = points
    for slot in range(people):
        face = (owner == slot + 1) & (labels > 0) & (labels < HAIR) & (labels != 8) & (labels != 9)
        boxes[:, slot], visible[:, slot] = _extents(face)
    shape = (batch, frames)
    return Drawing(
        pixels=np.rint(pixels * 255).astype(np.uint8).reshape(*shape, height, width, 3),
        labels=labels.reshape(*shape, height, width),
        owner=owner.reshape(*shape, height, width),
        boxes=boxes.reshape(*shape, people, 4),
        keypoints=keypoints.reshape(*shape, people, 5, 2),
        visible=visible.reshape(*shape, people),
        motion=motions,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of operations of some ten microseconds each: several threads would wait for one another more than they draw,
    on a busy machine a hundred times more. To use more cores, draw in several processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _extents(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounding boxes [N, 4] of masks [N, H, W], and whether enough of each is there to be called visible."""
    rows, columns = np.any(mask, axis=2), np.any(mask, axis=1)  # [N, H], [N, W]
    assert isinstance(rows, np.ndarray) and isinstance(columns, np.ndarray)
    y0, x0 = rows.argmax(1), columns.argmax(1)
    y1, x1 = rows.shape[1] - rows[:, ::-1].argmax(1), columns.shape[1] - columns[:, ::-1].argmax(1)
    enough = mask.sum((1, 2)) >= 12
    return np.stack([x0, y0, x1, y1], 1).astype(np.float32) * enough[:, None], enough


class _Layer:
    """One person in some frames: rays, marching, paint, light."""

    def __init__(
        self,
        traits: Traits,
        state: dict,
        row: np.ndarray,
        clothes: np.ndarray,
        lights: np.ndarray,
        height: int,
        width: int,
    ):
        self.height, self.width = height, width
        self.t = SimpleNamespace()
        for field in fields(Traits):
            value = torch.from_numpy(np.ascontiguousarray(getattr(traits, field.name)[row]))
            setattr(self.t, field.name, value.T.unsqueeze(-1) if value.ndim == 2 else value.unsqueeze(-1))
        self.s = SimpleNamespace(**{name: torch.from_numpy(value).unsqueeze(-1) for name, value in state.items()})
        self.shirt = torch.from_numpy(_CLOTHES[clothes][row]).T.unsqueeze(-1)
        self.light = torch.from_numpy(lights[row].astype(np.float32))  # [N, 8] uniforms
        self.shape = shape_of(self.t)
        self.rotation = _rotation(self.s.yaw[:, 0], self.s.pitch[:, 0], self.s.roll[:, 0])  # [N, 3, 3] local -> camera
        self.unit = self.s.scale * height  # pixels a head unit, [N, 1]

    def _local(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Camera coordinates to head-local ones: the transposed rotation about the pivot."""
        r = self.rotation[..., None]
        x, y, z = x - _PIVOT[0], y - _PIVOT[1], z - _PIVOT[2]
        lx, ly, lz = (r[:, 0, i] * x + r[:, 1, i] * y + r[:, 2, i] * z + _PIVOT[i] for i in range(3))
        return lx, ly, lz

    def _distances(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return head_distance(self.shape, x, y, z), hair_distance(self.shape, x, y, z)

    def _bumped(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        d_head, d_hair = self._distances(x, y, z)
        return torch.minimum(d_head, d_hair + ripple(self.shape, x, y, z))

    def render(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """alpha [N, H, W], rgb [N, H, W, 3] in 0..1, labels [N, H, W], keypoints [N, 5, 2] in pixels."""
        px = (torch.arange(self.width) + 0.5).repeat(self.height)
        py = (torch.arange(self.height) + 0.5).repeat_interleave(self.width)
        cx, cy = self.s.x * self.width, self.s.y * self.height
        x, y = (px - cx) / self.unit, (cy - py) / self.unit  # [N, P] camera plane, head units
        pixel = 1 / self.unit
        head_rgb, head_labels, head_alpha, depth = self._head(x, y, pixel)
        body_rgb, body_labels, body_alpha, body_depth = self._body(x, y, pixel)
        front = head_alpha * ((depth > body_depth) | (body_alpha < 0.5))
        rgb = over(body_rgb, head_rgb, front)
        labels = torch.where(front > 0.5, head_labels, body_labels)
        alpha = torch.maximum(front, body_alpha)
        n = x.shape[0]
        picture = rgb.clamp(0, 1).permute(1, 2, 0).reshape(n, self.height, self.width, 3)
        size = (n, self.height, self.width)
        return alpha.view(size).numpy(), picture.numpy(), labels.view(size).numpy(), self._keypoints(cx, cy).numpy()

    def _head(self, x: Tensor, y: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x0, y0, z0 = self._local(x, y, torch.full_like(x, _START))
        dx, dy, dz = (-self.rotation[:, 2, i, None] for i in range(3))  # the view direction in head-local axes, [N, 1]
        travelled = torch.zeros_like(x)
        nearest, surface, surface_at = torch.full_like(x, 9.0), torch.full_like(x, 9.0), torch.zeros_like(x)
        for _ in range(_MARCH_STEPS):
            d = torch.minimum(*self._distances(x0 + travelled * dx, y0 + travelled * dy, z0 + travelled * dz))
            nearest = torch.minimum(nearest, d)
            closer = d.abs() < surface
            surface, surface_at = torch.where(closer, d.abs(), surface), torch.where(closer, travelled, surface_at)
            # The extra stride carries rays past edges that they graze; one that lands inside steps back.
            travelled = (travelled + d + _STRIDE * (d > 0)).clamp_(max=_START - _END)
        x1, y1, z1 = x0 + surface_at * dx, y0 + surface_at * dy, z0 + surface_at * dz
        d_head, d_hair = self._distances(x1, y1, z1)
        step = 0.02
        d = self._bumped(x1, y1, z1)
        normal = (
            torch.stack(
                [self._bumped(x1 + step, y1, z1), self._bumped(x1, y1 + step, z1), self._bumped(x1, y1, z1 + step)]
            )
            - d
        )
        normal = normal / normal.square().sum(0).sqrt().clamp(min=1e-6)
        painter = Painter(self.t, self.s, x1, y1, z1, pixel)
        painter.face()
        hair = (0.5 + (d_head - d_hair) / (0.8 * pixel)).clamp(0, 1)
        painter.hair(hair)
        plane = self.shape.nose_z - 0.02
        to_plane = (plane - z0) / torch.where(dz.abs() < 0.2, -0.2, dz)
        seen = (to_plane > 0) & (to_plane < surface_at + 0.03) & (dz < -0.2)
        painter.glasses(x0 + to_plane * dx, y0 + to_plane * dy, seen.float())
        shine = torch.where(painter.labels == HAIR, 0.22, 0.12)
        rgb = self._lit(painter.rgb, normal, shine, local=True)
        alpha = (1 - nearest / pixel).clamp(0, 1)
        return rgb, painter.labels, alpha, _START - surface_at

    def _body(self, x: Tensor, y: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Neck and shirt, which have closed forms along the view; they do not turn with the head."""
        t = self.t
        across = 1 - (x / t.neck_w).square()
        neck_depth = t.neck_w * across.clamp(min=0).sqrt() - 0.22
        neck = (across * t.neck_w / (2 * pixel)).clamp(0, 1) * (y < -0.35)
        u, v = x / t.shoulders, (y + 2.10) / 1.0
        dome = 1 - u.square() - v.square()
        shirt = (dome * 0.5 / pixel).clamp(0, 1)
        shirt_depth = 0.75 * dome.clamp(min=0).sqrt() - 0.30
        collar = ((-1.42 + 1.1 * x.abs() - y) / pixel + 0.5).clamp(0, 1)
        shirt = shirt * collar
        shaded = t.skin * (0.62 + 0.22 * ((-0.75 - y) * 1.2).clamp(0, 1))
        nx = (x / t.neck_w).clamp(-1, 1)
        neck_normal = torch.stack([nx, torch.zeros_like(nx), (1 - nx.square()).sqrt()])
        rgb = self._lit(shaded.expand(3, *x.shape), neck_normal, torch.tensor(0.05))
        normal = torch.stack([u / t.shoulders, v, (dome.clamp(min=0) + 0.04).sqrt() / 0.75])
        normal = normal / normal.square().sum(0).sqrt().clamp(min=1e-6)
        rgb = over(rgb, self._lit(self.shirt.expand(3, *x.shape), normal, torch.tensor(0.03)), shirt)
        labels = torch.where(shirt > 0.5, CLOTH, torch.where(neck > 0.5, NECK, 0)).to(torch.uint8)
        return rgb, labels, torch.maximum(neck, shirt), torch.where(shirt > 0.5, shirt_depth, neck_depth)

    def _lit(self, albedo: Tensor, normal: Tensor, shine: Tensor, local: bool = False) -> Tensor:
        """Wrapped diffuse light and a soft highlight; `normal` [3, N, P] in camera axes, or in head axes when `local`."""
        azimuth, height = (self.light[:, 0] - 0.5) * 2.2, 0.15 + 0.65 * self.light[:, 1]
        direction = torch.stack([torch.sin(azimuth), height, torch.cos(azimuth)], 1)
        direction = direction / direction.norm(dim=1, keepdim=True)
        halfway = direction + torch.tensor([0.0, 0.0, 1.0])
        halfway = halfway / halfway.norm(dim=1, keepdim=True)
        if local:
            direction = torch.einsum("nij,ni->nj", self.rotation, direction)
            halfway = torch.einsum("nij,ni->nj", self.rotation, halfway)
        lambert = torch.einsum("cnp,nc->np", normal, direction)
        wrapped = ((lambert + 0.4) / 1.4).clamp(min=0)
        highlight = torch.einsum("cnp,nc->np", normal, halfway).clamp(min=0).pow(24) * shine
        warmth = (self.light[:, 2] - 0.5) * 0.16
        tint = torch.stack([1 + warmth, torch.ones_like(warmth), 1 - warmth]).unsqueeze(-1)
        ambient = 0.50 + 0.10 * self.light[:, 3, None]
        power = 0.52 + 0.16 * self.light[:, 4, None]
        return albedo * (ambient + power * wrapped * tint) + highlight

    def _keypoints(self, cx: Tensor, cy: Tensor) -> Tensor:
        """Eyes, nose tip and mouth corners [N, 5, 2]: found on the surface from the front, then turned with the head."""
        t, s = self.t, self.s
        width = t.mouth_w * (1 + 0.18 * s.smile.clamp(min=0) - 0.30 * s.mouth * (1 - s.smile.clamp(0, 1)))
        corner_y = t.mouth_y + 0.055 * s.smile
        x = torch.cat([-t.eye_x, t.eye_x, torch.zeros_like(t.eye_x), -width, width], 1)
        y = torch.cat([t.eye_y, t.eye_y, t.nose_y, corner_y, corner_y], 1)
        z = torch.full_like(x, 1.2)
        for _ in range(10):
            z = z - head_distance(self.shape, x, y, z)
        local = torch.stack([x - _PIVOT[0], y - _PIVOT[1], z - _PIVOT[2]], -1)  # [N, 5, 3]
        turned = torch.einsum("nij,nkj->nki", self.rotation, local)
        columns = cx + (turned[..., 0] + _PIVOT[0]) * self.unit
        rows = cy - (turned[..., 1] + _PIVOT[1]) * self.unit
        return torch.stack([columns, rows], -1)


def _rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Head axes to camera axes: roll after yaw after pitch; [N] each -> [N, 3, 3]."""
    one, zero = torch.ones_like(yaw), torch.zeros_like(yaw)
    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin()
    about_y = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy], -1).view(-1, 3, 3)
    about_x = torch.stack([one, zero, zero, zero, cp, sp, zero, -sp, cp], -1).view(-1, 3, 3)
    about_z = torch.stack([cr, -sr, zero, sr, cr, zero, zero, zero, one], -1).view(-1, 3, 3)
    return about_z @ about_y @ about_x
