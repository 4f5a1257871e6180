"""FaceSim under both protocols: known answers, and the published computation done again in a few lines."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from painted_faces import ANTI, GREEN, RED, SIXTY, analyser, one, picture, sample

from likeness.errors import CheckpointError
from likeness.evaluate.faces_of import FaceAnalyser, face_analyser
from likeness.evaluate.identity import CurricularFace, FaceSim, arcface, facesim_arc, facesim_arc_strict, facesim_cur
from likeness.evaluate.networks.iresnet import Curricular, IResNet
from likeness.evaluate.types import BackendAbsent, Backends, Sample
from likeness.faces.align import ARCFACE_TEMPLATE
from likeness.faces.pack import FacePack
from likeness.types import Face
from likeness.world import VALIDATION_PEOPLE, clip_of, draw
from likeness.world.folder import draw_photograph

PACK = Path(__file__).parents[2] / "likeness" / "world" / "weights" / "faces"


def scores(given: Sample) -> tuple[float | None, float | None, float | None]:
    """consisid, strict, coverage."""
    shared = analyser()
    results = [
        FaceSim("facesim_arc", "facesim_arc", rule, "painted", shared, arcface).measure(given)
        for rule in ("consisid", "strict")
    ]
    assert [result.status for result in results] == ["ok", "ok"]
    assert results[0].values["coverage"] == results[1].values["coverage"]
    return results[0].values["facesim_arc"], results[1].values["facesim_arc"], results[0].values["coverage"]


@pytest.mark.parametrize(
    ("colours", "expected"),
    [
        ([RED] * 16, (1.0, 1.0, 1.0)),  # the reference itself
        ([SIXTY] * 40, (0.6, 0.6, 1.0)),
        ([RED, None] * 8, (1.0, 0.5, 0.5)),  # the face gone from every other frame
        ([RED] + [None] * 15, (1.0, 1 / 16, 1 / 16)),  # the trap of the official protocol
        ([GREEN] * 16, (0.0, 0.0, 1.0)),  # somebody else
        ([RED] * 8 + [ANTI] * 8, (0.5, 0.0, 1.0)),  # clipped at 0, and not
        ([RED] * 12 + [SIXTY] * 4, ((12 + 2.4) / 16, (12 + 2.4) / 16, 1.0)),
        ([None] * 16, (0.0, 0.0, 0.0)),  # a grey video
        ([RED], (1.0, 1.0, 1.0)),  # one frame, named 16 times
        ([RED, GREEN], (15 / 16, 15 / 16, 1.0)),  # linspace rounded down: 15 times frame 0, once frame 1
    ],
)
def test_known_answers(colours: list, expected: tuple[float, float, float]) -> None:
    assert scores(sample([one(colour) for colour in colours], [one(RED)])) == pytest.approx(expected, abs=1e-6)


def test_the_largest_face_is_taken() -> None:
    frame = picture((RED, 5, 5), side=20)
    frame[40:80, 40:80] = GREEN
    assert scores(sample([frame] * 3, [one(RED)])) == pytest.approx((0, 0, 1), abs=1e-6)
    assert scores(sample([one(RED)] * 3, [frame])) == pytest.approx((0, 0, 1), abs=1e-6)


def test_a_face_that_fills_the_picture_is_found_at_the_second_look() -> None:
    filled = np.full((64, 64, 3), RED, np.uint8)
    assert scores(sample([filled] * 4, [one(RED)])) == pytest.approx((1, 1, 1), abs=1e-6)
    face = analyser().look(filled)[0].face
    assert face.box == (0, 0, 64, 64), "in px of the picture, not of the bordered one"


def test_keypoints_in_one_place_are_no_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a detector with random weights may give; alignment is impossible, and the next face counts."""
    shared = analyser()
    broken = Face((0, 0, 60, 60), np.full((5, 2), 7, np.float32), 0.9)
    fine = shared.pack.detect(one(RED), retry=False)[0]
    monkeypatch.setattr(type(shared.pack), "detect", lambda *_, **__: [broken, fine])
    assert [seen.face.box for seen in shared.look(one(RED))] == [fine.box]


