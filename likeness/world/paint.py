"""Skin, eyes, brows, mouth, beard, moles and hair, painted in head-local coordinates so that they foreshorten with the head.

Points are tensors [N, P]; traits and states are tensors [N, 1], colours [3, N, 1]. `pixel` is the size of a pixel in head
units: every edge is one pixel wide. Labels are those of the usual face parsers (jonathandinu/face-parsing).
"""

from __future__ import annotations

import torch
from torch import Tensor

SKIN, NOSE, GLASSES, LEFT_EYE, RIGHT_EYE, LEFT_BROW, RIGHT_BROW, LEFT_EAR, RIGHT_EAR = range(1, 10)
MOUTH, UPPER_LIP, LOWER_LIP, HAIR = range(10, 14)
NECK, CLOTH = 17, 18


def over(base: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
    """`colour` [3, N, 1 or P] laid over `base` [3, N, P] with opacity `alpha` [N, P]."""
    return torch.lerp(base, colour.expand_as(base), alpha.expand_as(base))


def colour(r: float, g: float, b: float) -> Tensor:
    """One colour as a tensor [3, 1, 1] that broadcasts over [3, N, P]."""
    return torch.tensor([r, g, b]).view(3, 1, 1)


class Painter:
    """Paints one batch of heads; each method adds one thing to `self.rgb` [3, N, P] and `self.labels` [N, P]."""

    def __init__(self, traits, state, x: Tensor, y: Tensor, z: Tensor, pixel: Tensor):
        self.t, self.s = traits, state
        self.x, self.y, self.z, self.ax = x, y, z, x.abs()
        self.pixel = pixel
        self.side = torch.where(x < 0, -1.0, 1.0)
        self.rgb = traits.skin.expand(3, *x.shape).clone()
        self.labels = torch.full(x.shape, SKIN, dtype=torch.uint8)
        self.front = (z > 0).float()

    def inside(self, distance: Tensor, softness: float = 1.0) -> Tensor:
        """1 inside (distance < 0), 0 outside, linear over one pixel."""
        return (0.5 - distance / (self.pixel * softness)).clamp_(0, 1)

    def lay(self, tint: Tensor, alpha: Tensor, label: int | tuple[int, int] | None = None) -> None:
        self.rgb = over(self.rgb, tint, alpha)
        if label is not None:
            left, right = label if isinstance(label, tuple) else (label, label)
            chosen = torch.where(self.x < 0, left, right).to(torch.uint8)
            self.labels = torch.where(alpha > 0.5, chosen, self.labels)

    def face(self) -> None:
        self._skin()
        self._beard()
        self._mouth()
        self._eyes()
        self._brows()

    def _skin(self) -> None:
        t, x, y = self.t, self.x, self.y
        ears = self.inside(t.head_w * 0.93 - self.ax) * (y.abs() < t.ear + 0.03) * (self.z < 0.25)
        self.lay(t.skin * colour(0.95, 0.82, 0.80), ears * 0.7, (LEFT_EAR, RIGHT_EAR))
        blush = torch.exp(-(((self.ax - 0.40) / 0.17).square() + ((y - t.cheek_y) / 0.14).square()))
        self.lay(t.skin * colour(1.0, 0.70, 0.68), blush * self.front * (0.25 + 0.35 * t.woman))
        spots = torch.sin(x * 61 + 3 * torch.sin(y * 37)) * torch.sin(y * 53 + 2 * torch.sin(x * 41)) > 0.45
        cheeks = torch.exp(-((self.ax - 0.30) / 0.26).square() - ((y + 0.12) / 0.16).square())
        self.lay(t.skin * colour(0.72, 0.52, 0.42), spots * cheeks * self.front * t.freckles)
        fold = (self.ax - 0.20 - 0.25 * (t.nose_y - y).clamp(min=0)).abs() - 0.012
        band = ((y < t.nose_y) & (y > t.mouth_y - 0.02)).float() * self.front
        self.lay(t.skin * 0.62, self.inside(fold) * band * (0.10 + 0.75 * t.age))
        lines = torch.sin((y - 0.25) * 42).clamp(min=0.6) * 2.5 - 1.5
        self.lay(
            t.skin * 0.66,
            lines * ((y > 0.34) & (y < 0.66) & (self.ax < 0.42)) * self.front * (t.age - 0.3).clamp(min=0),
        )
        nostril = ((self.ax - t.nose_tip * 0.55) / 0.042).square() + ((y - t.nose_y + 0.075) / 0.028).square()
        self.lay(t.skin * 0.35, self.inside((nostril.sqrt() - 1) * 0.03) * (self.z > 0.5))
        is_nose = (self.ax < t.nose_tip + 0.05) & (y < t.eye_y) & (y > t.nose_y - 0.12) & (self.z > 0.62)
        self.labels = torch.where(is_nose, NOSE, self.labels.long()).to(torch.uint8)
        mole = ((x - t.mole_x).square() + (y - t.mole_y).square()).sqrt() - t.mole_size
        self.lay(t.skin * 0.28, self.inside(mole) * self.front * (t.mole_size > 0))

    def _beard(self) -> None:
        t, y, ax = self.t, self.y, self.ax
        under = y - (t.mouth_y - 0.10 + 0.62 * (ax / 0.60).square())
        jaw = self.inside(under, 3) * (self.z > -0.15)
        above_lip = (y - (t.mouth_y + t.lip_up + 0.075)).abs() - 0.062 * (1 - (ax / (t.mouth_w + 0.07)).square()).clamp(
            min=0
        )
        moustache = self.inside(above_lip, 1.5) * (ax < t.mouth_w + 0.07) * self.front
        chin = self.inside(torch.maximum(ax - 0.20, y - (t.mouth_y - 0.11)), 2) * self.front
        style = t.beard
        alpha = torch.where(style == 4, torch.maximum(jaw, moustache) * 0.95, 0.0)
        alpha = torch.where(style == 3, torch.maximum(chin, moustache) * 0.92, alpha)
        alpha = torch.where(style == 2, moustache * 0.95, alpha)
        alpha = torch.where(style == 1, torch.maximum(jaw, moustache) * 0.40, alpha)
        strands = 0.85 + 0.15 * torch.sin(self.x * 90) * torch.sin(y * 47)
        self.rgb = over(self.rgb, t.brow_colour * strands, alpha)

    def _mouth(self) -> None:
        t, s, x, y = self.t, self.s, self.x, self.y
        width = t.mouth_w * (1 + 0.18 * s.smile.clamp(min=0) - 0.30 * s.mouth * (1 - s.smile.clamp(0, 1)))
        um = (x / width).clamp(-1.2, 1.2)
        bow = (1 - um.square()).clamp(min=0)
        line = t.mouth_y + 0.085 * s.smile * (um.square() - 0.35)
        gape_up, gape_down = 0.05 * s.mouth * bow, (0.19 * s.mouth) * bow
        corner = (self.ax - width).clamp(min=0)
        front = self.front * (corner < self.pixel)
        upper = line + gape_up
        lower = line - gape_down
        lip_up = t.lip_up * bow.sqrt() * (1 - 0.25 * torch.exp(-(x / 0.05).square()))
        lip_low = t.lip_low * bow.sqrt()
        self.lay(t.lip_colour * 0.92, self.inside(torch.maximum(y - upper - lip_up, line - y)) * front, UPPER_LIP)
        self.lay(t.lip_colour, self.inside(torch.maximum(y - line, lower - lip_low - y)) * front, LOWER_LIP)
        inside = self.inside(torch.maximum(y - upper, lower - y)) * front * (s.mouth > 0.03)
        self.lay(colour(0.28, 0.07, 0.08), inside, MOUTH)
        teeth = torch.maximum(y - upper, upper - 0.065 - y)
        self.lay(colour(0.96, 0.95, 0.92), inside * self.inside(teeth) * (um.abs() < 0.85) * s.smile.clamp(0.35, 1))
        seam = (y - line).abs() - 0.014
        self.lay(t.lip_colour * 0.42, self.inside(seam) * front * (s.mouth <= 0.12) * (corner <= 0))

    def _eyes(self) -> None:
        t, s, y = self.t, self.s, self.y
        across = (self.ax - t.eye_x) / t.eye_w
        tilt = t.eye_tilt * (self.ax - t.eye_x) * 0.8
        v = y - t.eye_y - tilt
        arch = (1 - across.square()).clamp(min=0)
        height = t.eye_h * s.eye
        top, bottom = height * arch.sqrt(), -height * 0.72 * arch
        opening = self.inside(torch.maximum(v - top, bottom - v)) * (across.abs() < 1) * self.front
        socket = torch.exp(-((across / 1.35).square() + ((v - 0.02) / 0.17).square()))
        self.lay(t.skin * colour(0.80, 0.70, 0.68), socket * self.front * 0.45)
        self.lay(colour(0.97, 0.97, 0.96), opening, (LEFT_EYE, RIGHT_EYE))
        dx, dy = self.x - self.side * t.eye_x - s.gaze_x, v - s.gaze_y
        r = (dx.square() + dy.square()).sqrt()
        self.lay(t.eye_colour * 0.55, self.inside(r - t.iris) * opening)
        self.lay(t.eye_colour * 1.1, self.inside(r - t.iris * 0.84) * opening)
        self.lay(colour(0.03, 0.03, 0.04), self.inside(r - t.iris * 0.46) * opening)
        glint = ((dx + 0.03).square() + (dy - 0.035).square()).sqrt() - 0.022
        self.lay(colour(1.0, 1.0, 1.0), self.inside(glint) * opening * 0.9)
        lid = (v - top).abs() - t.lash
        lashes = self.inside(lid) * (across.abs() < 1.06) * self.front
        self.lay(t.brow_colour * 0.35, lashes * (0.65 + 0.35 * t.woman), (LEFT_EYE, RIGHT_EYE))
        under = (v - bottom).abs() - 0.008
        self.lay(t.skin * 0.55, self.inside(under) * (across.abs() < 1) * self.front * 0.6)

    def _brows(self) -> None:
        t, s, y = self.t, self.s, self.y
        along = (self.ax - t.eye_x) / t.brow_w
        # Anger pulls the inner ends down and together, sadness (negative anger) lifts them.
        middle = t.eye_y + t.brow_y + 0.10 * s.brow + t.brow_arch * (1 - along.square())
        middle = middle + (t.brow_tilt + 0.55 * s.anger) * (self.ax - t.eye_x) - 0.05 * s.anger.clamp(min=0)
        brow = (y - middle).abs() - t.brow_h * (1 - 0.55 * ((along + 0.6).clamp(min=0) / 1.6).square())
        alpha = self.inside(brow) * self.inside((along.abs() - 1) * 0.2) * self.front
        self.lay(t.brow_colour, alpha * 0.95, (LEFT_BROW, RIGHT_BROW))

    def hair(self, amount: Tensor) -> None:
        """Hair over the skin with opacity `amount`; strands for straight hair, a rougher grain for curls."""
        t, x, y, z = self.t, self.x, self.y, self.z
        strands = torch.sin(x * 20 + 5 * t.part * y + 4 * z) * (1 - t.curl)
        curls = torch.sin(x * 15) * torch.sin(y * 15) * torch.sin(z * 15) * 1.6 * t.curl
        self.rgb = over(self.rgb, (t.hair_colour * (1 + 0.13 * (strands + curls))).clamp(0, 1), amount)
        self.labels = torch.where(amount > 0.5, HAIR, self.labels.long()).to(torch.uint8)

    def glasses(self, gx: Tensor, gy: Tensor, visible: Tensor) -> None:
        """Frames on a plane before the eyes; gx, gy are where the rays cross that plane."""
        t = self.t
        q = torch.stack([(gx.abs() - t.eye_x - 0.01).abs(), (gy - t.eye_y + 0.01).abs()])
        round_rim = (q.square().sum(0)).sqrt() - t.glasses_size
        square_rim = torch.maximum(q[0] - t.glasses_size, q[1] - t.glasses_size * 0.78)
        rim = torch.where(t.glasses == 1, round_rim, square_rim)
        inner = t.eye_x + 0.01 - t.glasses_size
        bridge = torch.maximum(gx.abs() - inner, (gy - t.eye_y - 0.05).abs() - 0.022)
        frame = self.inside(torch.minimum(rim.abs() - 0.026, bridge)) * visible * (t.glasses > 0)
        lens = self.inside(rim) * visible * (t.glasses > 0)
        self.lay(colour(0.90, 0.96, 1.0), lens * 0.10)
        self.lay(t.frame_colour, frame, GLASSES)
        temple = self.inside((self.y - t.eye_y - 0.04).abs() - 0.024) * (self.ax > t.eye_x + t.glasses_size)
        self.lay(
            t.frame_colour, temple * (self.z > 0.0) * (self.z < 0.55) * (t.glasses > 0) * (self.labels != HAIR), GLASSES
        )
