"""From a photograph to the reference canvas: the picture of a person that the video model is shown.

The published preparation of Concat-ID, step by step: the largest face is aligned to the ArcFace template on 448 x 448
px; what is not face, hair or neck is blanked if enough remains; the crop is resized to fit the video frame and padded
with black. Training uses the same functions on drawn or curated crops.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from likeness.errors import NoFaceError, UserError
from likeness.faces.align import arcface_template, estimate_similarity, warp
from likeness.faces.pack import FacePack, is_profile, left_to_right
from likeness.faces.parse import FaceParser
from likeness.types import Face

REFERENCE_CROP_PX = 448  # four times the recogniser's 112
BACKGROUND_LABELS = (0, 14, 15, 16, 18)  # background, hat, earring, necklace, cloth
MIN_FOREGROUND = 0.4  # of the crop; below it the parsing is not trusted and the crop is kept as it is

# What Concat-ID's released weights were trained with, and the tiny family after them.
BLANK = 0

_MAX_ENLARGEMENT = 4.0  # beyond this the canvas shows blur, not a face
_BORDER_MARGIN = 0.03  # of the box: detectors place a cut face's box just inside the border as often as beyond it


@dataclass(frozen=True, eq=False)
class Reference:
    """A photograph made ready for the video model, and how that went.

    Attributes:
        canvas: ``uint8 [H, W, 3]`` RGB, the size of the video frame.
        crop: ``uint8 [448, 448, 3]``, the aligned face before blanking; the whole picture where no face was found.
        face: the face that was taken, in px of the photograph; None where none was found.
        num_faces: faces found in the photograph.
        parsed: whether the background was blanked.
        embedding: ``float32 [D]``, the face's identity; None without a face or without a recogniser.
        warnings: sentences for the user.
    """

    canvas: np.ndarray
    crop: np.ndarray
    face: Face | None
    num_faces: int
    parsed: bool
    embedding: np.ndarray | None
    warnings: tuple[str, ...]


def reference_canvas(
    picture: np.ndarray,
    height: int,
    width: int,
    *,
    pack: FacePack,
    parser: FaceParser | None,
    require_face: bool = False,
    face_index: int | None = None,
) -> Reference:
    """Turn a photograph into a reference canvas of ``height`` x ``width`` px.

    Where no face is found the whole picture is fitted into the canvas, as published.

    Args:
        picture: ``uint8 [H, W, 3]`` RGB.
        parser: without one the background stays.
        require_face: refuse a picture in which no face is found.
        face_index: which face, counted from the left, 0 first; the largest by default.

    Raises:
        NoFaceError: no face, although one is required or chosen.
        UserError: ``face_index`` is beyond the faces found.
    """
    faces = pack.detect(picture)
    if not faces:
        if require_face or face_index is not None:
            raise NoFaceError(
                "No face was found in the picture, and one is required. Give a photograph in which the face is "
                "upright, lit and at least 40 px high, or leave out --require-face and --face-index to use the "
                "whole picture."
            )
        warning = (
            "No face was found in the picture, so the whole picture is the reference; the video may not resemble "
            "anybody. Give a photograph with a clear face; --require-face makes this an error."
        )
        return whole_picture(picture, height, width, (warning,))

    face = _choose(faces, face_index)
    matrix = estimate_similarity(face.keypoints, arcface_template(REFERENCE_CROP_PX))
    crop = warp(picture, matrix, REFERENCE_CROP_PX)
    shown = blank_background(crop, parser.labels(crop)) if parser else crop
    parsed = shown is not crop

    warnings = _warnings_about_choice(faces, face, face_index) + _warnings_about_face(face, picture)
    enlargement = np.hypot(matrix[0, 0], matrix[1, 0]) * min(height, width) / REFERENCE_CROP_PX
    if enlargement > _MAX_ENLARGEMENT:
        warnings.append(
            f"The face is small: it is enlarged {enlargement:.1f} times for the canvas. A larger photograph gives a "
            "better likeness."
        )
    if parser is None:
        warnings.append("The face models have no parser, so the background of the photograph stays in the reference.")
    elif not parsed:
        warnings.append(
            f"Less than {MIN_FOREGROUND:.0%} of the cut-out was recognised as face and hair, so its background stays "
            "in the reference."
        )
    return Reference(
        canvas=canvas_from_crop(shown, height, width),
        crop=crop,
        face=face,
        num_faces=len(faces),
        parsed=parsed,
        embedding=pack.embed(picture, face),
        warnings=tuple(warnings),
    )


def whole_picture(picture: np.ndarray, height: int, width: int, warnings: tuple[str, ...] = ()) -> Reference:
    """A whole picture ``uint8 [h, w, 3]`` as a reference of ``height`` x ``width`` px: of clothing, a background."""
    return Reference(fit_canvas(picture, height, width), picture, None, 0, False, None, warnings)


def blank_background(crop: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Blank what is not the person's head, if at least 40 % of the crop stays.

    Args:
        crop: ``uint8 [H, W, 3]``.
        labels: ``uint8 [H, W]``, the labels of :data:`~likeness.faces.parse.PARSING_LABELS`.

    Returns:
        A changed copy, or ``crop`` itself where too little would stay.
    """
    background = np.isin(labels, BACKGROUND_LABELS)
    if 1 - background.mean() < MIN_FOREGROUND:
        return crop
    return np.where(background[..., None], np.uint8(BLANK), crop)