def test_several_photographs_of_one_person() -> None:
    metric = FaceSim("facesim_arc", "facesim_arc", "consisid", "", analyser(), arcface)
    frames = [one(RED)] * 8 + [one(GREEN)] * 8
    result = metric.measure(sample(frames, [one(RED), one(SIXTY)]))
    # To RED: 1, 0. To SIXTY: 0.6, 0.8. The best in each frame: 1, 0.8.
    assert result.values["facesim_arc"] == pytest.approx((0.5 + 0.7) / 2, abs=1e-6)
    assert result.values["facesim_arc_best"] == pytest.approx(0.9, abs=1e-6)
    assert result.curves["facesim_arc"] == pytest.approx([0.8] * 8 + [0.4] * 8, abs=1e-6)
    partly = metric.measure(sample(frames, [one(RED), one(None)]))
    assert partly.values["facesim_arc"] == pytest.approx(0.5, abs=1e-6)
    assert "1 of 2 photographs left out" in partly.reason


def test_rows_that_cannot_be_judged_say_why() -> None:
    metric = FaceSim("facesim_arc", "facesim_arc", "consisid", "", analyser(), arcface)
    video = [one(RED)] * 4
    faceless = metric.measure(sample(video, [one(None)], name="faceless"))
    without = metric.measure(sample(video, [], name="without"))
    two = metric.measure(sample(video, [one(RED), one(GREEN)], people=(0, 1), name="two"))
    assert (faceless.status, without.status, two.status) == ("no reference face", "no reference face", "ok")
    assert "faceless_0.png" in faceless.reason and "no reference" in without.reason and "people" in two.reason
    assert two.values == {"facesim_arc": None}


def test_the_order_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    colours = [RED, GREEN, SIXTY, ANTI, None]
    given = [sample([one(colours[i]) for i in rng.integers(5, size=20)], [one(RED)], name=str(n)) for n in range(6)]
    metric = FaceSim("facesim_arc", "facesim_arc", "strict", "", analyser(), arcface)
    together = [metric.measure(one_sample).values for one_sample in given]
    fresh = FaceSim("facesim_arc", "facesim_arc", "strict", "", analyser(), arcface)
    assert [fresh.measure(one_sample).values for one_sample in reversed(given)] == together[::-1]


def test_a_frame_is_looked_at_once_for_all_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, looked = analyser(), []
    look = shared.look
    monkeypatch.setattr(shared, "look", lambda picture: looked.append(1) or look(picture))
    given = sample([one(RED)] * 20, [one(RED)])
    for rule in ("consisid", "strict"):
        FaceSim("facesim_arc", "facesim_arc", rule, "", shared, arcface).measure(given)
    assert len(looked) == 16 + 1


@pytest.fixture(scope="module")
def drawn() -> Sample:
    """Twelve frames of a drawn person; one shows nobody, and in one a face fills the frame."""
    person = VALIDATION_PEOPLE.start + 123
    video = draw([clip_of(person, 0)], height=96, width=96, num_frames=12).pixels[0].copy()
    video[3] = 128
    tight = video[7, 24:72, 24:72]
    video[7] = tight.repeat(2, 0).repeat(2, 1)
    return sample(list(video), [draw_photograph(person)])


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The textbook's form, by singular values; the package uses complex numbers."""
    s, t = source - source.mean(0), target - target.mean(0)
    u, d, v = np.linalg.svd(t.T @ s / len(s))
    sign = np.array([1, np.sign(np.linalg.det(u @ v))])
    linear = (u * sign) @ v * (d @ sign) / s.var(0).sum()
    return np.column_stack([linear, target.mean(0) - linear @ source.mean(0)])


