"""Detection, choice of files and embedding, on a pack whose answers are known and on real detectors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from handmade_pack import BLUE, FRONTAL, RED, arcface_like, marked, scrfd_like, write_pack

from likeness.errors import CheckpointError
from likeness.faces.pack import FacePack, is_profile, left_to_right
from likeness.media import read_picture
from likeness.types import Face


def test_faces_come_in_pixels_of_the_picture_largest_first(pack: FacePack) -> None:
    faces = pack.detect(marked((RED, 16, 24), (BLUE, 64, 80)))
    assert [face.box for face in faces] == [(48, 64, 96, 112), (8, 16, 32, 40)]
    np.testing.assert_allclose(faces[0].keypoints, FRONTAL * 24 + [72, 88], atol=1e-4)
    np.testing.assert_allclose(faces[1].keypoints, FRONTAL * 12 + [20, 28], atol=1e-4)
    assert all(0.99 < face.score <= 1 for face in faces)


def test_colours_reach_the_detector_in_the_right_order(pack: FacePack) -> None:
    """Red and blue exchanged would exchange the sizes."""
    (face,) = pack.detect(marked((RED, 16, 24)))
    assert face.area == 24 * 24


def test_a_large_picture_is_scaled_into_the_detectors_square(pack: FacePack) -> None:
    picture = np.full((256, 512, 3), 128, np.uint8)  # 4 times too wide: looked at in 64 x 128 px
    picture[128:160, 256:288] = RED
    (face,) = pack.detect(picture)
    np.testing.assert_allclose(face.box, (224, 96, 320, 192), atol=1e-3)


def test_a_second_look_is_taken_with_a_grey_border(pack: FacePack) -> None:
    # The mark lies on the corner of four cells and fills a quarter of each; scaled by 2/3 it falls into one.
    picture = marked((RED, 20, 20))
    assert pack.detect(picture, retry=False) == []
    (face,) = pack.detect(picture)
    # The cell's middle (36, 36) of the padded picture, enlarged by 3/2, less the border of 32 px.
    middle = np.array([36, 36]) * 1.5 - 32
    np.testing.assert_allclose(face.box, [*(middle - 18), *(middle + 18)], atol=1e-3)
    np.testing.assert_allclose(face.keypoints, FRONTAL * 18 + middle, atol=1e-3)


def test_a_strip_and_an_empty_wall_hold_no_face(pack: FacePack) -> None:
    assert pack.detect(np.zeros((16, 4096, 3), np.uint8)) == []
    assert pack.detect(np.full((64, 64, 3), 200, np.uint8)) == []


def test_faces_are_counted_from_the_left(pack: FacePack) -> None:
    faces = pack.detect(marked((BLUE, 64, 80), (RED, 16, 24), (RED, 104, 24)))
    assert [face.box[0] for face in left_to_right(faces)] == [8, 48, 96]


@pytest.mark.parametrize("roll_deg", [0, 35, 90])
@pytest.mark.parametrize(("nose_x", "profile"), [(0.0, False), (-0.25, False), (-0.45, True), (0.45, True)])
def test_a_profile_is_told_by_the_nose(roll_deg: float, nose_x: float, profile: bool) -> None:
    keypoints = FRONTAL.copy()
    keypoints[2, 0] = nose_x
    angle = np.radians(roll_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    face = Face(box=(0, 0, 1, 1), keypoints=(keypoints @ turn.T).astype(np.float32), score=1.0)
    assert is_profile(face) is profile


# ------------------------------------------------------------------------------------------------------- embedding


def test_an_embedding_is_the_same_for_the_same_face_elsewhere(pack: FacePack) -> None:
    rng = np.random.default_rng(0)
    small = cv2.resize(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8), (240, 240), interpolation=cv2.INTER_CUBIC)
    points = (FRONTAL * 50 + 120).astype(np.float32)
    turned = np.ascontiguousarray(np.rot90(small))  # (x, y) -> (y, 239 - x)
    turned_points = np.stack([points[:, 1], 239 - points[:, 0]], axis=1)
    twice = cv2.resize(small, (480, 480))
    first = pack.embed(small, Face((0, 0, 1, 1), points, 1.0))
    again = pack.embed(turned, Face((0, 0, 1, 1), turned_points, 1.0))
    large = pack.embed(twice, Face((0, 0, 1, 1), points * 2 + 0.5, 1.0))
    assert first is not None and again is not None and large is not None
    assert first.dtype == np.float32 and first.shape == (48,) and abs(np.linalg.norm(first) - 1) < 1e-6
    assert pack.similarity(first, again) > 0.9999 and pack.similarity(first, large) > 0.999
    other = pack.embed(255 - small, Face((0, 0, 1, 1), points, 1.0))
    assert other is not None and pack.similarity(first, other) < 0.5


def test_an_embedding_equals_insightfaces_own(pack: FacePack) -> None:
    pytest.importorskip("skimage", reason="insightface's own alignment needs scikit-image")
    from insightface.app.common import Face as InsightFace

    picture = np.random.default_rng(1).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    points = (FRONTAL * 90 + 150 + np.random.default_rng(2).normal(0, 5, (5, 2))).astype(np.float32)
    assert pack.recognizer is not None
    theirs = pack.recognizer.get(np.ascontiguousarray(picture[..., ::-1]), InsightFace(kps=points))
    ours = pack.embed(picture, Face((0, 0, 1, 1), points, 1.0), antialias=False)
    np.testing.assert_allclose(ours, theirs / np.linalg.norm(theirs), atol=1e-3)  # of noise: fixed-point rounding


def test_a_pack_without_a_recogniser_still_finds_faces(tmp_path: Path) -> None:
    pack = FacePack.load(write_pack(tmp_path, recognizer=False))
    picture = marked((RED, 16, 24))
    (face,) = pack.detect(picture)
    assert pack.recognizer is None and pack.embed(picture, face) is None


# ---------------------------------------------------------------------------------------------------------- loading


def test_settings_are_read_and_other_keys_left_alone(pack: FacePack) -> None:
    assert (pack.det_size, pack.det_threshold) == (128, 0.5)


def test_loading_prints_nothing(pack_folder: Path) -> None:
    code = f"from likeness.faces import FacePack; FacePack.load({str(pack_folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr == ""


@pytest.mark.parametrize(("threads", "asked"), [(None, 0), (1, 1)])
def test_threads_are_as_asked_and_do_not_wait_in_a_loop(pack_folder: Path, threads: int | None, asked: int) -> None:
    """Four of them would burn four cores between two small pictures, beside whoever trains or decodes."""
    pack = FacePack.load(pack_folder, threads=threads)
    for network in (pack.detector, pack.recognizer):
        options = network.session.get_session_options()
        assert options.intra_op_num_threads == asked
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_networks_of_no_use_are_passed_over(tmp_path: Path) -> None:
    write_pack(tmp_path)
    onnx.save(arcface_like(192), tmp_path / "2d106det.onnx")
    onnx.save(arcface_like(96), tmp_path / "genderage.onnx")
    recognizer = FacePack.load(tmp_path).recognizer
    assert recognizer is not None and Path(recognizer.model_file).name == "knows.onnx"


def test_several_detectors_need_a_choice(tmp_path: Path) -> None:
    write_pack(tmp_path)
    onnx.save(scrfd_like(), tmp_path / "another.onnx")
    with pytest.raises(CheckpointError, match=r"several files that could be the detector: another.onnx, finds.onnx"):
        FacePack.load(tmp_path)
    (tmp_path / "pack.json").write_text(json.dumps({"detector": "another.onnx"}))
    assert Path(str(FacePack.load(tmp_path).detector.model_file)).name == "another.onnx"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"det_size": 100}', "multiple of 32"),
        ('{"det_size": ', "cannot be read"),
        ("[640]", "cannot be read"),
        ('{"detector": "gone.onnx"}', "names gone.onnx"),
        ('{"detector": "knows.onnx"}', "not one for detection"),
        ('{"recognizer": "finds.onnx"}', "not one for recognition"),
    ],
)
def test_a_wrong_pack_json_is_refused(tmp_path: Path, settings: str, message: str) -> None:
    write_pack(tmp_path)
    (tmp_path / "pack.json").write_text(settings)
    with pytest.raises(CheckpointError, match=message):
        FacePack.load(tmp_path)


def test_a_broken_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no folder .*LIKENESS_FACES"):
        FacePack.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="has no face detector"):
        FacePack.load(tmp_path)
    onnx.save(scrfd_like(num_outputs=6), tmp_path / "no_keypoints.onnx")
    with pytest.raises(CheckpointError, match="has no face detector"):
        FacePack.load(tmp_path)
    (tmp_path / "pack.json").write_text('{"detector": "no_keypoints.onnx"}')
    with pytest.raises(CheckpointError, match="gives no keypoints"):
        FacePack.load(tmp_path)
    (tmp_path / "cut.onnx").write_bytes(scrfd_like().SerializeToString()[:-200])
    (tmp_path / "pack.json").write_text('{"detector": "cut.onnx"}')
    with pytest.raises(CheckpointError, match=r"cut.onnx (is damaged|cannot be loaded)"):
        FacePack.load(tmp_path)


# ------------------------------------------------------------------------------------------------------ real pictures


@pytest.fixture(scope="module", params=["scrfd_500m_kps.onnx", "scrfd_2.5g_kps.onnx"])
def real_pack(
    request: pytest.FixtureRequest, real_material: Path, tmp_path_factory: pytest.TempPathFactory
) -> FacePack:
    folder = tmp_path_factory.mktemp("real")
    (folder / request.param).symlink_to(real_material / "models" / request.param)
    return FacePack.load(folder)


def test_real_faces_are_found(real_pack: FacePack, real_material: Path) -> None:
    photos = sorted((real_material / "photos").glob("painting_*.jpg"))
    assert photos
    for path in photos:
        (face,) = real_pack.detect(read_picture(path))
        left_eye, right_eye, nose, mouth_left, mouth_right = face.keypoints
        assert left_eye[0] < right_eye[0] and mouth_left[0] < mouth_right[0], path
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(mouth_left[1], mouth_right[1]), path


def test_two_real_people_are_found(real_pack: FacePack, real_material: Path) -> None:
    faces = left_to_right(real_pack.detect(read_picture(real_material / "photos" / "two_people.jpg")))
    assert len(faces) == 2
    assert faces[0].box[2] < 563 < faces[1].box[0], "one on each half of the picture"
