"""The shape of a head as signed distances, after the usual smooth-minimum modelling of ray marching.

All functions take points x, y, z in head-local units, tensors [N, P] (N drawings, P rays), and traits as tensors [N, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """What the marcher needs of a person, each [N, 1]; derived once from the traits."""

    head_w: Tensor
    head_h: Tensor
    jaw_w: Tensor
    jaw_h: Tensor
    chin: Tensor
    chin_y: Tensor
    cheek: Tensor
    cheek_y: Tensor
    ear: Tensor
    nose_w: Tensor
    nose_tip: Tensor
    nose_y: Tensor
    nose_z: Tensor
    eye_y: Tensor
    shell_x: Tensor  # radii of the hair's shell around the skull
    shell_y: Tensor
    shell_z: Tensor
    shell_cy: Tensor
    window_x: Tensor  # the face looks out of the hair through an ellipsoidal window
    window_y: Tensor
    window_cx: Tensor
    window_cy: Tensor
    lock_r: Tensor  # hair hanging beside the face; a negative radius means none
    lock_len: Tensor
    knot_r: Tensor  # a bun or a quiff
    knot_y: Tensor
    knot_z: Tensor
    ripple: Tensor  # amplitude of curls


def smooth_min(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Quadratic smooth minimum; k is the width of the blend."""
    return torch.minimum(a, b) - (k - (a - b).abs()).clamp_(min=0).square_().mul_(0.25 / k)


def ellipsoid(x: Tensor, y: Tensor, z: Tensor, rx: Tensor, ry: Tensor, rz: Tensor | float) -> Tensor:
    """First-order distance to an ellipsoid at the origin (exact for a sphere)."""
    u, v, w = x / rx, y / ry, z / rz
    k0 = (u * u + v * v + w * w).sqrt_()
    k1 = ((u / rx).square_() + (v / ry).square_() + (w / rz).square_()).sqrt_().clamp_(min=1e-6)
    return k0 * (k0 - 1) / k1


def _sphere(x: Tensor, y: Tensor, z: Tensor, r: Tensor | float) -> Tensor:
    return (x * x + y * y + z * z).sqrt_() - r


def head_distance(s: Shape, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Skull, jaw, cheeks, chin, nose and ears."""
    ax = x.abs()
    d = smooth_min(
        ellipsoid(x, y - 0.22, z + 0.10, s.head_w, s.head_h, 0.86),
        ellipsoid(x, y + 0.28, z - 0.08, s.jaw_w, s.jaw_h, 0.60),
        0.22,
    )
    d = smooth_min(d, _sphere(ax - 0.36, y - s.cheek_y, z - 0.36, s.cheek), 0.16)
    d = smooth_min(d, _sphere(x, y - s.chin_y, z - 0.36, s.chin), 0.16)
    # The nose: a tapered capsule from the bridge to the tip, and its wings.
    along = ((s.eye_y + 0.05 - y) / (s.eye_y + 0.05 - s.nose_y)).clamp(0, 1)
    nose = _sphere(
        x, y - (s.eye_y + 0.05 + along * (s.nose_y - s.eye_y - 0.05)), z - 0.60 - along * (s.nose_z - 0.60), 0.0
    )
    d = smooth_min(d, nose - s.nose_w - along * (s.nose_tip - s.nose_w), 0.07)
    d = smooth_min(d, _sphere(ax - s.nose_tip * 0.95, y - s.nose_y + 0.02, z - s.nose_z + 0.12, 0.065), 0.05)
    ears = ellipsoid(ax - s.head_w * 0.98, y - 0.0, z + 0.08, s.ear * 0.42, s.ear, 0.13)
    return torch.minimum(d, ears)


def hair_distance(s: Shape, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """A shell around the skull with a window for the face, hanging locks, a knot; curls ripple it."""
    shell = ellipsoid(x, y - s.shell_cy, z + 0.14, s.shell_x, s.shell_y, s.shell_z)
    u, v, w = (x - s.window_cx) / s.window_x, (y - s.window_cy) / s.window_y, (z - 1.0) / 1.0
    window = ((u * u + v * v + w * w).sqrt_() - 1) * 0.6
    d = torch.maximum(shell, -window)
    lock_y = y - 0.25
    down = (-lock_y).clamp(min=0).minimum(s.lock_len)
    lock = _sphere((x.abs() - s.head_w * 0.93) * 1.15, lock_y + down, (z + 0.22) * 0.62, s.lock_r)
    d = torch.minimum(d, lock)
    return smooth_min(d, _sphere(x * 0.85, y - s.knot_y, z - s.knot_z, s.knot_r), 0.08)


def ripple(s: Shape, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Curls: a bump added to the hair's distance where normals are taken; too shallow to matter to the silhouette."""
    return s.ripple * torch.sin(x * 15) * torch.sin(y * 15) * torch.sin(z * 15)


def shape_of(t) -> Shape:
    """The marcher's numbers from traits whose fields are tensors [N, 1]."""
    style = t.hair_style.long()

    def by_style(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float32)[style]

    # Columns: bald, buzz cut, short, side part, afro, bob, long, bun, fringe, quiff
    volume = by_style(-0.3, 0.0, 0.5, 0.6, 2.6, 0.8, 0.7, 0.35, 0.7, 0.45) * t.hair_volume + by_style(
        -0.1, 0.025, 0.05, 0.05, 0.10, 0.06, 0.05, 0.03, 0.05, 0.03
    )
    line = t.hairline + by_style(0, 0.14, 0.10, 0.10, 0.08, 0.08, 0.12, 0.14, -0.10, 0.16)
    window_y = by_style(1, 1.15, 1.1, 1.1, 1.05, 1.1, 1.2, 1.15, 0.95, 1.1)
    locks = by_style(-9, -9, -9, -9, -9, 0.26, 0.28, -9, -9, -9)
    knot = by_style(-9, -9, -9, -9, -9, -9, -9, 0.30, -9, 0.30)
    return Shape(
        head_w=t.head_w,
        head_h=t.head_h,
        jaw_w=t.jaw_w,
        jaw_h=t.jaw_h,
        chin=t.chin,
        chin_y=t.chin_y,
        cheek=t.cheek,
        cheek_y=t.cheek_y,
        ear=t.ear,
        nose_w=t.nose_w,
        nose_tip=t.nose_tip,
        nose_y=t.nose_y,
        nose_z=0.66 + t.nose_out,
        eye_y=t.eye_y,
        shell_x=t.head_w + volume,
        shell_y=t.head_h + volume * 1.1,
        shell_z=0.86 + volume,
        shell_cy=0.22 + 0.3 * volume.clamp(min=0),
        window_x=t.head_w * by_style(1, 1.12, 1.08, 1.10, 1.08, 1.02, 1.02, 1.10, 1.08, 1.08),
        window_y=window_y,
        window_cx=t.part * by_style(0, 0, 0.15, 0.75, 0, 0.25, 0.3, 0, 0.1, 0.1),
        window_cy=line - window_y,
        lock_r=locks + t.hair_volume * 0.5,
        lock_len=by_style(0, 0, 0, 0, 0, 0.95, 2.2, 0, 0, 0),
        knot_r=knot + t.hair_volume * 0.4,
        knot_y=by_style(0, 0, 0, 0, 0, 0, 0, 1.15, 0, 0.93),
        knot_z=by_style(0, 0, 0, 0, 0, 0, 0, -0.20, 0, 0.42),
        ripple=t.curl * by_style(0, 0, 0.02, 0.02, 0.05, 0.03, 0.03, 0.01, 0.02, 0.03),
    )
