"""The report's page from values alone: nothing is lost in the funnel, nothing is fetched, nothing of a user's is markup."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from likeness.curate.report_page import (
    Band,
    Failure,
    Gallery,
    Histogram,
    Page,
    Picture,
    Step,
    Strip,
    number,
    render,
)

HOSTILE = "<script>alert('x')</script> & \"quotes\" $title"


def jpeg(value: int = 128) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), value, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def page_of(**changes) -> Page:
    picture = Picture(jpeg=jpeg(), name=HOSTILE, status="dropped", lines=(HOSTILE,))
    values = {
        "title": f"Curation of {HOSTILE}",
        "subtitle": HOSTILE,
        "num_clips": 10,
        "funnel": (
            Step(status="dropped", reason="no face", count=3, rule=HOSTILE),
            Step(status="error", reason="missing", count=1),
            Step(status="ok", reason="", count=6),
        ),
        "totals": (("clips", 10),),
        "notes": (HOSTILE,),
        "histograms": (
            Histogram(
                title="area", counts=(1, 0, 4), low=0.0, high=1.0, limits=((0.04, "from"), (0.9, "to")), unit="%"
            ),
        ),
        "reasons": (
            Gallery(title=HOSTILE, pictures=(picture, Picture(jpeg=b"", name="gone", status="error")), note=HOSTILE),
        ),
        "boundaries": (Gallery(title="near", pictures=(picture,)),),
        "bands": (Band(title=HOSTILE, count=2, strips=(Strip(references=(jpeg(),), clip=jpeg(), lines=(HOSTILE,)),)),),
        "failures": (Failure(name=HOSTILE, status="crash", reason=HOSTILE, command=HOSTILE),),
        "num_failures": 5,
        "settings": HOSTILE,
    }
    return Page(**(values | changes))


class Reader(HTMLParser):
    """Opening tags with their attributes, and whether all that opened was closed in order."""

    VOID = frozenset({"meta", "img", "br", "rect", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert tag in self.VOID or self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.texts.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert not reader.open
    return reader


def test_texts_of_users_are_text() -> None:
    reader = read(render(page_of()))
    assert not [tag for tag, _ in reader.tags if tag == "script"]
    assert sum(HOSTILE in text for text in reader.texts) >= 12, "shown as it was given, everywhere"


def test_the_page_needs_nothing_else() -> None:
    html = render(page_of())
    tags = read(html).tags
    sources = [attributes["src"] for tag, attributes in tags if tag == "img"]
    assert len(sources) == 4 and all((source or "").startswith("data:image/jpeg;base64,") for source in sources)
    links = [value for _, attributes in tags for name, value in attributes.items() if name in ("href", "src")]
    assert all((link or "").startswith(("#", "data:")) for link in links)
    assert {link for link in links if link and link[0] == "#"} <= {
        f"#{attributes['id']}" for _, attributes in tags if "id" in attributes
    }
    assert not re.search(r"url\(|@import|<link|<iframe", html)


def test_a_funnel_that_loses_a_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="11 clips came in, and the funnel tells of 10"):
        page_of(num_clips=11)


def test_a_histogram_shows_each_bin_and_each_limit_where_it_lies() -> None:
    tags = read(render(page_of())).tags
    bars = [attributes for tag, attributes in tags if tag == "rect"]
    assert len(bars) == 2, "an empty bin has no bar"
    heights = [float(bar["height"] or 0) for bar in bars]
    assert heights[1] == pytest.approx(4 * heights[0], rel=0.01)
    marks = [float(a["x1"] or 0) for tag, a in tags if tag == "line" and a.get("class") == "mark"]
    assert marks == pytest.approx([0.04 * 320, 0.9 * 320], abs=0.1)


def test_failures_say_how_many_are_not_shown() -> None:
    text = " ".join(read(render(page_of())).texts)
    assert "and 4 more" in text
    assert "Every clip could be measured." in " ".join(read(render(page_of(failures=(), num_failures=0))).texts)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.3, "%", "30 %"), (0.045, "%", "4.5 %"), (12.345, "s", "12.3 s"), (0.5, "", "0.5"), (0, "", "0"), (1234.5, "px", "1234 px"), (3.0, "", "3"), (0.123456, "s", "0.123 s")],
)  # fmt: skip
def test_numbers_are_written_for_people(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text
