"""The report of a dataset whose rows are made up: every clip in the funnel, every limit with what lies next to it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from made_up import dataset_of, measures, paired_dataset
from PIL import Image
from test_report_page import read

from likeness.curate.report import write_report
from likeness.curate.report_choice import NUM_BINS, Verdicts, evenly, nearest, spread
from likeness.curate.supervise import Outcome
from likeness.curate.types import ClipSource, Measured
from likeness.errors import UserError

NUM_CLIPS = 60


def thumbnail(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((90, 160, 3), value, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def outcome(number: int) -> Outcome:
    """Ten of each: kept, two counts, tiny faces, breaks of identity, not a video, crashed."""
    caption = None if number % 2 else f"A woman <b>laughs</b>, take {number}."
    source = ClipSource(path=f"/clips/{number:03d} & more.mp4", caption=caption, origin="folder")
    changes = [
        {},
        {"num_people": (1, 1, 1, 1, 2, 2)},
        {"areas": ((0.01 + number / 10_000,) * 6,)},
        {"cosines": ((0.8, 0.1, 0.1, 0.1, 0.8),)},
    ]
    kind = number % 6
    if kind == 4:
        return Outcome(source=source, status="error", reason="not a video", detail="it begins with <html>")
    if kind == 5:
        return Outcome(source=source, status="crash", reason="the process was ended by SIGSEGV", attempts=2)
    measured = Measured(
        clip_id=f"{number:032x}",
        measures=measures(**{"areas": ((0.1 + number / 1000,) * 6,), **changes[kind]}),
        faces=(),
        references=(),
        thumbnail=thumbnail(4 * number),
    )
    return Outcome(source=source, status="ok", measured=measured)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Decided, with the defaults."""
    return dataset_of(tmp_path / "set", [outcome(number) for number in range(NUM_CLIPS)])


def test_every_clip_is_in_the_report(folder: Path) -> None:
    reader = read(write_report(folder).read_text(encoding="utf-8"))
    text = " ".join(" ".join(reader.texts).split())
    for line in (
        "clips in 60 100.0%", "people count varies", "identity varies", "not a video error 10",
        "the process was ended by SIGSEGV crash 10", "kept 20 33.3%",
        "not in trade-off pairs: face too small 10 of the clips that are kept",
    ):  # fmt: skip
        assert line in text, line
    assert "Clips without a caption: 30." in text
    assert re.search(r"kept 000 & more\.mp4 10 % .*kept 006 & more\.mp4 10\.6 %", text), "next to the smallest area"
    assert re.search(r"kept 056 & more\.mp4 1\.56 % not in trade-off pairs: face too small", text), "and below it"
    assert (
        "samples with another number of people than most: at most 30 % (thresholds.max_other_count, section 4.2)"
        in text
    )


def test_each_failure_has_its_command(folder: Path) -> None:
    html = write_report(folder).read_text(encoding="utf-8")
    text = " ".join(read(html).texts)
    keys = [outcome(number).source.key for number in range(NUM_CLIPS) if number % 6 in (4, 5)]
    assert all(text.count(f"likeness curate show {folder} {key}") == 1 for key in keys)
    assert text.index("ended by SIGSEGV") < text.index("it begins with <html>")
    assert "<b>laughs" not in html


def test_pictures_are_those_of_the_clips(folder: Path) -> None:
    tags = read(write_report(folder).read_text(encoding="utf-8")).tags
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    import base64

    for attributes in pictures:
        number = int((attributes["alt"] or "").split()[0])
        jpeg = base64.b64decode((attributes["src"] or "").partition(",")[2])
        assert abs(int(np.asarray(Image.open(io.BytesIO(jpeg)))[0, 0, 0]) - 4 * number) < 3
    assert len({attributes["alt"] for attributes in pictures}) >= 30


def test_pairs_are_shown_with_both_sides_and_their_cosine(tmp_path: Path) -> None:
    html = write_report(paired_dataset(tmp_path / "set")).read_text(encoding="utf-8")
    reader = read(html)
    text = " ".join(" ".join(reader.texts).split())
    assert "cosine 0.800" in text and "cosine 0.902, 0.902" in text
    assert "cross, cosine 0.80 to 0.83 2" in text and "pretraining 4" in text and "4 cross pairs" in text
    shown = [attributes["alt"] for tag, attributes in reader.tags if tag == "img"]
    assert shown.count("reference") == 12, "one and two people, each with their own faces and with others'"


def test_the_same_tables_give_the_same_page(folder: Path) -> None:
    page = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == page


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no curated dataset"):
        write_report(tmp_path)


def test_rows_are_chosen_evenly() -> None:
    rows = np.arange(100, 200)
    assert evenly(rows, 3).tolist() == [100, 150, 199]
    assert evenly(rows[:2], 3).tolist() == [100, 101]


def test_next_to_a_limit_are_clips_of_both_sides_and_of_this_reason_alone() -> None:
    verdicts = Verdicts(
        status=np.array(["ok", "dropped", "dropped", "ok", "dropped", "ok"], object),
        reason=np.array(["", "a", "a", "", "b", ""], object),
        values={"a": np.array([0.1, 0.9, 0.4, 0.29, 0.31, np.nan])},
        limits={"a": 0.3},
    )
    dropped, kept = nearest(verdicts, "a", 5)
    assert dropped.tolist() == [2, 1] and kept.tolist() == [3, 0]


def test_every_value_is_in_one_bin() -> None:
    counts, low, high = spread(np.array([0.0, 0.5, 1.0, 7.0, np.nan]), 1.0)
    assert (sum(counts), low, high, counts[0], counts[-1]) == (4, 0.0, 1.0, 1, 2)
    counts, low, high = spread(np.full(500, 3.0), None, [4.0, 100.0])
    assert sum(counts) == 500 and (low, high) == (0.0, 4.0) and len(counts) == NUM_BINS
