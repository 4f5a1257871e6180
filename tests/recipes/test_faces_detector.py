"""The detector's anchors, targets and file are those of SCRFD."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likeness.recipes.faces.canvases import Canvases, make_canvases
from likeness.recipes.faces.data import SetSpec, drawn
from likeness.recipes.faces.detector import Anchors, DetectorRecipe, assign, export, loss_of
from likeness.recipes.faces.networks import STRIDES, FaceDetector


def one_face(box, side):
    boxes = torch.tensor([[box]])
    yes = torch.ones(1, 1, dtype=torch.bool)
    keypoints = (boxes[..., :2] + boxes[..., 2:]).div(2).unsqueeze(2).expand(1, 1, 5, 2)
    return Canvases(torch.zeros(1, 3, side, side), boxes, keypoints, yes, ~yes)


@settings(max_examples=60, deadline=None)
@given(st.floats(9, 600), st.floats(0.6, 1.4), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_every_face_has_an_anchor(size, aspect, x, y):
    side = 320
    box = [x * side - size / 2, y * side - size * aspect / 2, x * side + size / 2, y * side + size * aspect / 2]
    matched, unasked = assign(Anchors.of(side), one_face(box, side), DetectorRecipe())
    assert (matched == 0).any()
    assert not (unasked & (matched >= 0)).any()


def test_true_outputs_cost_next_to_nothing():
    side = 160
    canvases = one_face([40.0, 30.0, 100.0, 110.0], side)
    anchors = Anchors.of(side)
    matched, _ = assign(anchors, canvases, DetectorRecipe())
    box, points = canvases.boxes[0, 0], canvases.keypoints[0, 0]
    strides = anchors.strides[:, None]
    boxes = torch.cat([anchors.centres - box[:2], box[2:] - anchors.centres], 1) / strides
    keypoints = ((points[None] - anchors.centres[:, None]) / strides[:, :, None]).flatten(1)
    logits = torch.where(matched[0] >= 0, 20.0, -20.0)[:, None]
    ends = np.cumsum([2 * (side // stride) ** 2 for stride in STRIDES])[:-1].tolist()
    levels = tuple(zip(*(t[None].tensor_split(ends, 1) for t in (logits, boxes, keypoints)), strict=True))
    losses = loss_of(levels, canvases, DetectorRecipe())
    assert all(float(value) < 1e-4 for value in losses.values())


def test_insightface_reads_the_file_and_decodes_as_we_do(tmp_path):
    from insightface.model_zoo import get_model

    torch.manual_seed(0)
    detector = FaceDetector().eval()
    export(detector, tmp_path / "scrfd.onnx")
    model = get_model(str(tmp_path / "scrfd.onnx"), providers=["CPUExecutionProvider"])
    assert type(model).__name__ == "SCRFD" and model.use_kps and model.static_input_size is None
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    with torch.inference_mode():
        pixels = torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)[None].float()
        levels = detector((pixels - 127.5) / 128)
    anchors = Anchors.of(96)
    logits, boxes, keypoints = (torch.cat(parts, 1)[0] for parts in zip(*levels, strict=True))
    best = int(logits.argmax())
    stride, centre = anchors.strides[best], anchors.centres[best]
    low, high = centre - boxes[best, :2] * stride, centre + boxes[best, 2:] * stride
    found, points = model.detect(picture, input_size=(96, 96), det_thresh=float(logits[best].sigmoid()) - 1e-4)
    np.testing.assert_allclose(found[0, :4], torch.cat([low, high]), atol=1e-2)
    np.testing.assert_allclose(points[0], centre + keypoints[best].view(5, 2) * stride, atol=1e-2)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    spec = SetSpec(name="pairs", first=100_000, num_groups=2, group=2, num_frames=2)
    return drawn(tmp_path_factory.mktemp("cache"), spec, workers=1)


@pytest.mark.parametrize("side", [128, 320])
def test_canvases_keep_faces_where_their_boxes_are(scenes, side):
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        canvases = make_canvases(((scenes, 1.0),), side, generator)
        assert canvases.pixels.shape[1:] == (3, side, side)
        assert not (canvases.wanted & canvases.ignored).any()
        picture, face = torch.nonzero(canvases.wanted, as_tuple=True)
        if not len(face):
            continue
        box, points = canvases.boxes[picture, face], canvases.keypoints[picture, face]
        margin = 0.2 * (box[:, 2:] - box[:, :2])[:, None]
        assert (points > box[:, None, :2] - margin).all() and (points < box[:, None, 2:] + margin).all()
        assert (box[:, 2:] - box[:, :2]).min() >= 8
