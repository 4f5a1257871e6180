"""What the ablations measure on people not seen in training, and the plot of it.

| column | what it is | better |
|---|---|---|
| FaceSim | cosine between the photograph and each frame, by the recogniser that the identity losses use; no face counts 0 | higher |
| FaceSim, 2nd | the same by a recogniser that no training saw | higher |
| rank-1 | share of videos whose person is told from all others | higher |
| editability | share of videos with the head's turn and the expression as prompted | higher |
| pose copied | correlation of the head's yaw in the photograph with that in a video prompted to look straight ahead | nearer 0 |
| place | share of videos in the place prompted | higher |
| consistency | cosine between neighbouring frames' faces | higher |
| motion | mean change between neighbouring frames, of 255 | as real clips |
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from likeness.faces import FaceTools, load_faces
from likeness.faces.pack import FacePack
from likeness.media import write_picture
from likeness.method import Method
from likeness.pipeline import LikenessPipeline
from likeness.recipes.measure import interval, prompts_of, subjects_of
from likeness.world import PLACES, TURNS, VALIDATION_PEOPLE, prompt_for
from likeness.world.folder import draw_photograph
from likeness.world.probe import load_probe

if TYPE_CHECKING:
    from likeness.recipes.ablation import Row

_FIRST = VALIDATION_PEOPLE.start + 50_000  # people of the ablations; those of the model card come later
_PROBE = Path(__file__).parents[1] / "world" / "weights" / "probe"
_BATCH = 8


class Measurement:
    """The same people, prompts and noise for every row.

    Args:
        people: to measure on, a prompt each and one more that looks straight ahead.
        second_recogniser: folder or ONNX file of another recogniser; None leaves that column out.
    """

    def __init__(self, people: int, second_recogniser: Path | None) -> None:
        self.faces, self.probe = load_faces(None), load_probe(_PROBE)
        self.second = None if second_recogniser is None else FacePack.load(second_recogniser)
        numbers = list(range(_FIRST, _FIRST + people))
        self.subjects = subjects_of(numbers, self.faces, 64, 64)
        self.asked = [prompts_of(person, 1)[0] for person in numbers]
        straight = TURNS.index("straight") if "straight" in TURNS else 0
        self.straight = [
            prompt_for(turn=TURNS[straight], expression="neutral", place=number % len(PLACES), shirt="red")
            for number in numbers
        ]
        photographs = np.stack([draw_photograph(person, size=64) for person in numbers])
        self.photograph_yaw = self.probe.read(np.repeat(photographs[:, None], 6, 1))["pose"][:, :, 0].mean(1)

    def of(self, model: str | Path, method: Method | None, *, with_reference: bool) -> dict[str, list[float]]:
        """Means with 95 % intervals over people: ``{name: [mean, low, high]}``.

        Args:
            model: its name or folder.
            method: it is sampled with; None for its own.
            with_reference: whether it is given the photographs.
        """
        pipeline = LikenessPipeline.from_pretrained(model, method=method)
        pipeline.set_progress_bar_config(disable=True)
        videos = self._videos(pipeline, [text for text, _ in self.asked], with_reference)
        straight = self._videos(pipeline, self.straight, with_reference)
        figures = dict(self._identity("FaceSim", videos, self.faces.pack))
        if self.second is not None:
            figures |= {k: v for k, v in self._identity("FaceSim, 2nd", videos, self.second).items() if k != "rank-1"}
        read = self.probe.read(videos)
        right = {
            name: (read[name] == np.array([wanted[name] for _, wanted in self.asked])).astype(float)
            for name in ("turn", "expression", "place")
        }
        figures["editability"] = interval((right["turn"] + right["expression"]) / 2)
        figures["pose copied"] = correlation(self.photograph_yaw, self.probe.read(straight)["pose"][:, :, 0].mean(1))
        figures["place"] = interval(right["place"])
        figures["motion"] = interval(np.abs(np.diff(videos.astype(np.float32), axis=1)).mean((1, 2, 3, 4)))
        return figures

    def _videos(self, pipeline: LikenessPipeline, prompts: list[str], with_reference: bool) -> np.ndarray:
        """uint8 [V, F, H, W, 3]"""
        videos: list[np.ndarray] = []
        for start in range(0, len(prompts), _BATCH):
            texts = prompts[start : start + _BATCH]
            canvases = [[subject.canvas] for subject in self.subjects[start : start + _BATCH]]
            output = pipeline(
                texts,
                canvases if with_reference else (),
                generator=[torch.Generator().manual_seed(start + index) for index in range(len(texts))],
            )
            videos += [np.rint(frames * 255).astype(np.uint8) for frames in output.frames]
        return np.stack(videos)

    def _identity(self, name: str, videos: np.ndarray, pack: FacePack) -> dict[str, list[float]]:
        gallery = np.stack([_photograph_embedding(subject.person, self.faces, pack) for subject in self.subjects])
        own, first, steady = [], [], []
        for index, video in enumerate(videos):
            found = [self.faces.pack.detect(frame) for frame in video]
            embeddings = [
                pack.embed(frame, faces[0]) if faces else None for frame, faces in zip(video, found, strict=True)
            ]
            seen = [value for value in embeddings if value is not None]
            own.append(sum(float(value @ gallery[index]) for value in seen) / len(video))
            first.append(float(bool(seen) and int((np.mean(seen, 0) @ gallery.T).argmax()) == index))
            pairs = [float(a @ b) for a, b in itertools.pairwise(embeddings) if a is not None and b is not None]
            steady.append(float(np.mean(pairs)) if pairs else 0.0)
        figures = {name: interval(np.array(own)), "rank-1": interval(np.array(first))}
        return {**figures, "consistency": interval(np.array(steady))} if name == "FaceSim" else figures


def _photograph_embedding(person: int, faces: FaceTools, pack: FacePack) -> np.ndarray:
    picture = draw_photograph(person)
    embedding = pack.embed(picture, faces.pack.detect(picture)[0])
    assert embedding is not None
    return embedding


def correlation(x: np.ndarray, y: np.ndarray, seed: int = 0) -> list[float]:
    """Pearson's r of two series [N] with its 95 % bootstrap interval."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(x), size=(2000, len(x)))

    def r(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
        return (a * b).sum(-1) / np.maximum(np.sqrt((a * a).sum(-1) * (b * b).sum(-1)), 1e-12)

    return [round(float(v), 4) for v in (r(x, y), *np.percentile(r(x[picks], y[picks]), [2.5, 97.5]))]


_ROW_PX, _LABEL_PX, _PLOT_PX, _HEAD_PX = 34, 270, 240, 64


def plot(rows: Sequence[Row], figures: dict[str, dict[str, list[float]]], path: Path) -> None:
    """A point and its interval for each row, a panel a column."""
    names = [name for name in figures[rows[-1].run] if name != "motion"]
    width, height = _LABEL_PX + _PLOT_PX * len(names), _HEAD_PX + _ROW_PX * len(rows)
    image = Image.new("RGB", (width, height), "white")
    drawing: Any = ImageDraw.Draw(image)
    font = ImageFont.load_default(16)
    for row_index, row in enumerate(rows):
        y = _HEAD_PX + _ROW_PX * row_index + _ROW_PX // 2
        if row_index and rows[row_index - 1].table != row.table:
            drawing.line((0, y - _ROW_PX // 2, width, y - _ROW_PX // 2), fill=(150, 150, 150), width=1)
        drawing.text((12, y), row.label, fill="black", font=font, anchor="lm")
    for column, name in enumerate(names):
        left, right = _LABEL_PX + _PLOT_PX * column + 24, _LABEL_PX + _PLOT_PX * (column + 1) - 24
        values = [figures[row.run].get(name) for row in rows]
        low = min(0.0, *(value[1] for value in values if value))
        high = max(value[2] for value in values if value) or 1.0

        def at(value: float, left: int = left, right: int = right, low: float = low, high: float = high) -> float:
            return left + (right - left) * (value - low) / (high - low)

        drawing.text(((left + right) / 2, 20), name, fill="black", font=font, anchor="mm")
        drawing.text((left, 44), f"{low:.2g}", fill=(110, 110, 110), font=font, anchor="lm")
        drawing.text((right, 44), f"{high:.2g}", fill=(110, 110, 110), font=font, anchor="rm")
        drawing.line((at(0), _HEAD_PX - 6, at(0), height - 8), fill=(200, 200, 200), width=1)
        for row_index, value in enumerate(values):
            if value is None:
                continue
            y = _HEAD_PX + _ROW_PX * row_index + _ROW_PX // 2
            drawing.line((at(value[1]), y, at(value[2]), y), fill=(40, 90, 160), width=3)
            x = at(value[0])
            drawing.ellipse((x - 5, y - 5, x + 5, y + 5), fill=(20, 50, 110))
    write_picture(path, np.asarray(image))
