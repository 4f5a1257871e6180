"""From a photograph to the canvas: the published steps, the choices and the warnings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from handmade_pack import BLUE, FRONTAL, RED, marked, small_segformer, write_pack
from hypothesis import given
from hypothesis import strategies as st

from likeness.errors import CheckpointError, NoFaceError, UserError
from likeness.faces import FacePack, FaceTools, Reference, faces_folder, load_faces
from likeness.faces.canvas import (
    BLANK,
    blank_background,
    canvas_from_crop,
    fit_canvas,
    reference_canvas,
)
from likeness.media import read_picture


class Labels:
    """A parser that gives the labels it was made with."""

    def __init__(self, labels: np.ndarray) -> None:
        self.given = labels

    def labels(self, crop: np.ndarray) -> np.ndarray:
        return self.given


def reference(picture: np.ndarray, pack: FacePack, parser=None, **options) -> Reference:
    return reference_canvas(picture, 64, 96, pack=pack, parser=parser, **options)


# ---------------------------------------------------------------------------------------------------------- canvases


@given(
    height=st.integers(1, 300), width=st.integers(1, 300), canvas=st.tuples(st.integers(16, 128), st.integers(16, 128))
)
def test_a_picture_fits_its_canvas_in_the_middle(height: int, width: int, canvas: tuple[int, int]) -> None:
    fitted = fit_canvas(np.full((height, width, 3), 255, np.uint8), *canvas)
    assert fitted.shape == (*canvas, 3)
    rows, columns = np.flatnonzero(fitted.any((1, 2))), np.flatnonzero(fitted.any((0, 2)))
    assert len(rows) == canvas[0] or len(columns) == canvas[1], "one side is filled"
    for filled, total in ((rows, canvas[0]), (columns, canvas[1])):
        before, after = filled[0], total - 1 - filled[-1]
        assert 0 <= after - before <= 1, "an odd pixel of padding is at the bottom and the right"
    scale = min(canvas[0] / height, canvas[1] / width)
    assert abs(len(rows) - height * scale) < 1.001 and abs(len(columns) - width * scale) < 1.001


def test_a_picture_of_the_canvas_size_is_left_alone() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    assert np.array_equal(fit_canvas(picture, 48, 80), picture)


def test_a_canvas_is_made_of_a_square_crop() -> None:
    crop = np.random.default_rng(0).integers(0, 255, (448, 448, 3), dtype=np.uint8)
    assert np.array_equal(canvas_from_crop(crop, 64, 96), fit_canvas(crop, 64, 96))
    with pytest.raises(ValueError, match="square"):
        canvas_from_crop(crop[:, :400], 64, 96)


@pytest.mark.parametrize("label", range(19))
def test_exactly_the_published_labels_are_blanked(label: int) -> None:
    crop = np.full((10, 10, 3), 77, np.uint8)
    labels = np.ones((10, 10), np.uint8)  # skin
    labels[:4] = label
    shown = blank_background(crop, labels)
    assert (shown[:4] == (BLANK if label in (0, 14, 15, 16, 18) else 77)).all() and (shown[4:] == 77).all()
    assert (crop == 77).all(), "the crop itself is left alone"


@pytest.mark.parametrize(("skin_rows", "blanked"), [(39, False), (40, True)])
def test_little_foreground_leaves_the_crop_alone(skin_rows: int, blanked: bool) -> None:
    crop = np.full((100, 100, 3), 77, np.uint8)
    labels = np.zeros((100, 100), np.uint8)
    labels[:skin_rows] = 1
    shown = blank_background(crop, labels)
    assert (shown[-1, -1] == (BLANK if blanked else 77)).all() and (shown is crop) is not blanked


# -------------------------------------------------------------------------------------------------------- references


def test_the_largest_face_is_aligned(pack: FacePack) -> None:
    picture = marked((RED, 16, 24), (BLUE, 64, 80))
    made = reference(picture, pack)
    assert made.face is not None and made.face.area == 48 * 48 and made.num_faces == 2
    # The handmade keypoints are the template about (72, 88) with 24 px for 56: the crop is +-24 px about it.
    mark_px = 448 / 48 * 16  # the mark is 16 px wide
    inner = slice(round(224 - mark_px / 2) + 9, round(224 + mark_px / 2) - 9)
    assert (made.crop[inner, inner] == BLUE).all()
    assert (made.crop[:130] == 128).all() and (made.crop[:, -130:] == 128).all()
    assert made.canvas.shape == (64, 96, 3) and (made.canvas[:, :16] == 0).all()
    assert np.array_equal(made.canvas, canvas_from_crop(made.crop, 64, 96))
    assert made.embedding is not None and abs(np.linalg.norm(made.embedding) - 1) < 1e-6


def test_a_face_is_chosen_by_counting_from_the_left(pack: FacePack) -> None:
    picture = marked((RED, 16, 24), (BLUE, 64, 80))
    largest = reference(picture, pack)
    assert any("2 faces were found and the largest taken (--face-index 1)" in text for text in largest.warnings)
    small = reference(picture, pack, face_index=0)
    assert small.face is not None and small.face.area == 24 * 24
    assert not any("faces were found" in text for text in small.warnings)
    for index in (-1, 2):
        with pytest.raises(UserError, match="0 to 1"):
            reference(picture, pack, face_index=index)


def test_the_background_is_blanked_by_the_parser(pack: FacePack) -> None:
    labels = np.ones((448, 448), np.uint8)
    labels[:, :150] = 0
    made = reference(marked((BLUE, 64, 80)), pack, Labels(labels))
    assert made.parsed and not any("background" in text for text in made.warnings)
    assert (made.canvas[:, 17:36] == BLANK).all() and not (made.crop[:, :150] == BLANK).all()
    assert BLANK == 0, "what Concat-ID's released weights were trained with"


@pytest.mark.parametrize("parser", [None, Labels(np.zeros((448, 448), np.uint8))], ids=["no parser", "no foreground"])
def test_a_background_that_stays_is_told(pack: FacePack, parser: Labels | None) -> None:
    made = reference(marked((BLUE, 64, 80)), pack, parser)
    assert not made.parsed and any("background" in text and "stays" in text for text in made.warnings)


def test_without_a_face_the_whole_picture_is_used_and_told(pack: FacePack) -> None:
    picture = np.full((100, 50, 3), 200, np.uint8)
    made = reference(picture, pack)
    assert made.face is None and made.embedding is None and made.num_faces == 0
    assert np.array_equal(made.canvas, fit_canvas(picture, 64, 96))
    assert len(made.warnings) == 1 and "the whole picture is the reference" in made.warnings[0]


@pytest.mark.parametrize("options", [{"require_face": True}, {"face_index": 0}])
def test_a_face_can_be_required(pack: FacePack, options: dict) -> None:
    with pytest.raises(NoFaceError, match="leave out --require-face"):
        reference(np.full((100, 50, 3), 200, np.uint8), pack, **options)


def test_doubtful_faces_are_told(pack: FacePack, tmp_path: Path) -> None:
    whole = reference(marked((BLUE, 48, 48)), pack).warnings
    assert not any("cut" in text or "side" in text or "small" in text for text in whole)
    assert any("cut by the border" in text for text in reference(marked((BLUE, 0, 48)), pack).warnings)
    large_canvas = reference_canvas(marked((RED, 48, 48)), 480, 832, pack=pack, parser=None)
    assert any("enlarged 20.0 times" in text for text in large_canvas.warnings)
    turned = FRONTAL.copy()
    turned[2, 0] = turned[0, 0] - 0.1
    profile = FacePack.load(write_pack(tmp_path, keypoints=turned))
    assert any("from the side" in text for text in reference(marked((BLUE, 48, 48)), profile).warnings)


def test_real_photographs_become_canvases(real_material: Path, tmp_path: Path) -> None:
    (tmp_path / "scrfd.onnx").symlink_to(real_material / "models" / "scrfd_2.5g_kps.onnx")
    tools = load_faces(tmp_path)
    two = tools.reference(read_picture(real_material / "photos" / "two_people.jpg"), 480, 832, face_index=0)
    assert two.num_faces == 2 and two.face is not None and two.face.box[2] < 563
    assert (two.canvas[:, :176] == 0).all() and (two.canvas[:, 176:-176].mean(axis=(0, 1)) > 30).all()
    cut = tools.reference(read_picture(real_material / "photos" / "face_cut_at_left_edge.jpg"), 480, 832)
    assert any("cut by the border" in text for text in cut.warnings)


# ----------------------------------------------------------------------------------------------------------- loading


def test_the_folder_is_chosen_by_argument_then_environment_then_package(
    monkeypatch: pytest.MonkeyPatch, pack_folder: Path
) -> None:
    monkeypatch.delenv("LIKENESS_FACES", raising=False)
    assert faces_folder().parts[-4:] == ("likeness", "world", "weights", "faces")
    monkeypatch.setenv("LIKENESS_FACES", str(pack_folder))
    assert faces_folder() == pack_folder
    assert faces_folder("elsewhere") == Path("elsewhere")
    tools = load_faces()
    assert isinstance(tools, FaceTools) and tools.pack.folder == pack_folder and tools.parser is None


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no folder"):
        load_faces(tmp_path / "nothing")


def test_a_parser_is_found_in_any_subfolder(tmp_path: Path) -> None:
    write_pack(tmp_path)
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "config.json").write_text('{"model_type": "clip"}')
    small_segformer().save_pretrained(tmp_path / "face-parsing")
    tools = load_faces(tmp_path)
    assert tools.parser is not None
    labels = tools.parser.labels(np.zeros((32, 32, 3), np.uint8))
    assert labels.shape == (32, 32)
    (tmp_path / "another" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_faces(tmp_path)
