"""The curves of a run as one picture, for those who look before they read: `curves.png`, made again at every checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from likeness.media import write_picture
from likeness.train.log import LOG_FILE

CURVES_FILE = "curves.png"
_WIDTH, _HEIGHT, _COLUMNS = 420, 240, 3  # of a panel, px; panels side by side
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 34
_INK, _FAINT, _AXIS, _LINE = (30, 30, 30), (178, 200, 226), (190, 190, 190), (26, 80, 150)
_SMOOTHED = 0.05  # share of a curve that the dark line averages over


def draw_curves(runs: Sequence[Path], path: Path) -> None:
    """A panel for each figure of ``log.jsonl``: as logged, and averaged over a twentieth of the run.

    Args:
        runs: folders of runs, each begun from the one before; their curves follow each other, with a line between. One without a
            line in its log yet is left out.
        path: of the PNG.
    """
    logs = [(run.name, log) for run in runs if (log := _read(run))]
    names = sorted(
        {name for _, log in logs for row in log for name in row} - {"step"}, key=lambda name: (name != "loss", name)
    )
    if not names:
        return
    rows = -(-len(names) // _COLUMNS)
    image = Image.new("RGB", (_WIDTH * min(_COLUMNS, len(names)), _HEIGHT * rows), "white")
    drawing: Any = ImageDraw.Draw(image)
    for index, name in enumerate(names):
        _panel(drawing, _WIDTH * (index % _COLUMNS), _HEIGHT * (index // _COLUMNS), name, logs)
    write_picture(path, np.asarray(image))


def _read(run: Path) -> list[dict[str, float]]:
    file = run / LOG_FILE
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def _panel(drawing: Any, x: int, y: int, name: str, logs: Sequence[tuple[str, list[dict[str, float]]]]) -> None:
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    left, right, top, bottom = x + _LEFT, x + _WIDTH - _RIGHT, y + _TOP, y + _HEIGHT - _BOTTOM
    lengths = [log[-1]["step"] for _, log in logs]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    curves = [
        (start, np.array([(row["step"], row[name]) for row in log if name in row and np.isfinite(row[name])]))
        for start, (_, log) in zip(starts, logs, strict=False)
    ]
    curves = [(start, curve) for start, curve in curves if len(curve)]
    drawing.text((left, y + 14), name.replace("_", " "), fill=_INK, font=font, anchor="lm")
    drawing.line((left, top, left, bottom, right, bottom), fill=_AXIS)
    if not curves:
        return
    values = np.concatenate([curve[:, 1] for _, curve in curves])
    # A first step far off would press everything else flat.
    low, high = np.quantile(values, [0.0, 0.99])
    low, high = (low - 0.5, high + 0.5) if high <= low else (low, high)

    def points(start: float, steps: np.ndarray, heights: np.ndarray) -> list[tuple[float, float]]:
        across = left + (right - left) * (start + steps) / starts[-1]
        up = bottom - (bottom - top) * (np.clip(heights, low, high) - low) / (high - low)
        return list(zip(across.tolist(), up.tolist(), strict=True))

    for label, height in ((high, top), (low, bottom)):
        drawing.text((left - 6, height), f"{label:.3g}", fill=_INK, font=small, anchor="rm")
    for (run, _), start in zip(logs, starts, strict=False):
        ((across, _),) = points(start, np.zeros(1), np.zeros(1))
        if start:
            drawing.line((across, top, across, bottom), fill=_AXIS)
        drawing.text((across + 3, bottom + 6), run if len(logs) > 1 else "0", fill=_INK, font=small, anchor="lt")
    drawing.text((right, bottom + 20), f"{starts[-1]:.0f} steps", fill=_INK, font=small, anchor="rt")
    for start, curve in curves:
        steps, logged = curve.T
        for heights, colour, width in ((logged, _FAINT, 1), (_smoothed(logged), _LINE, 2)):
            if len(steps) > 1:
                drawing.line(points(start, steps, heights), fill=colour, width=width)
            else:
                ((across, up),) = points(start, steps, heights)
                drawing.ellipse((across - 2, up - 2, across + 2, up + 2), fill=colour)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Means over the values about each one, fewer at the ends; ``[N]``."""
    reach = int(len(values) * _SMOOTHED / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
