"""What a report shows of a video: its references, some of its frames with their similarity, and the curve over time.

Everything here is HTML that needs no other file: pictures are JPEGs in data addresses, curves are inline SVG.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image

from likeness.errors import UserError
from likeness.evaluate import frames
from likeness.evaluate.decode import UnreadableVideo, read_frames
from likeness.evaluate.record import Row
from likeness.evaluate.types import Item
from likeness.media import read_picture, sha256_file

NUM_FRAMES = 8  # of a strip
PICTURE_PX = 92  # height of a picture; a wide one is at most twice as wide
_QUALITY = 82  # of the JPEGs
# Curves of similarity by metric, what strips and plots are made of: the first of them that a video has.
CURVES = {"drift": "similarity", "facesim_arc_strict": "facesim_arc", "facesim_arc": "facesim_arc"}
PEOPLE = "people"  # the metric that has a curve for each of several people
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 260, 130, 34, 8, 8, 20  # px of a plot
_COLOURS = ("var(--mark)", "#c2410c", "#15803d", "#a21caf")  # of people


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Similarity over a video.

    Attributes:
        metric: whose curves they are.
        times_s: ``[K]``, rising.
        indices: ``[K]`` numbers of the frames.
        values: by name, ``[K]``; None where there is no face.
        duration_s: of the whole video.
    """

    metric: str
    times_s: Sequence[float]
    indices: Sequence[int]
    values: Mapping[str, Sequence[float | None]]
    duration_s: float


def curves_of(rows: Sequence[Row]) -> Curves | None:
    """The curves that tell most about a video, from all its rows; None where nothing was measured along it."""
    by_metric = {row.metric: row for row in rows if row.status == "ok" and row.fps > 0}
    several = by_metric.get(PEOPLE)
    if several is not None and len(several.curves) > 1:
        return _curves(several, several.curves)
    for metric, name in CURVES.items():
        row = by_metric.get(metric)
        if row is not None and row.curves.get(name):
            return _curves(row, {"similarity": row.curves[name]})
    return None


def _curves(row: Row, values: Mapping[str, Sequence[float | None]]) -> Curves:
    count = len(next(iter(values.values())))
    indices = frames.consisid(row.num_frames, count)  # every metric with a curve of faces spreads its frames so
    return Curves(
        metric=row.metric,
        times_s=[float(index / row.fps) for index in indices],
        indices=[int(index) for index in indices],
        values=values,
        duration_s=row.num_frames / row.fps,
    )


def references(item: Item) -> str:
    """The pictures of the people, one above the other; what cannot be read is said in words."""
    told = []
    for number, path in enumerate(item.references):
        name = "reference" if len(item.references) == 1 else f"reference {number + 1}"
        try:
            told.append(_figure(read_picture(path), name, f"<b>{name}</b>"))
        except UserError:
            told.append(f'<p class="bad small">{name}: {escape(path.name)} cannot be read</p>')
    return f'<div class="strip reference">{"".join(told)}</div>' if told else ""


def strip(item: Item, rows: Sequence[Row]) -> str:
    """Frames of a video from its first to its last, with the similarity of each where it was measured."""
    curves = curves_of(rows)
    measured = next((row for row in rows if row.video_sha256), None)
    try:
        if measured is not None and sha256_file(item.video) != measured.video_sha256:
            raise UnreadableVideo("it is not the video that was measured")
        at: dict[int, int] = {} if curves is None else {index: place for place, index in enumerate(curves.indices)}

        def wanted(num_frames: int, fps: float) -> np.ndarray:
            known = np.array(sorted(at) or range(num_frames))
            return known[np.linspace(0, len(known) - 1, min(NUM_FRAMES, len(known))).round().astype(int)]

        video = read_frames(item.video, wanted)
    except UnreadableVideo as error:
        return f'<p class="bad small">No pictures: {escape(str(error))}.</p>'
    except OSError as error:
        return f'<p class="bad small">No pictures: {escape(error.strerror or "the video cannot be read")}.</p>'
    cells = []
    for index, picture in zip(video.indices.tolist(), video.frames, strict=True):
        time = f"{index / video.fps:.2f} s"
        told = _told(curves, at[index]) if curves is not None else ""
        cells.append(_figure(picture, f"frame {index}", f"{time}{told}"))
    return f'<div class="strip">{"".join(cells)}</div>'


