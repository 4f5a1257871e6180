"""The renderer: deterministic, and its truth is the truth of the pixels."""

import numpy as np
import pytest

from likeness.world import clip_of, draw, photo_of, traits_of
from likeness.world.clip import CLOTHES, PLACES
from likeness.world.paint import CLOTH, HAIR, LEFT_EYE, NOSE, RIGHT_EYE, SKIN

CLIPS = [clip_of(person, 0) for person in range(6)]


@pytest.fixture(scope="module")
def film():
    return draw(CLIPS)


def test_shapes_and_types(film) -> None:
    assert film.pixels.shape == (6, 17, 64, 64, 3) and film.pixels.dtype == np.uint8
    assert film.labels.shape == film.owner.shape == (6, 17, 64, 64)
    assert film.boxes.shape == (6, 17, 1, 4) and film.keypoints.shape == (6, 17, 1, 5, 2)
    assert film.visible.all()


def test_a_clip_does_not_depend_on_its_neighbours(film) -> None:
    alone = draw([CLIPS[4]])
    assert np.array_equal(alone.pixels[0], film.pixels[4])
    assert np.array_equal(alone.keypoints[0], film.keypoints[4])


def test_keypoints_lie_on_what_they_name(film) -> None:
    on_eye, on_nose, total = 0, 0, 0
    for labels, points, motion in zip(film.labels, film.keypoints[:, :, 0], film.motion, strict=True):
        for frame in range(len(labels)):
            if abs(motion.yaw[frame, 0]) > 0.5 or motion.eye[frame, 0] < 0.5:
                continue
            near = [labels[frame][int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] for x, y in points[frame]]
            on_eye += int((near[0] == LEFT_EYE).any()) + int((near[1] == RIGHT_EYE).any())
            on_nose += int((near[2] == NOSE).any())
            total += 1
    assert total > 30
    assert on_eye / (2 * total) > 0.95 and on_nose / total > 0.95


def test_boxes_bound_the_face_and_hold_the_keypoints(film) -> None:
    boxes, points = film.boxes[:, :, 0], film.keypoints[:, :, 0]
    middle = points.mean(2)
    assert (boxes[..., 0] < middle[..., 0]).all() and (middle[..., 0] < boxes[..., 2]).all()
    assert (boxes[..., 1] < middle[..., 1]).all() and (middle[..., 1] < boxes[..., 3]).all()
    for labels, box in zip(film.labels.reshape(-1, 64, 64), boxes.reshape(-1, 4), strict=True):
        outside = np.ones((64, 64), bool)
        outside[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = False
        assert not (outside & (labels == SKIN)).any()


def test_owner_and_labels_agree_about_the_background(film) -> None:
    assert np.array_equal(film.owner == 0, film.labels == 0)
    assert (film.labels == HAIR).any() and (film.labels == CLOTH).any()


def test_skin_has_the_colour_of_the_person(film) -> None:
    skins = traits_of([clip.people[0] for clip in CLIPS]).skin
    shown = np.array([film.pixels[i][film.labels[i] == SKIN].mean(0) / 255 for i in range(len(CLIPS))])
    correlation = np.corrcoef(skins.mean(1), shown.mean(1))[0, 1]
    assert correlation > 0.9


def test_people_stand_in_the_order_given() -> None:
    film = draw([clip_of((1, 2, 3), 0)], num_frames=2)
    assert film.visible.all()
    centres = film.keypoints[0, :, :, :, 0].mean(-1)  # [F, P]
    assert (np.diff(centres, axis=1) > 8).all()
    assert set(np.unique(film.owner)) == {0, 1, 2, 3}


def test_a_photograph_is_one_frame_at_any_size() -> None:
    small, large = (draw([photo_of(7, 1)], height=size, width=size) for size in (64, 160))
    assert small.pixels.shape == (1, 1, 64, 64, 3) and large.pixels.shape == (1, 1, 160, 160, 3)
    assert np.allclose(large.keypoints / 160, small.keypoints / 64, atol=1e-4)


def test_a_wide_frame_keeps_the_person_in_the_middle() -> None:
    wide = draw([photo_of(7, 1)], height=64, width=128)
    assert abs(wide.keypoints[0, 0, 0, :, 0].mean() - 64) < 14


def test_kinds_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="one kind"):
        draw([clip_of(1, 0), clip_of((1, 2), 0)])
    with pytest.raises(ValueError, match="one kind"):
        draw([clip_of(1, 0), photo_of(1, 0)])


def test_places_look_different() -> None:
    means = {}
    for person in range(60):
        clip = clip_of(person, 0)
        if clip.place not in means:
            film = draw([clip], num_frames=1)
            means[clip.place] = film.pixels[0, 0][:12].reshape(-1, 3).mean(0)
    assert len(means) == len(PLACES)
    gaps = [np.linalg.norm(means[a] - means[b]) for a in means for b in means if a < b]
    assert min(gaps) > 8
    assert len(CLOTHES) == 8
