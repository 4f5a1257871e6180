"""Copy-paste: how much of the photograph, beyond who is in it, is found in the video again.

A model that pastes the reference scores high on identity for the wrong reason. Four things are compared between the
reference and each of FaceSim's 16 frames, from keypoints and pixels, without weights beyond the face pack's:

=========================  =====================================================================  ==========
component                  distance d                                                             tolerance
=========================  =====================================================================  ==========
``copy_pose``              angle between the head poses that five keypoints give                  10 degrees
``copy_expression``        1 - correlation of the mouths, normalised for light, best of shifts    0.2
``copy_light``             brightness, its slope over the face and its warmth, in log units       0.15
``copy_background``        CIELAB distance around the head, at places relative to the face        15
=========================  =====================================================================  ==========

Each becomes ``exp(-(d / tolerance)^2 / 2)``: 1 is a copy, 0 has nothing in common. ``copy_paste`` is the mean of the
components that could be measured over all frames with a face, ``copy_worst`` the most copied frame. Less is better.
Frontal faces, neutral mouths and studio walls agree by chance: compare runs over the same references and prompts, and
with real videos of the same people. A stranger's skin differs as light does, so a run that loses the person copies less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from likeness.evaluate import frames
from likeness.evaluate.faces_of import FaceAnalyser, SeenFace, face_analyser, no_reference_face
from likeness.evaluate.identity import optional
from likeness.evaluate.people import faces_of_references
from likeness.evaluate.types import Backends, Direction, Result, Sample
from likeness.faces.align import ARCFACE_TEMPLATE, warp

COMPONENTS = ("copy_pose", "copy_expression", "copy_light", "copy_background")
TOLERANCES = (10.0, 0.2, 0.15, 15.0)  # in the order of COMPONENTS

# ArcFace's frontal template in space, y up, in half distances of the eyes. How far a nose stands out differs between
# people, and cancels where two pictures of one person are compared.
_HALF_EYES = (ARCFACE_TEMPLATE[1, 0] - ARCFACE_TEMPLATE[0, 0]) / 2
_FACE_3D = np.column_stack([ARCFACE_TEMPLATE * [1, -1] / _HALF_EYES, [0.0, 0.0, 0.8, 0.1, 0.1]])
_FACE_3D -= _FACE_3D.mean(axis=0)

_CUT_PX = 112
_MOUTH = slice(74, 110), slice(28, 84)  # rows and columns of the cut
_MOUTH_SHIFT_PX = 8
_FACE = slice(30, 100), slice(26, 86)
_LIGHT_CELLS = 8  # a side
_AROUND = 1.5  # half of the window about the face, in sides of its box
_AROUND_PX, _AROUND_CELLS = 96, 16
_MIN_CELLS = 6


@dataclass(frozen=True, eq=False)
class Look:
    """What is compared of one picture of a person.

    Attributes:
        rotation: ``float64 [3, 3]``, the pose of the head.
        mouth: ``float32 [36, 56]``, luminance with its local mean and contrast taken out.
        tones: ``float64 [8, 8, 3]``, logarithms of the face's colours.
        around: ``float32 [16, 16, 3]`` CIELAB about the head.
        known: ``bool [16, 16]``: where ``around`` shows what is neither head nor body nor outside of the picture.
    """

    rotation: np.ndarray
    mouth: np.ndarray
    tones: np.ndarray
    around: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, seen: SeenFace) -> Look:
        """Look at a face and what is around it."""
        cut = seen.cut(_CUT_PX, antialias=True)
        cells = (_LIGHT_CELLS, _LIGHT_CELLS)
        tones = np.log(np.maximum(cv2.resize(cut[_FACE], cells, interpolation=cv2.INTER_AREA), 8).astype(np.float64))
        # A photograph has more detail than a frame: both are blurred beyond what either shows.
        grey = cv2.cvtColor(cv2.GaussianBlur(cut, (0, 0), 1.5), cv2.COLOR_RGB2GRAY).astype(np.float32)
        around, known = _surroundings(seen)
        return cls(head_rotation(seen.face.keypoints), _locally_normal(grey)[_MOUTH], tones, around, known)


def head_rotation(keypoints: np.ndarray) -> np.ndarray:
    """Pose of a head from five keypoints ``[5, 2]`` px: the affine camera that fits best, made orthonormal.

    Returns:
        ``float64 [3, 3]``, head to camera; x right, y up, z to the viewer. The frontal template gives the identity.
    """
    points = (np.asarray(keypoints, np.float64) - np.mean(keypoints, axis=0)) * [1, -1]
    camera = np.linalg.lstsq(_FACE_3D, points, rcond=None)[0].T  # [2, 3]
    u, _, v = np.linalg.svd(camera, full_matrices=False)
    rows = u @ v
    return np.stack([*rows, np.cross(*rows)])


def angles_deg(rotation: np.ndarray) -> tuple[float, float, float]:
    """Yaw (> 0: to the right of the picture), pitch (> 0: up) and roll (> 0: counter-clockwise), degrees."""
    forward, right = rotation[:, 2], rotation[:, 0]
    yaw, pitch = np.arctan2(forward[0], forward[2]), np.arctan2(forward[1], np.hypot(forward[0], forward[2]))
    return float(np.degrees(yaw)), float(np.degrees(pitch)), float(np.degrees(np.arctan2(right[1], right[0])))


def distances(reference: Look, frame: Look) -> np.ndarray:
    """The four distances, ``float64 [4]`` in the order of :data:`COMPONENTS`; nan for a background that cannot be compared."""
    turn = (np.trace(reference.rotation @ frame.rotation.T) - 1) / 2
    core = reference.mouth[_MOUTH_SHIFT_PX:-_MOUTH_SHIFT_PX, _MOUTH_SHIFT_PX:-_MOUTH_SHIFT_PX]
    mouth = cv2.matchTemplate(frame.mouth, core, cv2.TM_CCOEFF_NORMED).max()
    return np.array(
        [
            np.degrees(np.arccos(np.clip(turn, -1, 1))),
            1 - float(np.clip(mouth, -1, 1)),
            _light_distance(reference.tones - frame.tones),
            _background_distance(reference, frame),
        ]
    )


def copied(distance: np.ndarray) -> np.ndarray:
    """Distances ``[..., 4]`` as copying in 0..1, 1 a copy; nan stays."""
    return np.exp(-((distance / TOLERANCES) ** 2) / 2)


def _locally_normal(grey: np.ndarray, sigma: float = 6.0) -> np.ndarray:
    centred = grey - cv2.GaussianBlur(grey, (0, 0), sigma)
    return centred / (np.sqrt(cv2.GaussianBlur(centred**2, (0, 0), sigma)) + 6)


def _light_distance(ratio: np.ndarray) -> float:
    """Length of (brightness, slope across, slope down, warmth) of a field of log ratios ``[8, 8, 3]``.

    One person's skin, hair and beard cancel in the ratio of two pictures. The plane through it is fitted to the least
    absolute error, so that an open mouth or a strand of hair does not count as light.
    """
    line = np.linspace(-1, 1, _LIGHT_CELLS)
    y, x = np.meshgrid(line, line, indexing="ij")
    basis = np.column_stack([np.ones(x.size), x.ravel(), y.ravel()])
    values = ratio.mean(axis=2).ravel()
    weights, plane = np.ones(len(values)), np.zeros(3)
    for _ in range(5):
        plane = np.linalg.lstsq(basis * weights[:, None], values * weights, rcond=None)[0]
        weights = 1 / np.sqrt(np.abs(values - basis @ plane) + 0.02)
    red, _, blue = np.median(ratio.reshape(-1, 3), axis=0)
    return float(np.linalg.norm([*plane, red - blue]))


def _surroundings(seen: SeenFace) -> tuple[np.ndarray, np.ndarray]:
    """Mean colours of 16 x 16 cells about the face, beside and above the head; and which cells are known."""
    x0, y0, x1, y1 = seen.face.box
    scale = _AROUND_PX / (2 * _AROUND * max(np.sqrt(seen.face.area), 1.0))
    middle = _AROUND_PX / 2
    matrix = np.array([[scale, 0, middle - scale * (x0 + x1) / 2], [0, scale, middle - scale * (y0 + y1) / 2]])
    window = warp(seen.picture, matrix, _AROUND_PX).astype(np.float32) / 255
    inside = warp(np.full_like(seen.picture, 255), matrix, _AROUND_PX)[..., 0] > 250
    line = ((np.arange(_AROUND_PX) + 0.5) / middle - 1) * _AROUND  # in sides of the box
    y, x = np.meshgrid(line, line, indexing="ij")
    inside &= ((np.abs(x) > 0.75) | (y < -0.95)) & (y < 0.35)  # hair reaches out to there; shoulders begin below
    cells, side = _AROUND_CELLS, _AROUND_PX // _AROUND_CELLS
    lab = cv2.cvtColor(window, cv2.COLOR_RGB2LAB)
    counts = inside.reshape(cells, side, cells, side).sum(axis=(1, 3))
    sums = (lab * inside[..., None]).reshape(cells, side, cells, side, 3).sum(axis=(1, 3))
    return sums / np.maximum(counts, 1)[..., None], counts >= 0.6 * side**2


def _background_distance(reference: Look, frame: Look) -> float:
    """Mean CIELAB distance of the reference's cells to the nearest of the frame's 3 x 3 cells there; nan below 6 cells."""
    both = reference.known & frame.known
    if both.sum() < _MIN_CELLS:
        return float("nan")
    nearest = np.full(both.shape, np.inf)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            # Cells wrap around at the border of the window, where the other side is as much background.
            colours, known = (np.roll(part, (dy, dx), (0, 1)) for part in (frame.around, frame.known))
            apart = np.linalg.norm(reference.around - colours, axis=2)
            nearest = np.minimum(nearest, np.where(known, apart, np.inf))
    return float(nearest[both].mean())


@dataclass(frozen=True, eq=False)
class Copying:
    """See the module."""

    weights: str
    analyser: FaceAnalyser
    name: str = "copying"
    protocol: str = "16 frames, 10 0.2 0.15 15"
    needs_reference: bool = True

    @property
    def directions(self) -> Mapping[str, Direction]:
        """Less is better, down to what chance gives."""
        return dict.fromkeys(("copy_paste", "copy_worst", *COMPONENTS), "lower")

    def indices(self, num_frames: int, fps: float) -> np.ndarray:
        """The frames of FaceSim."""
        return frames.consisid(num_frames)

    def measure(self, sample: Sample) -> Result:
        """The values, ``copy_paste`` as a curve, and the poses of references and frames in ``details``.

        Of several photographs of one person the one that a frame copies most counts; several people are averaged.
        """
        found = self.analyser.references(sample)
        if refused := no_reference_face(sample, found):
            return refused
        owners = sample.item.people
        seen = self.analyser.frames(sample, self.indices(sample.num_frames, sample.fps))
        looks: dict[SeenFace, Look] = {}
        table = np.full((len(found), len(seen), len(COMPONENTS)), np.nan)  # [R, K, 4]
        yaws = np.full((len(found), len(seen)), np.nan)
        for row, faces in enumerate(faces_of_references(owners, found, seen)):
            if (reference := found[row]) is None:
                continue
            shown = looks[reference] = Look.of(reference)
            for column, face in enumerate(faces):
                if face is not None:
                    look = looks[face] = looks.get(face) or Look.of(face)
                    table[row, column] = copied(distances(shown, look))
                    yaws[row, column] = angles_deg(look.rotation)[0]
        if np.isnan(table).all():
            return Result(values=dict.fromkeys(self.directions), reason="no face is found in any frame")
        components, curve = _summary(table, owners)
        values = {
            name: None if np.isnan(value) else float(value) for name, value in zip(COMPONENTS, components, strict=True)
        }
        return Result(
            values={"copy_paste": float(np.nanmean(components)), "copy_worst": float(np.nanmax(curve)), **values},
            curves={"copy_paste": optional(curve)},
            reason="the background cannot be compared: too little of it is seen" if np.isnan(components[3]) else "",
            details={
                "reference_yaw_deg": [None if r is None else angles_deg(looks[r].rotation)[0] for r in found],
                "yaw_deg": [None if np.isnan(row).all() else float(np.nanmean(row)) for row in yaws],
            },
        )


def _summary(table: np.ndarray, owners: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Components ``[4]`` and curve ``[K]`` of a table ``[R, K, 4]``, nan where nothing is known."""
    chosen = []  # of each person [K, 4]: of their photographs the one copied most
    for person in sorted(set(owners)):
        rows = table[[row for row, owner in enumerate(owners) if owner == person]]
        most = np.nan_to_num(_mean(rows, axis=2), nan=-1.0).argmax(axis=0)  # [K]
        chosen.append(rows[most, np.arange(rows.shape[1])])
    people = np.stack(chosen)  # [P, K, 4]
    return _mean(people.reshape(-1, people.shape[2]), axis=0), _mean(_mean(people, axis=2), axis=0)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not nan; nan where all is, without numpy's warning."""
    known = ~np.isnan(values)
    counts = known.sum(axis=axis)
    return np.where(counts > 0, np.where(known, values, 0).sum(axis=axis) / np.maximum(counts, 1), np.nan)


def copying(backends: Backends) -> Copying:
    """Copying by the face pack's detector."""
    analyser = face_analyser(backends)
    return Copying(analyser.weights, analyser)
