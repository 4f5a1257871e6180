"""Contact sheets: what is shown, and what is written under it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageDraw

from likeness.errors import UserError
from likeness.faces import Reference
from likeness.sheet import GAP_PX, LINE_PX, PAPER, contact_sheet, grid
from likeness.types import Video


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is drawn, in order."""
    texts: list[str] = []
    original = ImageDraw.ImageDraw.text

    def record(self, xy, text, *arguments, **options):
        texts.append(text)
        return original(self, xy, text, *arguments, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return texts


def numbered_video(num_frames: int = 17, height: int = 64, width: int = 64) -> Video:
    """Frame i has the colour (i, 2i, 3i)."""
    colours = np.arange(num_frames, dtype=np.uint8)[:, None] * np.array([1, 2, 3], np.uint8)
    return Video(np.broadcast_to(colours[:, None, None], (num_frames, height, width, 3)).copy(), 8.0)


def shows(sheet: np.ndarray, colour: tuple[int, ...]) -> int:
    """How many pixels have a colour."""
    return int((sheet == np.array(colour, np.uint8)).all(-1).sum())


def test_small_pictures_are_enlarged_by_a_whole_factor() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)
    sheet = grid([picture], 1)
    shown = sheet[GAP_PX : GAP_PX + 256, GAP_PX : GAP_PX + 192]
    assert np.array_equal(shown[::4, ::4], picture) and np.array_equal(shown[3::4, 3::4], picture)
    assert sheet.shape == (256 + 2 * GAP_PX, 192 + 2 * GAP_PX, 3)


def test_large_pictures_are_reduced_and_middling_ones_left_alone() -> None:
    assert grid([np.zeros((480, 832, 3), np.uint8)], 1).shape == (207 + 2 * GAP_PX, 360 + 2 * GAP_PX, 3)
    middling = np.random.default_rng(0).integers(0, 255, (256, 300, 3), dtype=np.uint8)
    assert np.array_equal(grid([middling], 1)[GAP_PX:-GAP_PX, GAP_PX:-GAP_PX], middling)


def test_rows_columns_and_labels(written: list[str]) -> None:
    pictures = [np.full((256, 256, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = grid(pictures, 2, ["a", "b\nc", "a label that is much too long for a picture of this width, by far"])
    step_x, step_y = 256 + GAP_PX, 256 + 2 * LINE_PX + GAP_PX
    assert sheet.shape == (2 * step_y + GAP_PX, 2 * step_x + GAP_PX, 3)
    corners = [(GAP_PX, GAP_PX), (GAP_PX, GAP_PX + step_x), (GAP_PX + step_y, GAP_PX)]
    assert [int(sheet[corner][0]) for corner in corners] == [10, 20, 30]
    assert written[:3] == ["a", "b", "c"] and written[3].startswith("a label") and written[3].endswith("...")
    assert (sheet[:, -GAP_PX:] == PAPER).all(), "no label runs beyond its picture"


def test_frames_are_chosen_evenly_with_the_first_and_the_last(written: list[str]) -> None:
    sheet = contact_sheet(numbered_video(), [], num_frames=5)
    assert [shows(sheet, (i, 2 * i, 3 * i)) > 60_000 for i in (0, 4, 8, 12, 16)] == [True] * 5
    assert shows(sheet, (3, 6, 9)) == 0
    assert written == ["0.00 s", "0.50 s", "1.00 s", "1.50 s", "2.00 s"]


def test_a_video_shorter_than_the_sheet_shows_each_frame_once(written: list[str]) -> None:
    contact_sheet(numbered_video(3), [], num_frames=8)
    assert written == ["0.00 s", "0.12 s", "0.25 s"]


def test_the_similarity_stands_under_each_frame(written: list[str]) -> None:
    similarity = [[0.5, None, 0.834] + [0.7] * 14]
    reference = np.full((64, 64, 3), (200, 10, 99), np.uint8)
    sheet = contact_sheet(numbered_video(), [reference], similarity, num_frames=17)
    assert shows(sheet[:, : GAP_PX + 256], (200, 10, 99)) == 256 * 256, "the reference is at the left"
    mean = (0.5 + 0.834 + 14 * 0.7) / 16
    assert written[:3] == ["reference", f"similarity {mean:.2f}", "face in 16 of 17 frames"]
    assert written[3:9] == ["0.00 s", "similarity 0.50", "0.12 s", "no face", "0.25 s", "similarity 0.83"]


def test_a_reference_without_an_embedding_was_not_measured(written: list[str]) -> None:
    canvas = np.full((64, 64, 3), 99, np.uint8)
    plain = Reference(canvas, canvas, None, 0, False, None, ())
    known = Reference(canvas, canvas, None, 1, True, np.ones(4, np.float32), ())
    contact_sheet(numbered_video(2), [known, plain], [[0.25, 0.75], [None, None]])
    assert written[:4] == ["reference 1", "similarity 0.50", "face in 2 of 2 frames", "reference 2"]
    assert written[4:] == ["0.00 s", "1: 0.25", "2: not measured", "0.12 s", "1: 0.75", "2: not measured"]


def test_a_long_prompt_is_broken_into_lines(written: list[str]) -> None:
    prompt = "word " * 10_000
    plain = contact_sheet(numbered_video(), [])
    titled = contact_sheet(numbered_video(), [], title=prompt)
    (title,) = [text for text in written if "word" in text]
    assert title.count("\n") == 3 and title.endswith("...")
    assert titled.shape[0] == plain.shape[0] + GAP_PX + 4 * LINE_PX and titled.shape[1] == plain.shape[1]
    assert np.array_equal(titled[-plain.shape[0] :], plain)
    assert (titled[:, -GAP_PX:] == PAPER).all(), "no line runs off the page"


def test_impossible_sheets_are_refused() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(UserError, match="both must be at least 1"):
        grid([], 4)
    with pytest.raises(UserError, match="2 labels were given for 1 pictures"):
        grid([picture], 1, ["a", "b"])
    with pytest.raises(ValueError, match=r"\[1\]\[17\]"):
        contact_sheet(numbered_video(), [picture], [[0.5] * 3])
