"""Finding and recognising faces: SCRFD and ArcFace in ONNX files, run by insightface's own classes.

A pack is a folder with one detector and, if faces are to be compared, one recogniser; the names of the files do not
matter. ``pack.json`` beside them is optional::

    {"detector": "scrfd.onnx", "recognizer": "arcface.onnx", "det_size": 640, "det_threshold": 0.5}

It names the files where a folder has several of a kind, and the detector's working size and threshold. Other keys
(notes, licences, figures) are left alone. Nothing is ever downloaded.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from likeness.errors import CheckpointError
from likeness.faces.align import arcface_template, estimate_similarity, warp
from likeness.types import Face

if TYPE_CHECKING:
    from insightface.model_zoo import SCRFD, ArcFaceONNX  # pyright: ignore[reportAttributeAccessIssue]

DET_SIZE = 640  # px, as in the published preparation of references
DET_THRESHOLD = 0.5
RETRY_PADDING = 0.25  # of height and width, on each side, where nothing was found: faces that fill the picture
RETRY_GREY = 128


@dataclass(frozen=True, eq=False)
class FacePack:
    """A face detector with keypoints and, optionally, a face recogniser.

    Attributes:
        detector: insightface's SCRFD.
        recognizer: insightface's ArcFaceONNX, or None: then faces are found but not compared.
        det_size: side of the square in which faces are sought, px, a multiple of 32. Pictures are scaled to fit it.
        det_threshold: least confidence of a face, 0..1.
        folder: where the files lie.
    """

    detector: SCRFD
    recognizer: ArcFaceONNX | None
    det_size: int
    det_threshold: float
    folder: Path

    @classmethod
    def load(cls, folder: str | Path, *, threads: int | None = None) -> FacePack:
        """Load the pack in ``folder``.

        Args:
            threads: of each network; None for ONNX Runtime's choice, one a core. Processes side by side want 1.

        Raises:
            CheckpointError: the folder is missing, has no detector with keypoints, or several files of a kind and
                no ``pack.json`` that chooses; or a file is damaged.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"There is no folder {folder} with face models. {_WAY_OUT}")
        settings = _read_settings(folder)
        detector_file, recognizer_file = _choose_files(folder, settings)
        det_size = settings.get("det_size", DET_SIZE)
        if not isinstance(det_size, int) or det_size < 32 or det_size % 32:
            raise CheckpointError(f"det_size {det_size!r} in {folder / 'pack.json'} must be a multiple of 32, in px.")
        return cls(
            detector=_load_detector(detector_file, threads),
            recognizer=_load_model(recognizer_file, "recognition", threads) if recognizer_file else None,
            det_size=det_size,
            det_threshold=float(settings.get("det_threshold", DET_THRESHOLD)),
            folder=folder,
        )

    def detect(self, picture: np.ndarray, *, retry: bool = True) -> list[Face]:
        """Find the faces of a picture, the largest first.

        The picture is scaled to fit ``det_size`` and laid into its top left corner, as insightface does. Where
        nothing is found, a second look is taken with a grey border of 25 % of each side around the picture: SCRFD
        misses faces that fill it.

        Args:
            picture: ``uint8 [H, W, 3]`` RGB.
            retry: take the second look.

        Returns:
            Faces in px of ``picture``, ordered by the area of their boxes.
        """
        height, width = picture.shape[:2]
        faces = self._detect_once(picture)
        if not faces and retry:
            pad_y, pad_x = int(height * RETRY_PADDING), int(width * RETRY_PADDING)
            padded = np.pad(picture, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), constant_values=RETRY_GREY)
            faces = [_moved(face, -pad_x, -pad_y) for face in self._detect_once(padded)]
        return sorted(faces, key=lambda face: -face.area)

    def _detect_once(self, picture: np.ndarray) -> list[Face]:
        height, width = picture.shape[:2]
        if min(height, width) * self.det_size < max(height, width):
            return []  # a strip that would be less than one px wide in the detector's square
        boxes, keypoints = self.detector.detect(
            cv2.cvtColor(picture, cv2.COLOR_RGB2BGR),
            input_size=(self.det_size, self.det_size),
            det_thresh=self.det_threshold,
        )
        return [
            Face(
                box=(float(x0), float(y0), float(x1), float(y1)),
                keypoints=points.astype(np.float32),
                score=float(score),
            )
            for (x0, y0, x1, y1, score), points in zip(boxes, np.asarray(keypoints), strict=True)
        ]

    def embed(self, picture: np.ndarray, face: Face, *, antialias: bool = True) -> np.ndarray | None:
        """The identity of a face as a unit vector, or None for a pack without a recogniser.

        Args:
            picture: ``uint8 [H, W, 3]`` RGB, the one in which ``face`` was found.
            face: which face of it.
            antialias: average large faces down before they are sampled (see :func:`~likeness.faces.align.warp`).
                insightface does not; give False to have its numbers to the bit.

        Returns:
            ``float32 [D]``, L2 norm 1.
        """
        if self.recognizer is None:
            return None
        size = int(self.recognizer.input_size[0])
        matrix = estimate_similarity(face.keypoints, arcface_template(size))
        return self.embed_aligned(warp(picture, matrix, size, antialias=antialias))

    def embed_aligned(self, crop: np.ndarray) -> np.ndarray | None:
        """As :meth:`embed`, for a crop ``uint8 [S, S, 3]`` RGB aligned to the recogniser's own size (112 px)."""
        if self.recognizer is None:
            return None
        features = np.asarray(self.recognizer.get_feat(cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)), np.float32)  # [1, D]
        feature = features[0]
        return feature / max(float(np.linalg.norm(feature)), 1e-12)

    @staticmethod
    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        """Cosine of two unit embeddings, in [-1, 1]."""
        return float(np.dot(a, b))