@pytest.mark.parametrize(("whole", "tolerance"), [(False, 1e-6), (True, 1e-5)], ids=["own fit", "insightface's fit"])
def test_it_equals_the_published_computation(drawn: Sample, whole: bool, tolerance: float) -> None:
    """insightface's FaceAnalysis and ConsisID's steps around it. Its fit of the keypoints is in single precision, which
    shifts a crop by some 1e-5 px; with a fit in double precision the rest must agree to 1e-6."""
    analysis = pytest.importorskip("insightface.app").FaceAnalysis(
        name=str(PACK), allowed_modules=["detection", "recognition"], providers=["CPUExecutionProvider"]
    )
    analysis.prepare(ctx_id=-1, det_thresh=0.5, det_size=(320, 320))

    def embedding(rgb: np.ndarray) -> np.ndarray | None:
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        found = analysis.get(bgr)
        if not found:
            bgr = np.pad(bgr, ((len(bgr) // 4,) * 2, (bgr.shape[1] // 4,) * 2, (0, 0)), constant_values=128)
            found = analysis.get(bgr)
        if not found:
            return None
        areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (face["bbox"] for face in found)]
        face = found[int(np.argmax(areas))]
        if whole:
            return face["embedding"]
        crop = cv2.warpAffine(bgr, umeyama(face["kps"].astype(np.float64), ARCFACE_TEMPLATE), (112, 112))
        return analysis.models["recognition"].get_feat(crop)[0]

    target = embedding(drawn.references[0])
    assert target is not None
    cosines = []
    for index in np.linspace(0, drawn.num_frames - 1, 16, dtype=int):
        found = embedding(drawn.frames[index])
        cosines.append(None if found is None else found @ target / np.linalg.norm(found) / np.linalg.norm(target))
    seen = [cosine for cosine in cosines if cosine is not None]
    assert 12 <= len(seen) < 16, "the video must try the frames without a face too"

    backends = Backends(faces=PACK)
    official, strict = facesim_arc(backends).measure(drawn), facesim_arc_strict(backends).measure(drawn)
    clipped = np.mean([max(0.0, cosine) for cosine in seen])
    assert official.values["facesim_arc"] == pytest.approx(clipped, abs=tolerance)
    assert strict.values["facesim_arc"] == pytest.approx(np.sum(seen) / 16, abs=tolerance)
    assert strict.values["coverage"] == len(seen) / 16
    assert [value is None for value in official.curves["facesim_arc"]] == [value is None for value in cosines]


def test_the_second_recogniser(drawn: Sample) -> None:
    """FaceSim-Cur with a small network of IR-101's kind: cut at 224 px, halved, embedded, each face once."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = IResNet(units=(1, 1, 1, 1), widths=(4, 4, 4, 4), embedding=8).eval()
    shared = FaceAnalyser.load(PACK)
    embed, seen = CurricularFace(Curricular(network, "hash", official=False)), []
    metrics = [
        FaceSim("facesim_cur", "facesim_cur", rule, "hash", shared, lambda face: seen.append(face) or embed(face))
        for rule in ("consisid", "strict")
    ]
    official, strict = (metric.measure(drawn) for metric in metrics)
    assert len(set(map(id, seen))) == 12 and len(seen) > 24, "both protocols look at the same faces"

    def embedding(picture: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
        crop = cv2.warpAffine(picture, umeyama(keypoints.astype(np.float64), 2 * ARCFACE_TEMPLATE), (224, 224))
        pixels = torch.from_numpy(cv2.resize(crop, (112, 112))).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            vector = network((pixels / 255 - 0.5) / 0.5)[0].numpy()
        return vector / np.linalg.norm(vector)

    target = embedding(drawn.references[0], shared.look(drawn.references[0])[0].face.keypoints)
    cosines = []
    for index in np.linspace(0, drawn.num_frames - 1, 16, dtype=int):
        if faces := shared.look(drawn.frames[index]):
            cosines.append(float(embedding(drawn.frames[index], faces[0].face.keypoints) @ target))
    assert official.values["facesim_cur"] == pytest.approx(np.mean(np.maximum(cosines, 0)), abs=1e-6)
    assert strict.values["facesim_cur"] == pytest.approx(np.sum(cosines) / 16, abs=1e-6)


def test_backends_are_asked_for_by_name(tmp_path: Path) -> None:
    with pytest.raises(BackendAbsent, match="--faces"):
        facesim_arc(Backends())
    with pytest.raises(BackendAbsent, match="--curricular"):
        facesim_cur(Backends(faces=PACK))
    assert face_analyser(Backends(faces=PACK)) is face_analyser(Backends(faces=PACK))
    assert len(face_analyser(Backends(faces=PACK)).weights) == 16


def test_published_names_are_for_published_networks() -> None:
    """The drawn people's recogniser is not buffalo_l, and what it gives is not ConsisID's number."""
    backends, shared = Backends(faces=PACK), analyser()
    assert facesim_arc(backends).protocol == "consisid-unverified" and facesim_arc_strict(backends).protocol == "strict"
    assert FaceSim("facesim_arc", "facesim_arc", "consisid", "", shared, arcface, True).protocol == "consisid"


def test_a_pack_without_a_recogniser_is_refused() -> None:
    pack = FacePack.load(PACK)
    with pytest.raises(CheckpointError, match="no recogniser"):
        FaceAnalyser(FacePack(pack.detector, None, 160, 0.5, PACK), "")