def canvas_from_crop(crop: np.ndarray, height: int, width: int) -> np.ndarray:
    """An aligned square crop, blanked or not, as a canvas ``uint8 [height, width, 3]``: see :func:`fit_canvas`."""
    if crop.shape[0] != crop.shape[1]:
        raise ValueError(f"An aligned crop is square; one of {crop.shape[1]} x {crop.shape[0]} px was given.")
    return fit_canvas(crop, height, width)


def fit_canvas(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a picture to the largest size that fits (bicubic, antialiased), in the middle of a black canvas.

    Args:
        picture: ``uint8 [h, w, 3]``.

    Returns:
        ``uint8 [height, width, 3]``.
    """
    source_height, source_width = picture.shape[:2]
    # Rounded down, and the odd pixel of padding at the bottom and the right, as published.
    if source_height * width >= height * source_width:
        new_height, new_width = height, max(source_width * height // source_height, 1)
    else:
        new_height, new_width = max(source_height * width // source_width, 1), width
    resized = Image.fromarray(picture).resize((new_width, new_height), Image.Resampling.BICUBIC)
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - new_height) // 2, (width - new_width) // 2
    canvas[top : top + new_height, left : left + new_width] = np.asarray(resized)
    return canvas


def _choose(faces: list[Face], face_index: int | None) -> Face:
    """The face at ``face_index`` from the left; the first of ``faces``, which is the largest, by default."""
    if face_index is None:
        return faces[0]
    if not 0 <= face_index < len(faces):
        raise UserError(
            f"--face-index {face_index} was given, but the picture has {len(faces)} face(s). Count them from the "
            f"left: 0 to {len(faces) - 1}."
        )
    return left_to_right(faces)[face_index]


def _warnings_about_choice(faces: list[Face], face: Face, face_index: int | None) -> list[str]:
    if len(faces) == 1 or face_index is not None:
        return []
    position = next(index for index, other in enumerate(left_to_right(faces)) if other is face)
    return [
        f"{len(faces)} faces were found and the largest taken (--face-index {position}). Choose another by counting "
        f"from the left: --face-index 0 to {len(faces) - 1}."
    ]


def _warnings_about_face(face: Face, picture: np.ndarray) -> list[str]:
    warnings = []
    x0, y0, x1, y1 = face.box
    dx, dy = _BORDER_MARGIN * (x1 - x0), _BORDER_MARGIN * (y1 - y0)
    grown = replace(face, box=(x0 - dx, y0 - dy, x1 + dx, y1 + dy))
    if grown.is_truncated(*picture.shape[:2]):
        warnings.append("The face is cut by the border of the picture; give a photograph that shows it whole.")
    if is_profile(face):
        warnings.append("The face is seen from the side; a photograph from the front gives a better likeness.")
    return warnings
