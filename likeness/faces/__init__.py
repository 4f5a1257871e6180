"""Faces: find them, tell them apart, and turn photographs into reference canvases.

``load_faces()`` gives the models; ``FaceTools.reference`` does the whole way from a photograph to a canvas.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from likeness.errors import CheckpointError
from likeness.faces.canvas import (
    Reference,
    blank_background,
    canvas_from_crop,
    fit_canvas,
    reference_canvas,
    whole_picture,
)
from likeness.faces.pack import FacePack
from likeness.faces.parse import FaceParser

FACES_VARIABLE = "LIKENESS_FACES"
DRAWN_FACES = Path(__file__).parents[1] / "world" / "weights" / "faces"  # the package's own, for drawn people

__all__ = [
    "DRAWN_FACES",
    "FACES_VARIABLE",
    "FacePack",
    "FaceParser",
    "FaceTools",
    "Reference",
    "blank_background",
    "canvas_from_crop",
    "faces_folder",
    "fit_canvas",
    "load_faces",
    "reference_canvas",
    "whole_picture",
]


@dataclass(frozen=True, eq=False)
class FaceTools:
    """The face models of one folder; ``parser`` is None where the folder has none."""

    pack: FacePack
    parser: FaceParser | None

    def reference(
        self,
        picture: np.ndarray,
        height: int,
        width: int,
        *,
        require_face: bool = False,
        face_index: int | None = None,
    ) -> Reference:
        """:func:`~likeness.faces.canvas.reference_canvas` with these models."""
        return reference_canvas(
            picture,
            height,
            width,
            pack=self.pack,
            parser=self.parser,
            require_face=require_face,
            face_index=face_index,
        )


def faces_folder(folder: str | Path | None = None) -> Path:
    """Where the face models are: ``folder``, else ``LIKENESS_FACES``, else those that come with the package.

    The latter were trained on drawn people and have never seen a real face.
    """
    if folder is not None:
        return Path(folder)
    if given := os.environ.get(FACES_VARIABLE):
        return Path(given)
    return DRAWN_FACES


def load_faces(folder: str | Path | None = None, *, device: str = "cpu", threads: int | None = None) -> FaceTools:
    """Load detector, recogniser and parser from a folder (see :func:`faces_folder`).

    The folder holds a detector and perhaps a recogniser (see :mod:`likeness.faces.pack`) and perhaps a subfolder with
    a Segformer face parser, such as a copy of jonathandinu/face-parsing.

    Args:
        device: where the parser runs; the ONNX models run on the CPU.
        threads: of each ONNX model; None for one a core. Processes side by side want 1.

    Raises:
        CheckpointError: the folder or its detector is missing, or a file is damaged.
    """
    folder = faces_folder(folder)
    pack = FacePack.load(folder, threads=threads)
    parser = next((path.parent for path in sorted(folder.glob("*/config.json")) if _is_segformer(path)), None)
    return FaceTools(pack, FaceParser.load(parser, device) if parser else None)


def _is_segformer(config: Path) -> bool:
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("model_type") == "segformer"
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{config} cannot be read: {error}. Copy the folder again.") from error
