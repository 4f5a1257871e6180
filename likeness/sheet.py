"""Contact sheets: the reference beside the frames of its video, to be judged at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from likeness.errors import UserError
from likeness.faces import Reference
from likeness.types import Video

PAPER, INK = (250, 250, 250), (30, 30, 30)
FONT_PX, LINE_PX, GAP_PX = 18, 23, 12
MIN_CELL_PX, MAX_CELL_PX = 240, 360  # longer side of a picture on a sheet
MAX_TITLE_LINES = 4


def contact_sheet(
    video: Video,
    references: Sequence[Reference | np.ndarray],
    similarity: Sequence[Sequence[float | None]] | None = None,
    *,
    title: str = "",
    num_frames: int = 8,
    columns: int = 4,
) -> np.ndarray:
    """The references at the left, evenly chosen frames at the right, and the face similarity under each frame.

    Small videos are enlarged by a whole factor without smoothing, so that every pixel shows; large ones are reduced.

    Args:
        references: pictures ``uint8 [H, W, 3]`` or references, whose canvases are shown; may be empty.
        similarity: ``[M][F]``, for each reference the similarity of each frame of the video, None for a frame
            without a face.
        title: a line or more at the top, such as the prompt; broken into at most four lines.
        num_frames: how many frames to show, fewer where the video has fewer.
        columns: frames in a row.

    Returns:
        ``uint8 [height, width, 3]`` RGB.

    Raises:
        ValueError: ``similarity`` has another shape.
    """
    measured = [list(row) for row in similarity or ()]
    if measured and [len(row) for row in measured] != [video.num_frames] * len(references):
        raise ValueError(f"similarity must be [{len(references)}][{video.num_frames}] for these references and frames.")
    for reference, row in zip(references, measured, strict=False):
        if isinstance(reference, Reference) and reference.embedding is None:
            row.clear()  # nothing was compared: not the same as a frame without a face

    parts = []
    if references:
        canvases = [item.canvas if isinstance(item, Reference) else item for item in references]
        labels = [_reference_label(index, len(canvases), measured) for index in range(len(canvases))]
        parts.append(grid(canvases, 1, labels))
    indices = np.unique(np.linspace(0, video.num_frames - 1, num_frames).round().astype(int))
    labels = [_frame_label(index, video.fps, measured) for index in indices]
    parts.append(grid(video.frames[indices], min(columns, len(indices)), labels))
    height = max(part.shape[0] for part in parts)
    below = [np.pad(part, ((0, height - part.shape[0]), (0, 0), (0, 0)), constant_values=PAPER[0]) for part in parts]
    sheet = np.concatenate(below, axis=1)
    return np.concatenate([_title(title, sheet.shape[1]), sheet]) if title else sheet


def grid(pictures: Sequence[np.ndarray] | np.ndarray, columns: int, labels: Sequence[str] | None = None) -> np.ndarray:
    """Pictures in rows from the left, each above its label, on light paper.

    Args:
        pictures: ``uint8 [H, W, 3]`` each, of any sizes; small ones are enlarged, large ones reduced.
        columns: pictures in a row.
        labels: a text for each picture, with line breaks; longer lines are cut.

    Returns:
        ``uint8 [height, width, 3]`` RGB.

    Raises:
        UserError: no picture, no column, or another number of labels.
    """
    if len(pictures) == 0 or columns < 1:
        raise UserError(
            f"A sheet of {len(pictures)} pictures in {columns} columns was asked for; both must be at least 1."
        )
    if labels is not None and len(labels) != len(pictures):
        raise UserError(f"{len(labels)} labels were given for {len(pictures)} pictures; give one for each.")
    cells = [_scaled(picture) for picture in pictures]
    texts = [label.split("\n") for label in labels] if labels else [[] for _ in cells]
    cell_height, cell_width = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    step_x = cell_width + GAP_PX
    step_y = cell_height + LINE_PX * max(len(lines) for lines in texts) + GAP_PX
    rows = -(-len(cells) // columns)
    page = Image.new("RGB", (columns * step_x + GAP_PX, rows * step_y + GAP_PX), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(FONT_PX)
    for index, (cell, lines) in enumerate(zip(cells, texts, strict=True)):
        x, y = GAP_PX + index % columns * step_x, GAP_PX + index // columns * step_y
        page.paste(Image.fromarray(cell), (x, y))
        for number, line in enumerate(lines):
            draw.text((x, y + cell.shape[0] + 2 + LINE_PX * number), _cut(line, font, cell_width), INK, font)
    return np.asarray(page)


def _scaled(picture: np.ndarray) -> np.ndarray:
    """A picture in the sizes of a sheet: enlarged by a whole factor, reduced smoothly, or as it is."""
    height, width = picture.shape[:2]
    longer = max(height, width)
    if longer < MIN_CELL_PX:
        factor = -(-MIN_CELL_PX // longer)
        return picture.repeat(factor, axis=0).repeat(factor, axis=1)
    if longer > MAX_CELL_PX:
        size = (max(width * MAX_CELL_PX // longer, 1), max(height * MAX_CELL_PX // longer, 1))
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    return picture


def _frame_label(index: int, fps: float, measured: list[list[float | None]]) -> str:
    lines = [f"{index / fps:.2f} s"]
    for number, row in enumerate(measured, start=1):
        name = f"{number}: " if len(measured) > 1 else ""
        if not row:
            lines.append(f"{name}not measured")
        elif (value := row[index]) is None:
            lines.append(f"{name}no face")
        else:
            lines.append(f"{name}{value:.2f}" if name else f"similarity {value:.2f}")
    return "\n".join(lines)


def _reference_label(index: int, count: int, measured: list[list[float | None]]) -> str:
    lines = ["reference" if count == 1 else f"reference {index + 1}"]
    if measured and measured[index]:
        found = [value for value in measured[index] if value is not None]
        if found:
            lines.append(f"similarity {np.mean(found):.2f}")
        lines.append(f"face in {len(found)} of {len(measured[index])} frames")
    return "\n".join(lines)


def _title(text: str, width: int) -> np.ndarray:
    font = ImageFont.load_default(FONT_PX)
    lines = _wrapped(text, font, width - 2 * GAP_PX)
    page = Image.new("RGB", (width, GAP_PX + LINE_PX * len(lines)), PAPER)
    ImageDraw.Draw(page).multiline_text((GAP_PX, GAP_PX), "\n".join(lines), INK, font, spacing=LINE_PX - FONT_PX)
    return np.asarray(page)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines of at most ``width`` px, broken between words; the last of four ends in an ellipsis if more would follow."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if not lines[-1] or font.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) < MAX_TITLE_LINES:
            lines.append(word)
        else:
            lines[-1] += " ..."
            break
    return [_cut(line, font, width) for line in lines]


def _cut(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A line shortened to ``width`` px, with an ellipsis where something is missing."""
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."
