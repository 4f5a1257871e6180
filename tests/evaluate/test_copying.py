"""Copy-paste: what each component answers to, by hand and on drawn people whose truth is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from painted_faces import RED, analyser, one, picture, sample

from likeness.evaluate.copying import COMPONENTS, Copying, Look, angles_deg, copied, copying, distances, head_rotation
from likeness.evaluate.faces_of import SeenFace
from likeness.evaluate.types import Backends
from likeness.faces.align import ARCFACE_TEMPLATE
from likeness.recipes.copying import ATTRIBUTES, FIRST, SUBSETS, mixture
from likeness.types import Face
from likeness.world import draw, photo_of
from likeness.world.folder import draw_photograph

PACK = Path(__file__).parents[2] / "likeness" / "world" / "weights" / "faces"


def seen(shown: np.ndarray) -> SeenFace:
    """A face that fills the middle of a picture of 160 px."""
    points = (ARCFACE_TEMPLATE / 112 * 64 + 48).astype(np.float32)
    return SeenFace(Face((48, 48, 112, 112), points, 0.9), shown, shown, analyser().pack)


def portrait(seed: int = 0) -> np.ndarray:
    """Something with structure everywhere, 80 to 170."""
    coarse = np.random.default_rng(seed).uniform(80, 170, (40, 40, 3)).astype(np.float32)
    return cv2.resize(coarse, (160, 160), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return distances(Look.of(seen(a)), Look.of(seen(b)))


def test_a_copy_is_at_no_distance() -> None:
    same = between(portrait(), portrait())
    assert same == pytest.approx([0, 0, 0, 0], abs=1e-3)
    assert copied(same) == pytest.approx([1, 1, 1, 1], abs=1e-3)


def test_the_tolerances() -> None:
    assert copied(np.array([10.0, 0.2, 0.15, 15.0])) == pytest.approx(np.full(4, np.exp(-0.5)))
    assert np.isnan(copied(np.array([0, 0, 0, np.nan]))[3])


def test_light_alone() -> None:
    """A brighter picture, and one lit from the side: the mouth's structure stays."""
    base = portrait().astype(np.float64)
    brighter = between(portrait(), np.rint(base * 1.3).clip(0, 255).astype(np.uint8))
    assert brighter[2] == pytest.approx(np.log(1.3), abs=0.02)
    ramp = np.exp(0.4 * np.linspace(-1, 1, 160))[None, :, None]
    aside = between(portrait(), np.rint(base * ramp).clip(0, 255).astype(np.uint8))
    # The face's cut spans 60 of 112 px of the template, 64 of 160 px of the picture: the ramp's slope over it.
    assert aside[2] == pytest.approx(0.4 * (60 / 112) * (64 / 160) * 7 / 8, abs=0.03)
    assert max(brighter[1], aside[1]) < 0.05 and brighter[0] == aside[0] == 0
    warm = between(portrait(), np.rint(base * [1.1, 1.0, 0.9]).clip(0, 255).astype(np.uint8))
    assert warm[2] == pytest.approx(np.log(1.1 / 0.9), abs=0.03)


def test_background_alone() -> None:
    changed = portrait()
    outside = np.ones((160, 160), bool)
    outside[20:, 36:124] = False  # head and shoulders stay
    changed[outside] = portrait(1)[outside] // 2
    answer = between(portrait(), changed)
    assert answer[3] > 15 and answer[:3] == pytest.approx([0, 0, 0], abs=1e-3)


def test_the_mouth_alone() -> None:
    changed = portrait()
    changed[90:112, 64:96] = portrait(1)[90:112, 64:96]
    answer = between(portrait(), changed)
    assert answer[1] > 0.2 and answer[0] == 0 and answer[3] == pytest.approx(0, abs=1e-3)


def test_a_background_that_is_not_seen_has_no_number() -> None:
    tight = portrait()[48:112, 48:112]
    points = (ARCFACE_TEMPLATE / 112 * 64).astype(np.float32)
    face = SeenFace(Face((0, 0, 64, 64), points, 0.9), tight, tight, analyser().pack)
    answer = distances(Look.of(face), Look.of(seen(portrait())))
    assert np.isnan(answer[3]) and answer[:3] == pytest.approx([0, 0, 0], abs=0.02)


