"""The report's page: whole in one file, nothing of a user's taken for HTML, the worst first, nothing dropped."""

import base64
import io
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from likeness.evaluate.compare import compare
from likeness.evaluate.comparison_page import write_comparison
from likeness.evaluate.record import Record, Row, load_report, write_run
from likeness.evaluate.report import interval, number, worst_first, write_report
from likeness.evaluate.statistics import Interval, table
from likeness.evaluate.strips import Curves, curves_of, plot
from likeness.evaluate.types import Item
from likeness.media import sha256_file, write_picture, write_video
from likeness.types import Video

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"
NUM_FRAMES = 20


# What the record keeps of a metric; no video is measured here.
STRICT = SimpleNamespace(
    name="facesim_arc_strict",
    protocol="strict",
    weights="0123456789abcdef",
    directions={"facesim_arc": "higher", "coverage": "higher"},
)


class Page(HTMLParser):
    """Tags with their attributes, and the text of each cell and paragraph, of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def of(self, wanted):
        return [attrs for tag, attrs in self.tags if tag == wanted]


@pytest.fixture
def make_report(tmp_path):
    """A report of items by id: (score, curve), a status, or None for an item without a row."""

    def make(given, tags=None, prompt="a man nods", name="report"):
        photograph = tmp_path / "p.png"
        write_picture(photograph, np.full((48, 40, 3), 99, np.uint8))
        items, rows = [], []
        for place, (id, what) in enumerate(given.items()):
            video = tmp_path / f"videos of {name}" / f"v{place}.mp4"
            row = Row(
                key=f"{place:032x}",
                id=id,
                metric=STRICT.name,
                protocol=STRICT.protocol,
                weights=STRICT.weights,
                status="ok",
            )
            if isinstance(what, tuple):
                ramp = np.arange(NUM_FRAMES, dtype=np.uint8)[:, None, None, None] * 10
                write_video(video, Video(np.broadcast_to(ramp, (NUM_FRAMES, 32, 64, 3)).copy(), 10.0))
                score, curve = what
                row = replace(
                    row,
                    values={"facesim_arc": score, "coverage": 1.0},
                    curves={"facesim_arc": curve},
                    video_sha256=sha256_file(video),
                    width=64,
                    height=32,
                    num_frames=NUM_FRAMES,
                    fps=10.0,
                )
            elif what is not None:
                row = replace(row, status=what, reason=f"{EVIL} {what}")
            items.append(
                Item(
                    id=id,
                    video=video,
                    prompt=prompt,
                    references=(photograph,),
                    people=(0,),
                    group=f"g{place % 3}",
                    tags=(tags or {}).get(id, {}),
                )
            )
            rows += [row] * (what is not None)
        folder = tmp_path / name
        with Record(folder) as record:
            write_run(folder, items, [STRICT], {"clip_score": "--clip", "clip_dist": "--clip"})
            record.append(rows)
        return load_report(folder)

    return make


def written(report, **options):
    return write_report(report, table(report), **options).read_text("utf-8")


def by_id(report):
    return {id: [row for row in report.rows if row.id == id] for id in report.items}


def test_one_file_without_scripts_or_addresses(make_report):
    page = Page(written(make_report({"a": (0.5, [0.5] * 16), "b": (0.2, [0.2] * 16)})))
    assert not page.of("script") and not page.of("link") and not page.of("iframe")
    sources = [attrs["src"] for attrs in page.of("img")]
    assert len(sources) == 2 * (1 + 8) and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert len(page.of("svg")) == 2
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) as picture:
            assert picture.format == "JPEG" and max(picture.size) <= 200


def test_what_users_wrote_stays_text(make_report):
    report = make_report(
        {EVIL: (0.5, [0.5] * 16), "b": "failed"}, tags={EVIL: {"<b>tag": EVIL}, "b": {"<b>tag": "x"}}, prompt=EVIL
    )
    text = written(report)
    page = Page(text)
    assert not page.of("script") and all(attrs["src"].startswith("data:") for attrs in page.of("img"))
    assert not any("onerror" in attrs for _, attrs in page.tags)
    assert "".join(page.text).count("<script>alert('x')</script>") >= 5  # id twice, prompt, tag twice, reason
    assert "<script>" not in text


def test_the_table_has_the_means_with_intervals_protocols_and_groups(make_report):
    scores = {"a": 0.2, "b": 0.3, "c": 0.4, "d": 0.6, "e": 0.7, "f": 0.8}
    tags = {id: {"class": "man" if id in "abc" else "woman", "seed": str("abcdef".index(id) // 2)} for id in scores}
    report = make_report({id: (score, [score] * 16) for id, score in scores.items()}, tags=tags)
    text = written(report)
    first = re.search(r"<h2>Means</h2>.*?</table>", text, re.DOTALL)[0]
    rows = re.findall(r"<tr>(.*?)</tr>", first, re.DOTALL)
    assert "facesim_arc ↑<small>facesim_arc_strict · strict</small>" in rows[0]
    named = {re.match(r"<td>(.*?)<", row)[1]: row for row in rows[1:]}
    assert named.keys() == {"all", "class: man", "class: woman"}, "two videos a seed are too few for a mean"
    (line, _) = table(report)
    assert f"<td>{interval(line.interval)}</td>" in named["all"] and "0.500<small>[" in named["all"]
    assert "<td>0.300<" in named["class: man"] and "<td>0.700<" in named["class: woman"]
    assert "clip_score, clip_dist (--clip)" in text


def test_worst_first_and_every_video_once(make_report):
    given = {
        "mid": (0.5, [0.5] * 16),
        "gone": "missing",
        "low": (-0.1, [-0.1] * 16),
        "high": (0.9, [0.9] * 16),
        "torn": "unreadable",
        "new": None,
    }
    report = make_report(given)
    assert worst_first(report, by_id(report)) == ["low", "mid", "high"]
    text = written(report, num_cases=2)
    assert re.findall(r"<h3>(.*?)</h3>", text) == ["low", "mid"]
    listed = re.findall(r"<tr><td>(\w+)</td>", text[text.index("<h2>Every video</h2>") : text.index("<h2>How")])
    assert listed == ["gone", "torn", "new", "low", "mid", "high"]
    assert "Not measured: 2 of 6 videos" in text and "not measured yet" in text
    for status in ("missing", "unreadable"):
        assert f'<td class="words bad">{status}</td>' in text and f"&#x27;&amp; {status}" in text


def test_a_comparison_has_a_row_a_run_and_shows_where_they_differ(make_report, tmp_path):
    scores = {"a": (0.5, 0.6), "b": (0.5, 0.3), "c": (0.5, 0.5), EVIL: (0.5, 0.1)}
    reports = [
        make_report({id: (pair[run], [pair[run]] * 16) for id, pair in scores.items()}, prompt=EVIL, name=name)
        for run, name in enumerate(("first", "<i>second"))
    ]
    comparison = compare(reports)
    write_comparison(comparison, reports, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    page = Page(text)
    assert not page.of("script")
    assert all(attrs["src"].startswith("data:") for attrs in page.of("img"))
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td>", text)
    assert [name for name, _ in rows] == ["first", "&lt;i&gt;second"]
    assert rows[0][1].startswith("0.500") and rows[1][1].startswith("0.375") and "-0.125" in rows[1][1]
    assert "better in 38%" in rows[1][1]  # one of four is better, one is as good
    titles = re.findall(r"<h[23]>(.*?)</h[23]>", text)
    assert titles[1:] == [
        "Where &lt;i&gt;second loses most",
        escape(EVIL),
        "b",
        "Where &lt;i&gt;second gains most",
        "a",
    ]
    assert len(page.of("svg")) == 3 * 2 and len(page.of("img")) == 3 * (1 + 2 * 8)


def test_a_strip_shows_the_frames_that_were_measured(make_report):
    # 16 frames of 20, evenly spread with both ends; the curve says which frame it is.
    indices = np.linspace(0, NUM_FRAMES - 1, 16, dtype=int)
    curve = [None if index > 9 else index / 100 for index in indices.tolist()]
    text = written(make_report({"a": (0.1, curve)}))
    cells = re.findall(r'base64,([^"]+)"><figcaption>([\d.]+) s<br><b[^>]*>(no face|[\d.]+)</b>', text)
    assert len(cells) == 8
    for data, time, told in cells:
        frame = round(float(time) * 10)
        assert told == (f"{frame / 100:.2f}" if frame <= 9 else "no face")
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert np.asarray(picture).mean() == pytest.approx(frame * 10, abs=5)
    assert {cells[0][1], cells[-1][1]} == {"0.00", "1.90"}


def test_a_video_that_changed_or_went_after_it_was_measured_is_told(make_report):
    report = make_report({"a": (0.1, [0.1] * 16), "b": (0.2, [0.2] * 16)})
    report.items["a"].video.unlink()
    report.items["b"].video.write_bytes(report.items["b"].video.read_bytes() + b"x")
    report.items["a"].references[0].write_bytes(b"no picture")
    text = written(report)
    assert "No such file" in text and "not the video that was measured" in text and "p.png cannot be read" in text


def test_a_report_without_a_number_is_still_a_page(make_report):
    text = written(make_report({"a": "missing", "b": "missing"}))
    assert "There is no number." in text and "Worst first" not in text


def test_the_same_record_gives_the_same_page(make_report):
    report = make_report({"a": (0.1, [0.1] * 16), "b": "missing"})
    assert written(report) == written(load_report(report.folder))


def test_several_people_are_ordered_and_drawn_by_their_own_curves(make_report):
    report = make_report({"a": (0.1, [0.1] * 16)})
    item = replace(report.items["a"], references=report.items["a"].references * 2, people=(0, 1))
    two = {"person 0": [0.5] * 20, "person 1": [None] * 20}
    row = replace(report.rows[0], metric="people", values={"people_arc": 0.25}, curves=two)
    curves = curves_of([report.rows[0], row])
    assert curves.metric == "people" and list(curves.values) == ["person 0", "person 1"]
    assert curves_of([report.rows[0], replace(row, curves={"person 0": [0.5] * 20})]).metric == "facesim_arc_strict"
    changed = replace(report, items={"a": item}, rows=[*report.rows, row])
    assert worst_first(changed, {"a": changed.rows}) == ["a"]


def test_curves_break_where_there_is_no_face():
    curves = Curves(
        metric="drift",
        times_s=[0.0, 0.5, 1.0, 1.5, 2.0],
        indices=[0, 5, 10, 15, 20],
        values={"similarity": [0.8, 0.6, None, -0.5, 0.4]},
        duration_s=2.0,
    )
    svg = plot(curves)
    lines = [
        [tuple(map(float, point.split(","))) for point in found.split()] for found in re.findall(r'points="(.*?)"', svg)
    ]
    assert [len(line) for line in lines] == [2, 2] and svg.count("<circle") == 4 and svg.count('class="gap"') == 1
    heights = [y for line in lines for _, y in line]
    assert heights[0] < heights[1] < heights[3] < heights[2]

    top, zero = (
        float(re.search(pattern, svg)[1]) for pattern in (r'y1="(\d+)"', r'class="zero" x1="\d+" y1="([\d.]+)"')
    )
    # Linear from 1 at the top: 0.8 is a fifth of the way to 0, and -0.5 half as far below it again.
    assert heights[0] - top == pytest.approx(0.2 * (zero - top), abs=0.1)
    assert heights[2] - zero == pytest.approx(0.5 * (zero - top), abs=0.1)


@pytest.mark.parametrize(
    ("value", "told"), [(0.12345, "0.123"), (-0.0001, "0.000"), (31.456, "31.46"), (-0.5, "-0.500"), (10.0, "10.00")]
)
def test_numbers(value, told):
    assert number(value) == told


def test_an_interval_of_one_identity_is_none():
    assert interval(Interval(0.5, None, None, 3, 1)) == "0.500"