def _told(curves: Curves, place: int) -> str:
    """The similarity of one frame, in figures and as a bar."""
    lines = []
    for value in (values[place] for values in curves.values.values()):
        if value is None:
            lines.append('<br><b class="bad">no face</b>')
        else:
            width = round(100 * min(max(value, 0.0), 1.0))
            lines.append(f'<br><b>{round(value, 2) + 0.0:.2f}</b><div class="bar"><i style="width:{width}%"></i></div>')
    return "".join(lines)


def plot(curves: Curves) -> str:
    """Similarity over time as SVG; frames without a face are marks at the foot."""
    known = [value for values in curves.values.values() for value in values if value is not None]
    low = min([0.0, *known])
    span = 1.0 - low

    def x(time: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * time / max(curves.duration_s, 1e-9)

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1.0 - value) / span

    foot = _HEIGHT - _BOTTOM
    parts = [
        f'<line class="axis" x1="{_LEFT}" y1="{_TOP}" x2="{_LEFT}" y2="{foot}"/>',
        f'<line class="axis" x1="{_LEFT}" y1="{foot}" x2="{_WIDTH - _RIGHT}" y2="{foot}"/>',
        f'<line class="zero" x1="{_LEFT}" y1="{y(0):.1f}" x2="{_WIDTH - _RIGHT}" y2="{y(0):.1f}"/>',
    ]
    for value in (0.0, 0.5, 1.0):
        parts.append(f'<text x="{_LEFT - 5}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.1f}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 5}">0 s</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 5}" text-anchor="end">{curves.duration_s:.1f} s</text>')
    for number, (name, values) in enumerate(curves.values.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        for run in _runs(values):
            points = " ".join(f"{x(curves.times_s[place]):.1f},{y(values[place] or 0.0):.1f}" for place in run)
            parts.append(f'<polyline class="curve" style="stroke:{colour}" points="{points}"/>')
        for place, value in enumerate(values):
            time = curves.times_s[place]
            if value is None:
                at = x(time)
                parts.append(f'<line class="gap" x1="{at:.1f}" y1="{foot - 5}" x2="{at:.1f}" y2="{foot + 5}"/>')
            else:
                told = f"<title>{escape(name)} {value:.3f} at {time:.2f} s</title>"
                parts.append(
                    f'<circle cx="{x(time):.1f}" cy="{y(value):.1f}" r="2.2" style="fill:{colour}">{told}</circle>'
                )
        if len(curves.values) > 1:
            place = _LEFT + 8 + 70 * number
            parts.append(f'<text x="{place}" y="{_TOP + 6}" style="fill:{colour}">{escape(name)}</text>')
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg {size} role="img" aria-label="similarity over time">{"".join(parts)}</svg>'


def _runs(values: Sequence[float | None]) -> list[list[int]]:
    """Places with a number, cut where there is none between them."""
    runs: list[list[int]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(place)
    return [run for run in runs if run]


def _figure(picture: np.ndarray, name: str, caption: str) -> str:
    """A picture ``uint8 [H, W, 3]`` RGB with a caption that is HTML already."""
    image = Image.fromarray(picture)
    height, width = picture.shape[:2]
    factor = min(PICTURE_PX / height, 2 * PICTURE_PX / width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    stored = io.BytesIO()
    # Small videos are stored as they are and enlarged by the browser.
    (image.resize(size, Image.Resampling.LANCZOS) if factor < 1 else image).save(stored, "JPEG", quality=_QUALITY)
    data = base64.b64encode(stored.getvalue()).decode("ascii")
    shown = f'<img alt="{escape(name)}" width="{size[0]}" height="{size[1]}" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"
