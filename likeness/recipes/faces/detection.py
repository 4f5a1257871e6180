"""How well a detector finds drawn faces, measured through InsightFace itself on validation people."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from insightface.model_zoo import SCRFD, get_model  # pyright: ignore[reportAttributeAccessIssue]

from likeness.recipes.faces.data import DrawnSet, validation_clips, validation_groups, validation_photos
from likeness.recipes.faces.verification import mean_interval
from likeness.world import VALIDATION_PEOPLE, clip_of
from likeness.world.places import background

_OTHER_SIZES = (128, 320, 640)
_PICTURES_A_SET = 300


def _load(path: Path, **options) -> SCRFD:
    model = get_model(str(path), providers=["CPUExecutionProvider"], **options)
    assert isinstance(model, SCRFD), "insightface did not take the file for an SCRFD detector"
    return model


@dataclass
class _Tally:
    """Outcomes, kept per picture, so that an interval can be taken over pictures of different people."""

    found: list[float] = field(default_factory=list)  # share of the faces found, at an overlap of a half
    extra: list[float] = field(default_factory=list)  # detections that match no face
    astray_px: list[float] = field(default_factory=list)  # mean distance of a keypoint, px of a picture 64 px wide


def _iou(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    common = np.clip(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None).prod(1)
    return common / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - common)


def _tally(model: SCRFD, drawn_set: DrawnSet, det_size: int, threshold: float) -> _Tally:
    tally = _Tally()
    scale = 64 / drawn_set.pixels.shape[2]
    for i in range(min(len(drawn_set), _PICTURES_A_SET)):
        frame = i % drawn_set.pixels.shape[1]
        picture = np.ascontiguousarray(drawn_set.pixels[i, frame, ..., ::-1])
        boxes, points = model.detect(picture, input_size=(det_size, det_size), det_thresh=threshold)
        matched = set()
        hits = []
        shown = drawn_set.visible[i, frame]
        for box, keypoints in zip(drawn_set.boxes[i, frame][shown], drawn_set.keypoints[i, frame][shown], strict=True):
            overlap = _iou(boxes[:, :4], box) if len(boxes) else np.zeros(1)
            best = int(overlap.argmax())
            hits.append(float(overlap[best] >= 0.5))
            if hits[-1]:
                matched.add(best)
                astray = np.linalg.norm(np.asarray(points)[best] - keypoints, axis=1)
                tally.astray_px.append(float(astray.mean() * scale))
        tally.found.append(float(np.mean(hits)) if hits else 1.0)
        tally.extra.append(float(len(boxes) - len(matched)))
    return tally


def _false_alarms(model: SCRFD, det_size: int, threshold: float) -> float:
    """Detections a picture on empty backgrounds."""
    count = 200
    total = 0
    for person in range(VALIDATION_PEOPLE.start, VALIDATION_PEOPLE.start + count):
        clip = clip_of(person, 0)
        picture = np.rint(background(clip.place, clip.noise[0], 64, 64) * 255).clip(0, 255).astype(np.uint8)
        boxes, _ = model.detect(
            np.ascontiguousarray(picture[..., ::-1]), input_size=(det_size, det_size), det_thresh=threshold
        )
        total += len(boxes)
    return total / count


def _milliseconds(path: Path, det_size: int) -> float:
    """Time to find the faces of one 64 px frame on one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = _load(path, sess_options=options)
    frame = np.zeros((64, 64, 3), np.uint8)
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        model.detect(frame, input_size=(det_size, det_size))
        times.append(time.perf_counter() - begun)
    return float(np.median(times) * 1e3)


def evaluate(path: Path, cache: Path, det_size: int, threshold: float) -> dict[str, object]:
    """The figures of a detector file at its own size, and shortly at others."""
    model = _load(path)
    pairs, triples = validation_groups(cache)
    sets = {
        "frames of one person": validation_clips(cache),
        "frames of two people": pairs,
        "frames of three people": triples,
        "photographs of 256 px": validation_photos(cache, num_people=300, size=256),
    }
    figures: dict[str, object] = {}
    for size in (det_size, *(other for other in _OTHER_SIZES if other != det_size)):
        for name, drawn_set in sets.items():
            tally = _tally(model, drawn_set, size, threshold)
            told = f"{mean_interval(np.array(tally.found))} found, {np.mean(tally.extra):.3f} false a picture"
            figures[f"{name} at {size}"] = f"{told}, keypoints astray {np.mean(tally.astray_px):.2f} px of 64"
        figures[f"false alarms on an empty background at {size}"] = (
            f"{_false_alarms(model, size, threshold):.3f} a picture"
        )
        figures[f"time a frame at {size}, one core"] = f"{_milliseconds(path, size):.1f} ms"
    return figures