def test_head_rotation() -> None:
    assert head_rotation(ARCFACE_TEMPLATE) == pytest.approx(np.eye(3), abs=0.03)
    rotation = head_rotation(ARCFACE_TEMPLATE * 3 + 40)
    assert rotation == pytest.approx(head_rotation(ARCFACE_TEMPLATE), abs=1e-9), "size and place are nothing"
    turned = ARCFACE_TEMPLATE.copy()
    turned[2, 0] += 8  # the nose to the right of the picture
    assert angles_deg(head_rotation(turned))[0] > 15
    raised = ARCFACE_TEMPLATE.copy()
    raised[2, 1] -= 5
    assert angles_deg(head_rotation(raised))[1] > angles_deg(head_rotation(ARCFACE_TEMPLATE))[1] + 5
    angle = np.radians(20)
    spun = (ARCFACE_TEMPLATE - 56) @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert angles_deg(head_rotation(spun))[2] == pytest.approx(20, abs=1), "counter-clockwise as seen"
    assert np.isfinite(head_rotation(np.zeros((5, 2)))).all()


def test_the_pose_follows_drawn_heads() -> None:
    clips = [photo_of(FIRST + index, 0) for index in range(16)]
    drawing = draw(clips, height=32, width=32)
    found = np.array([angles_deg(head_rotation(points)) for points in drawing.keypoints[:, 0, 0]])
    truth = np.degrees([[m.yaw[0, 0], m.pitch[0, 0], m.roll[0, 0]] for m in drawing.motion])
    assert np.corrcoef(found[:, 0], truth[:, 0])[0, 1] > 0.95
    assert np.corrcoef(found[:, 2], truth[:, 2])[0, 1] > 0.9


def test_rows_that_cannot_be_judged_say_why() -> None:
    metric = Copying("", analyser())
    assert metric.measure(sample([one(RED)], [one(None)])).status == "no reference face"
    nobody = metric.measure(sample([one(None)] * 3, [one(RED)]))
    assert set(nobody.values.values()) == {None} and nobody.reason


def test_the_photograph_that_is_copied_most_counts() -> None:
    metric = Copying("", analyser())
    video, elsewhere = [one(RED)] * 4, picture((RED, 8, 60))
    elsewhere[elsewhere == 128] = 20  # the same face before another background
    elsewhere[:2], elsewhere[-2:], elsewhere[:, :2], elsewhere[:, -2:] = 128, 128, 128, 128
    alone = metric.measure(sample(video, [one(RED)])).values
    both = metric.measure(sample(video, [one(RED), picture((RED, 50, 8))], people=(0, 0))).values
    assert both["copy_paste"] == pytest.approx(alone["copy_paste"])


@pytest.fixture(scope="module")
def measured() -> dict[int, np.ndarray]:
    """Two drawn people, the 16 mixtures of each: copy_paste and the components, ``[16, 5]``."""
    metric = copying(Backends(faces=PACK))
    table = {}
    for person in (FIRST + 1, FIRST + 6):
        videos = draw([mixture(person, chosen) for chosen in SUBSETS]).pixels
        results = [metric.measure(sample(list(video), [draw_photograph(person)])) for video in videos]
        table[person] = np.array(
            [[result.values[name] for name in ("copy_paste", *COMPONENTS)] for result in results], float
        )
    return table


@pytest.mark.slow
def test_a_copied_frame_scores_worst_and_a_reposed_one_best(measured: dict[int, np.ndarray]) -> None:
    """What must hold in the mean over people (docs/metrics.md) is seen in two of them."""
    table = np.stack(list(measured.values()))  # [2, 16, 5]
    counts = np.array([len(chosen) for chosen in SUBSETS])
    assert (table[:, 15, 0] == table[:, :, 0].max(axis=1)).all()
    assert (table[:, 0, 0] < table[:, 15, 0] - 0.4).all()
    by_count = [table[:, counts == k, 0].mean() for k in range(5)]
    assert by_count == sorted(by_count)
    for index, name in enumerate(ATTRIBUTES):
        has = np.array([name in chosen for chosen in SUBSETS])
        own = np.nanmean(table[:, has, 1 + index]) - np.nanmean(table[:, ~has, 1 + index])
        assert own > 0.1, name


def test_a_video_that_begins_as_a_copy() -> None:
    """The worst frame is told apart from the mean."""
    metric, person = copying(Backends(faces=PACK)), FIRST + 1
    copy, free = draw([mixture(person, SUBSETS[15]), mixture(person, SUBSETS[0])]).pixels[:, 0]
    photograph = draw_photograph(person, size=96)
    shown = [[copy] * 16, [free] * 16, [copy] * 4 + [free] * 12]
    whole, none, result = (metric.measure(sample(video, [photograph])) for video in shown)
    copied_whole, worst = whole.values["copy_paste"], result.values["copy_worst"]
    assert worst == pytest.approx(copied_whole, abs=1e-6) and copied_whole > none.values["copy_paste"] + 0.4
    assert result.values["copy_paste"] == pytest.approx(
        (4 * copied_whole + 12 * none.values["copy_paste"]) / 16, abs=0.02
    )
    assert result.curves["copy_paste"][0] == pytest.approx(worst) and len(result.curves["copy_paste"]) == 16
