"""The report's page: values in, one HTML text out that needs no network, no script and no other file.

Every text that comes from a user (paths, captions, error messages) passes :func:`escape`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

_WIDTH, _HEIGHT, _TOP, _BOTTOM = 320, 130, 16, 18  # px of a histogram; its labels lie in the margins
_CLASS = {"ok": "kept", "dropped": "dropped"}  # of a status; every other is a failure


@dataclass(frozen=True, kw_only=True)
class Step:
    """A line of the funnel: how many clips ended with this status and reason, and the rule in a sentence."""

    status: str
    reason: str
    count: int
    rule: str = ""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How a measure is spread.

    Attributes:
        counts: clips (or faces) in each of equally wide bins.
        low, high: of the first and the last bin; values beyond count in these.
        limits: thresholds in force, each with what happens there.
        unit: "%" shows shares of 1 as percent; otherwise it follows the number.
    """

    title: str
    counts: tuple[int, ...]
    low: float
    high: float
    limits: tuple[tuple[float, str], ...] = ()
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A clip to look at: a JPEG (empty where none could be made), its name, and lines about it."""

    jpeg: bytes
    name: str
    status: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures under a heading."""

    title: str
    pictures: tuple[Picture, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A pair to look at: JPEGs of the references and of the clip, and lines about them."""

    references: tuple[bytes, ...]
    clip: bytes
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Band:
    """Pairs of one kind within a band of cosines."""

    title: str
    count: int
    strips: tuple[Strip, ...]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A clip that could not be measured, and the command that shows why."""

    name: str
    status: str
    reason: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the page shows.

    Raises:
        ValueError: the funnel loses or doubles a clip.
    """

    title: str
    subtitle: str
    num_clips: int
    funnel: tuple[Step, ...]
    totals: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    reasons: tuple[Gallery, ...] = ()
    boundaries: tuple[Gallery, ...] = ()
    tradeoff: tuple[Step, ...] = ()  # what became of the trade-off pairs; empty where nothing decides about them
    bands: tuple[Band, ...] = ()
    failures: tuple[Failure, ...] = ()
    num_failures: int = 0
    settings: str = ""

    def __post_init__(self) -> None:
        if (told := sum(step.count for step in self.funnel)) != self.num_clips:
            raise ValueError(f"{self.num_clips} clips came in, and the funnel tells of {told}.")


def render(page: Page) -> str:
    """The page as HTML."""
    template = Template(files("likeness.curate").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(page.title),
        subtitle=escape(page.subtitle),
        totals="".join(f"<div><b>{value:,}</b>{escape(name)}</div>" for name, value in page.totals),
        notes="".join(f"<p>{escape(note)}</p>" for note in page.notes),
        funnel=_funnel(page),
        charts=_grid("charts", [_chart(histogram) for histogram in page.histograms]),
        reasons=_galleries(page.reasons),
        boundaries=_galleries(page.boundaries),
        pairs=_tradeoff(page) + ("".join(map(_band, page.bands)) or '<p class="soft">There are no pairs.</p>'),
        failures=_failures(page),
        settings=escape(page.settings),
    )


def _funnel(page: Page) -> str:
    lines = [_line("clips in", page.num_clips, page.num_clips, "in", "")]
    for step in page.funnel:
        name = "kept" if step.status == "ok" else step.reason
        lines.append(_line(name, step.count, page.num_clips, _CLASS.get(step.status, "failed"), step.rule))
    return f'<table class="funnel"><tbody>{"".join(lines)}</tbody></table>'


def _tradeoff(page: Page) -> str:
    if not page.tradeoff:
        return ""
    whole = sum(step.count for step in page.tradeoff)
    lines = [_line("trade-off pairs", whole, whole, "in", "")]
    for step in page.tradeoff:
        lines.append(_line(step.reason or "used", step.count, whole, _CLASS[step.status], step.rule))
    return f'<table class="funnel"><tbody>{"".join(lines)}</tbody></table>'


def _line(name: str, count: int, whole: int, colour: str, rule: str) -> str:
    share = count / max(1, whole)
    bar = f'<div class="bar {colour}" style="width:{100 * share:.2f}%"></div>'
    told = f'<span class="rule">{escape(rule)}</span>' if rule else ""
    return (
        f'<tr><td>{escape(name)}{told}</td><td class="count">{count:,} <span class="soft">{share:.1%}</span></td>'
        f'<td class="share">{bar}</td></tr>'
    )


def _chart(histogram: Histogram) -> str:
    """Bars, a line and a number for each limit, and the two ends of the scale."""
    tallest, span = max([*histogram.counts, 1]), histogram.high - histogram.low
    width, base = _WIDTH / len(histogram.counts), _HEIGHT - _BOTTOM
    parts = [f'<line x1="0" y1="{base}" x2="{_WIDTH}" y2="{base}"/>']
    for index, count in enumerate(histogram.counts):
        height = (base - _TOP) * count / tallest
        if count:  # a bar of a few clips among a million still shows
            height = max(height, 1.5)
            parts.append(
                f'<rect x="{index * width + 0.5:.1f}" y="{base - height:.1f}" width="{width - 1:.1f}" height="{height:.1f}">'
                f"<title>{count:,}</title></rect>"
            )
    for value, what in histogram.limits:
        x = min(max((value - histogram.low) / span, 0), 1) * _WIDTH
        anchor = "start" if x < _WIDTH / 2 else "end"
        shift = 4 if anchor == "start" else -4
        parts.append(f'<line class="mark" x1="{x:.1f}" y1="{_TOP - 12}" x2="{x:.1f}" y2="{base}"/>')
        beyond = " \N{RIGHTWARDS ARROW}" if value > histogram.high else ""
        label = escape(f"{what} {number(value, histogram.unit)}{beyond}")
        parts.append(f'<text class="mark" x="{x + shift:.1f}" y="{_TOP - 4}" text-anchor="{anchor}">{label}</text>')
    ends = ((0, "start", histogram.low), (_WIDTH, "end", histogram.high))
    for x, anchor, value in ends:
        parts.append(
            f'<text x="{x}" y="{_HEIGHT - 4}" text-anchor="{anchor}">{escape(number(value, histogram.unit))}</text>'
        )
    note = f"{sum(histogram.counts):,} {histogram.note}".strip()
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(histogram.title)}">{"".join(parts)}</svg>'
        f'<figcaption>{escape(histogram.title)}<span class="soft">{escape(note)}</span></figcaption></figure>'
    )


def number(value: float, unit: str = "") -> str:
    """A number as a person writes it: shares as percent, others with three digits that matter."""
    if unit == "%":
        return f"{100 * value:.3g} %"
    digits = 0 if value == 0 or not math.isfinite(value) else max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 6)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text} {unit}".strip()


def _grid(name: str, parts: Sequence[str]) -> str:
    return f'<div class="{name}">{"".join(parts)}</div>' if parts else '<p class="soft">There are none.</p>'


def _galleries(galleries: Sequence[Gallery]) -> str:
    return _grid("galleries", [_gallery(gallery) for gallery in galleries])


def _gallery(gallery: Gallery) -> str:
    note = f'<p class="soft">{escape(gallery.note)}</p>' if gallery.note else ""
    pictures = _grid("gallery", [_picture(picture) for picture in gallery.pictures])
    return f"<section><h3>{escape(gallery.title)}</h3>{note}{pictures}</section>"


def _picture(picture: Picture) -> str:
    tag = f'<span class="tag {_CLASS.get(picture.status, "failed")}">{"kept" if picture.status == "ok" else escape(picture.status)}</span>'
    lines = "".join(f'<span class="soft">{escape(line)}</span>' for line in picture.lines)
    return f"<figure>{_image(picture.jpeg, picture.name)}<figcaption>{tag} {escape(picture.name)}{lines}</figcaption></figure>"


def _image(jpeg: bytes, alternative: str) -> str:
    if not jpeg:
        return '<div class="missing">no picture</div>'
    data = base64.b64encode(jpeg).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alternative)}">'


def _band(band: Band) -> str:
    strips = []
    for strip in band.strips:
        pictures = "".join(_image(jpeg, "reference") for jpeg in strip.references) + _image(strip.clip, "clip")
        lines = "".join(f'<span class="soft">{escape(line)}</span>' for line in strip.lines)
        strips.append(
            f'<figure class="pair"><div class="pictures">{pictures}</div><figcaption>{lines}</figcaption></figure>'
        )
    return f"<h3>{escape(band.title)} <span class='soft'>{band.count:,}</span></h3>{_grid('pairs', strips)}"


def _failures(page: Page) -> str:
    if not page.failures:
        return '<p class="soft">Every clip could be measured.</p>'
    rows = "".join(
        f"<tr><td>{escape(f.status)}</td><td>{escape(f.reason)}</td>"
        f"<td>{escape(f.name)}<br><code>{escape(f.command)}</code></td></tr>"
        for f in page.failures
    )
    left = page.num_failures - len(page.failures)
    more = f'<p class="soft">and {left:,} more in clips.parquet</p>' if left > 0 else ""
    return (
        "<p>Crashes and timeouts were tried again alone before they were set aside. The command measures the one clip again, "
        "in its own process.</p>"
        '<div class="scroll"><table><thead><tr><th>status</th><th>reason</th><th>clip and command</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{more}"
    )
