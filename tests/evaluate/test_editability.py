"""CLIPDist, of whole pictures and of faces, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from painted_faces import GREEN, RED, SIXTY, analyser, one, picture, sample
from tiny_clip import write_clip

from likeness.evaluate.editability import ClipDistFace, ClipDistFull, clip_dist, clip_dist_face
from likeness.evaluate.text import FrameClip
from likeness.evaluate.types import BackendAbsent, Backends
from likeness.world import VALIDATION_PEOPLE
from likeness.world.folder import draw_photograph

PACK = Path(__file__).parents[2] / "likeness" / "world" / "weights" / "faces"


class MiddleClip:
    """The colour in the middle of a picture, less 100: of a painted face's crop, the person."""

    weights = "middle"

    def images(self, pictures) -> np.ndarray:
        middles = np.array([p[p.shape[0] // 2, p.shape[1] // 2] for p in pictures], np.float32).reshape(-1, 3) - 100
        return middles / np.linalg.norm(middles, axis=1, keepdims=True)


def full(frames: list, references: list):
    return ClipDistFull("", FrameClip(MiddleClip())).measure(sample(frames, references))  # type: ignore[arg-type]


def faces(frames: list, references: list, people: tuple[int, ...] | None = None):
    metric = ClipDistFace("", FrameClip(MiddleClip()), analyser())  # type: ignore[arg-type]
    return metric.measure(sample(frames, references, people=people))


def test_whole_pictures() -> None:
    assert full([one(RED)] * 16, [one(RED)]).values["clip_dist"] == pytest.approx(0, abs=1e-6)
    assert full([one(RED)] * 16, [one(SIXTY)]).values["clip_dist"] == pytest.approx(0.4, abs=1e-6)
    result = full([one(RED)] * 8 + [one(GREEN)] * 8, [one(RED), one(SIXTY)])
    # To RED 0 and 1, to SIXTY 0.4 and 0.2.
    assert result.values["clip_dist"] == pytest.approx((0.2 + 0.6) / 2, abs=1e-6)
    assert result.curves["clip_dist"] == pytest.approx([0.2] * 8 + [0.6] * 8, abs=1e-6)


def test_faces_wherever_they_are() -> None:
    corner = picture((SIXTY, 60, 8))
    assert faces([corner] * 4, [one(RED)]).values["clip_dist_face"] == pytest.approx(0.4, abs=1e-6)
    partly = faces([corner, one(None)] * 8, [one(RED)])
    assert partly.values["clip_dist_face"] == pytest.approx(0.4, abs=1e-6), "frames without a face are left out"
    assert partly.curves["clip_dist_face"] == pytest.approx([0.4, None] * 8)


def test_faces_of_several_people_are_matched() -> None:
    frame = picture((GREEN, 10, 30), (SIXTY, 60, 30))
    # SIXTY is 0.8 of GREEN and 0.6 of RED: GREEN to GREEN and SIXTY to RED is the best assignment.
    result = faces([frame] * 3, [one(RED), one(GREEN)], people=(0, 1))
    assert result.values["clip_dist_face"] == pytest.approx((0.4 + 0) / 2, abs=1e-6)
    one_missing = faces([one(GREEN)] * 3, [one(RED), one(GREEN)], people=(0, 1))
    assert one_missing.values["clip_dist_face"] == pytest.approx(0, abs=1e-6), "only GREEN is there to be compared"


def test_rows_that_cannot_be_judged_say_why() -> None:
    assert full([one(RED)], []).status == "no reference face"
    assert faces([one(RED)], [one(None)]).status == "no reference face"
    empty = faces([one(None)], [one(RED)])
    assert empty.values == {"clip_dist_face": None} and empty.reason


def test_with_models(tmp_path: Path) -> None:
    """Through the real interfaces: a picture is at no distance from itself."""
    backends = Backends(faces=PACK, clip=str(write_clip(tmp_path)))
    photograph = draw_photograph(VALIDATION_PEOPLE.start + 7, size=96)
    metric = clip_dist(backends)
    same = metric.measure(sample([photograph] * 3, [photograph]))
    assert same.values["clip_dist"] == pytest.approx(0, abs=1e-6)
    same = clip_dist_face(backends).measure(sample([photograph] * 3, [photograph]))
    assert same.values["clip_dist_face"] == pytest.approx(0, abs=1e-6)
    assert metric.weights != clip_dist_face(backends).weights
    with pytest.raises(BackendAbsent, match="--clip"):
        clip_dist(Backends(faces=PACK))
    with pytest.raises(BackendAbsent, match="--faces"):
        clip_dist_face(Backends(clip=str(tmp_path)))
