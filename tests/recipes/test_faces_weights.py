"""The shipped face pack and probe do on people they have never seen what their model card says."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import likeness.world
from likeness.faces.align import arcface_template, estimate_similarity, warp
from likeness.faces.pack import FacePack
from likeness.faces.parse import PARSING_LABELS, FaceParser
from likeness.world import VALIDATION_PEOPLE, clip_of, draw, photo_of
from likeness.world.probe import load_probe

WEIGHTS = Path(likeness.world.__file__).parent / "weights"
PEOPLE = range(VALIDATION_PEOPLE.start + 500, VALIDATION_PEOPLE.start + 508)

needs_faces = pytest.mark.skipif(not (WEIGHTS / "faces" / "pack.json").exists(), reason="no face pack is installed")
needs_probe = pytest.mark.skipif(not (WEIGHTS / "probe" / "config.json").exists(), reason="no probe is installed")


@pytest.fixture(scope="module")
def photos():
    return draw([photo_of(person, 0) for person in PEOPLE], height=128, width=128)


@pytest.fixture(scope="module")
def clips():
    return draw([clip_of(person, 0) for person in PEOPLE], num_frames=6, fps=2.5)


@needs_faces
def test_finds_and_recognises_people_never_seen(photos, clips):
    pack = FacePack.load(WEIGHTS / "faces")
    known, seen = [], []
    for drawing, embeddings in ((photos, known), (clips, seen)):
        scale = drawing.pixels.shape[2] / 64
        for i in range(len(PEOPLE)):
            (face,) = pack.detect(drawing.pixels[i, 0])
            astray = np.linalg.norm(face.keypoints - drawing.keypoints[i, 0, 0], axis=1).mean()
            assert astray < 2.5 * scale
            embeddings.append(pack.embed(drawing.pixels[i, 0], face))
    cosines = np.array(known) @ np.array(seen).T
    own = np.diag(cosines)
    others = cosines[~np.eye(len(PEOPLE), dtype=bool)]
    assert own.mean() > 0.6 and abs(others.mean()) < 0.15
    assert (cosines.argmax(1) == np.arange(len(PEOPLE))).all()


@needs_faces
@pytest.mark.parametrize("det_size", [320, 640])
def test_finds_faces_at_the_published_sizes_too(clips, det_size):
    pack = FacePack.load(WEIGHTS / "faces")
    for i in range(0, len(PEOPLE), 2):
        boxes, _ = pack.detector.detect(clips.pixels[i, 0, ..., ::-1].copy(), input_size=(det_size, det_size))
        assert len(boxes) == 1
        np.testing.assert_allclose(boxes[0, :4], clips.boxes[i, 0, 0], atol=8)


@needs_faces
def test_parses_what_blanking_needs(photos):
    parser = FaceParser.load(WEIGHTS / "faces" / "parser")
    common, union = np.zeros(len(PARSING_LABELS)), np.zeros(len(PARSING_LABELS))
    for i in range(len(PEOPLE)):
        matrix = estimate_similarity(photos.keypoints[i, 0, 0], arcface_template(448))
        true = cv2.warpAffine(photos.labels[i, 0], matrix, (448, 448), flags=cv2.INTER_NEAREST)
        found = parser.labels(warp(photos.pixels[i, 0], matrix, 448))
        for label in np.unique(true):
            common[label] += ((found == label) & (true == label)).sum()
            union[label] += ((found == label) | (true == label)).sum()
    each = common / np.maximum(union, 1)
    for name in ("background", "skin", "hair"):
        assert each[PARSING_LABELS.index(name)] > 0.8, name


@needs_probe
def test_reads_off_what_clips_show(clips):
    answers = load_probe(WEIGHTS / "probe").read(clips.pixels)
    shown = [clip_of(person, 0) for person in PEOPLE]
    assert [clip.place for clip in shown] == answers["place"].tolist()
    assert np.mean([clip.turns[0] == turn for clip, turn in zip(shown, answers["turn"], strict=True)]) > 0.8
    yaw = np.stack([motion.yaw[:, 0] for motion in clips.motion])
    assert np.abs(answers["pose"][..., 0] - yaw).mean() < 0.1