_WAY_OUT = (
    "Name a folder with a SCRFD detector and an ArcFace recogniser in ONNX files, for example an unpacked model pack "
    "of insightface (buffalo_l, antelopev2), with --faces or in the environment variable LIKENESS_FACES."
)


def is_profile(face: Face) -> bool:
    """Whether the head is turned so far that the nose lies outside the span of the eyes (along the line of the eyes)."""
    left, right, nose = face.keypoints[:3].astype(np.float64)
    across = right - left
    position = np.dot(nose - left, across) / max(np.dot(across, across), 1e-12)  # 0 at the left eye, 1 at the right
    return not 0 <= position <= 1


def left_to_right(faces: list[Face]) -> list[Face]:
    """Faces in the order in which a person would point at them: by the middle of their boxes."""
    return sorted(faces, key=lambda face: face.box[0] + face.box[2])


def _moved(face: Face, dx: float, dy: float) -> Face:
    x0, y0, x1, y1 = face.box
    shift = np.array([dx, dy], np.float32)
    return replace(face, box=(x0 + dx, y0 + dy, x1 + dx, y1 + dy), keypoints=face.keypoints + shift)


def _read_settings(folder: Path) -> dict:
    path = folder / "pack.json"
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("an object {...} is needed")
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Repair it or remove it; it is optional.") from error
    return settings


def _choose_files(folder: Path, settings: dict) -> tuple[Path, Path | None]:
    """The detector's and the recogniser's file: as ``pack.json`` says, else by the shape of the networks."""
    chosen: dict[str, Path] = {}
    for role in ("detector", "recognizer"):
        if role in settings:
            chosen[role] = folder / settings[role]
            if not chosen[role].is_file():
                raise CheckpointError(f"{folder / 'pack.json'} names {settings[role]}, which is not in the folder.")
    if len(chosen) < 2:
        found: dict[str, list[Path]] = {"detector": [], "recognizer": []}
        for path in sorted(folder.glob("*.onnx")):
            if role := _role(path):
                found[role].append(path)
        for role, paths in found.items():
            if role in chosen or not paths:
                continue
            if len(paths) > 1:
                names = ", ".join(path.name for path in paths)
                raise CheckpointError(
                    f"The folder {folder} has several files that could be the {role}: {names}. Say which in a file "
                    f'pack.json beside them: {{"{role}": "{paths[0].name}"}}'
                )
            chosen[role] = paths[0]
    if "detector" not in chosen:
        raise CheckpointError(f"The folder {folder} has no face detector (SCRFD with keypoints, ONNX). {_WAY_OUT}")
    return chosen["detector"], chosen.get("recognizer")


def _role(path: Path) -> str | None:
    """What a network is, by the rules of insightface's router; None for those of no use here (landmarks, age ...)."""
    import onnx

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf and onnx raise types of their own
        raise CheckpointError(f"The face model {path} is damaged: {error}. Copy it again.") from error
    if len(graph.output) in (9, 15):  # scores, boxes and keypoints on 3 or 5 levels
        return "detector"
    sides = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim[2:4]] if graph.input else []
    # 192 px are insightface's landmark networks; two inputs its face swapper.
    is_square = len(sides) == 2 and sides[0] == sides[1] and sides[0] >= 112 and sides[0] % 16 == 0 and sides[0] != 192
    initialized = {tensor.name for tensor in graph.initializer}  # old files list their weights as inputs too
    num_inputs = sum(value.name not in initialized for value in graph.input)
    return "recognizer" if is_square and num_inputs == 1 and len(graph.output) == 1 else None


def _load_detector(path: Path, threads: int | None) -> SCRFD:
    detector = _load_model(path, "detection", threads)
    if not detector.use_kps:
        raise CheckpointError(f"The face detector {path} gives no keypoints. {_WAY_OUT}")
    return detector


def _load_model(path: Path, task: str, threads: int | None) -> Any:
    """Load one network on the CPU, quietly; ``task`` is insightface's name for what it must do."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # insightface's imports warn of packages that this one does not use
        import onnxruntime
        from insightface.model_zoo import get_model

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.intra_op_num_threads = threads or 0
        # Threads that wait for the next small picture in a loop take the cores from whatever runs beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            model = get_model(str(path), providers=["CPUExecutionProvider"], sess_options=options)
        except Exception as error:  # onnxruntime raises types of its own
            raise CheckpointError(f"The face model {path} cannot be loaded: {error}. Copy it again.") from error
    if model is None or getattr(model, "taskname", None) != task:
        raise CheckpointError(f"The face model {path} is not one for {task}, by its inputs and outputs. {_WAY_OUT}")
    return model
