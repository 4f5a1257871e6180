"""The report's page: one HTML file with the table, what could not be measured, the worst videos, and every video.

Made from the record and the videos; it needs no network, no script and no other file. Everything a user wrote passes
:func:`html.escape`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

from likeness.evaluate.pages import page
from likeness.evaluate.record import Report, Row
from likeness.evaluate.statistics import Interval, Line, table
from likeness.evaluate.strips import PEOPLE, curves_of, plot, references, strip
from likeness.evaluate.types import Direction, Item
from likeness.media import atomic_write

PAGE = "report.html"
NUM_CASES = 24  # videos with pictures: about 25 kB each
MAX_GROUPS, MIN_VIDEOS = 12, 3  # values of a tag that still make rows of the table, and videos a value on average
ARROWS: dict[Direction, str] = {"higher": "↑", "lower": "↓", "": ""}
# What "worst" means: the first of these that a video has. (metric, value)
ORDER = (
    (PEOPLE, "people_arc"),
    ("facesim_arc_strict", "facesim_arc"),
    ("facesim_arc", "facesim_arc"),
    ("clip_score", "clip_score"),
)

Column = tuple[str, str]  # metric, value


def write_report(report: Report, lines: Sequence[Line], *, num_cases: int = NUM_CASES) -> Path:
    """Writes ``report.html`` into the report's folder.

    Args:
        lines: from :func:`likeness.evaluate.statistics.table`.
        num_cases: how many of the worst videos are shown with pictures.

    Raises:
        UserError: the folder cannot be written.
    """
    rows: dict[str, list[Row]] = {id: [] for id in report.items}
    for row in report.rows:
        rows[row.id].append(row)
    worst = worst_first(report, rows)
    body = [_head(report, rows), _means(report, lines), _unmeasured(report), _cases(report, rows, worst[:num_cases])]
    body.append(_videos(report, rows, worst))
    body.append(_how(report))
    path = report.folder / PAGE
    text = page("report", {"title": escape(f"Evaluation of {report.name}"), "body": "\n".join(filter(None, body))})
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def worst_first(report: Report, rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Ids of the videos that have a number to be ordered by, the worst first; see ``ORDER``."""
    found = {id: ordered_by(report.items[id], rows[id]) for id in report.items}
    known = {id: value for id, (_, value) in found.items() if value is not None}
    return sorted(known, key=lambda id: known[id])


def ordered_by(item: Item, rows: Sequence[Row]) -> tuple[str, float | None]:
    """The number of a video that the worst are found by, after the name of its metric; None where it has none."""
    values = {(row.metric, name): value for row in rows if row.status == "ok" for name, value in row.values.items()}
    for metric, name in ORDER:
        value = values.get((metric, name))
        if value is not None and (metric != PEOPLE or len(set(item.people)) > 1):
            return metric, value
    return "", None


def number(value: float) -> str:
    """With as many digits as tell something."""
    digits = 2 if abs(value) >= 10 else 3
    return f"{round(value, digits) + 0.0:.{digits}f}"  # no minus before a rounded 0


def interval(given: Interval) -> str:
    """A mean, its interval below it."""
    if given.low is None or given.high is None:
        return number(given.mean)
    return f"{number(given.mean)}<small>[{number(given.low)}, {number(given.high)}]</small>"


def column_head(value: str, direction: Direction, metric: str, protocol: str) -> str:
    """A column's name: the value, which way it is better, the metric and its protocol."""
    arrow = f" {ARROWS[direction]}" if direction else ""
    below = protocol if metric == value else f"{metric} · {protocol}" if protocol else metric
    return f"<th>{escape(value)}{arrow}<small>{escape(below)}</small></th>"


def scrolled(head: str, rows: Sequence[str]) -> str:
    """A table that scrolls sideways where it is wider than the page."""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


# ------------------------------------------------------------------------------------------------------------- sections


def _head(report: Report, rows: Mapping[str, Sequence[Row]]) -> str:
    num_people = len({item.group for item in report.items.values()})
    num_good = sum(any(row.status == "ok" for row in of_item) for of_item in rows.values())
    sizes = sorted(
        {f"{row.width} x {row.height} px, {row.num_frames} frames, {row.fps:g}/s" for row in report.rows if row.fps}
    )
    told = f"{len(report.items)} videos of {num_people} {'identity' if num_people == 1 else 'identities'}"
    lines = [f"<h1>{escape(report.name)}</h1>"]
    lines.append(f"<p>{told}; {num_good} have numbers. {escape('; '.join(sizes))}</p>")
    if report.absent:
        waiting: dict[str, list[str]] = {}
        for metric, option in report.absent.items():
            waiting.setdefault(option, []).append(metric)
        absent = "; ".join(f"{', '.join(metrics)} ({option})" for option, metrics in waiting.items())
        lines.append(f'<p class="faint small">Not measured, since the weights were not given: {escape(absent)}.</p>')
    return "\n".join(lines)


def _means(report: Report, lines: Sequence[Line]) -> str:
    """A row for all videos (of each size), and one for each value of each tag."""
    if not lines:
        return "<h2>Means</h2><p>There is no number.</p>"
    columns = list(dict.fromkeys((line.what.metric, line.value) for line in lines))
    heads = {(line.what.metric, line.value): line for line in lines}
    head = "<th>videos</th>" + "".join(
        column_head(value, heads[metric, value].direction, metric, heads[metric, value].what.protocol)
        for metric, value in columns
    )
    sizes = list(dict.fromkeys(line.what.size for line in lines))
    drawn = []
    for name, part, of_part in [("all", report, lines), *((name, part, table(part)) for name, part in _parts(report))]:
        for size in sizes:
            if of_size := [line for line in of_part if line.what.size == size]:
                drawn.append(_mean_row(name, size, part, of_size, columns))
    note = (
        '<p class="faint small">Means with 95 % intervals, resampled over identities; ↑ higher is better, ↓ lower is '
        "better. Numbers of different protocols are not comparable. Where some videos have no such number, or are of another size, it says how many have.</p>"
    )
    return f"<h2>Means</h2>{scrolled(head, drawn)}{note}"


def _mean_row(name: str, size: str, report: Report, lines: Sequence[Line], columns: Sequence[Column]) -> str:
    found = {(line.what.metric, line.value): line for line in lines}
    cells = []
    for column in columns:
        line = found.get(column)
        if line is None:
            cells.append("<td>–</td>")
            continue
        counted = f"<small>{line.interval.num} videos</small>" if line.interval.num < len(report.items) else ""
        cells.append(f"<td>{interval(line.interval)}{counted}</td>")
    told = f"{escape(name)}<small>{len(report.items)} videos</small><small>{size}</small>"
    return f"<tr><td>{told}</td>{''.join(cells)}</tr>"


def _parts(report: Report) -> list[tuple[str, Report]]:
    """The report cut by each tag that has a few values."""
    parts = []
    tags = dict.fromkeys(tag for item in report.items.values() for tag in item.tags)
    for tag in tags:
        given = [item.tags[tag] for item in report.items.values() if tag in item.tags]
        values = sorted(set(given))
        if 2 <= len(values) <= MAX_GROUPS and len(given) >= MIN_VIDEOS * len(values):
            for value in values:
                items = {id: item for id, item in report.items.items() if item.tags.get(tag) == value}
                rows = [row for row in report.rows if row.id in items]
                parts.append((f"{tag}: {value}", replace(report, items=items, rows=rows)))
    return parts


def _unmeasured(report: Report) -> str:
    """Rows without numbers; metrics with the same reason are joined."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in report.rows:
        if row.status != "ok":
            found.setdefault((row.id, row.status, row.reason), []).append(row.metric)
    if not found:
        return ""
    count = len({id for id, _, _ in found})
    drawn = [
        f'<tr><td>{escape(id)}</td><td class="words bad">{escape(status)}</td><td class="words">{escape(reason)}</td>'
        f'<td class="words">{escape(", ".join(metrics))}</td></tr>'
        for (id, status, reason), metrics in found.items()
    ]
    head = '<th>video</th><th class="words">status</th><th class="words">reason</th><th class="words">metrics</th>'
    return f"<h2>Not measured: {count} of {len(report.items)} videos</h2>{scrolled(head, drawn)}"


def _cases(report: Report, rows: Mapping[str, Sequence[Row]], ids: Sequence[str]) -> str:
    if not ids:
        return ""
    order = "people_arc for several people, else FaceSim-Arc (strict before consisid), else CLIP-Score"
    told = f'<p class="faint small">The {len(ids)} worst of {len(report.items)} videos, by {order}.</p>'
    return "<h2>Worst first</h2>" + told + "\n".join(_case(report.items[id], rows[id]) for id in ids)


def _case(item: Item, rows: Sequence[Row]) -> str:
    curves = curves_of(rows)
    metric, value = ordered_by(item, rows)
    size = next((f"{row.width} x {row.height} px, {row.num_frames} frames" for row in rows if row.num_frames), "")
    tags = ", ".join(f"{name} {value}" for name, value in item.tags.items())
    shown = references(item) + strip(item, rows) + (plot(curves) if curves is not None else "")
    return (
        f'<section class="case"><div class="head"><h3>{escape(item.id)}</h3>'
        f'<span><span class="faint small">{escape(metric)}</span> <b>{number(value or 0.0)}</b></span></div>'
        f'<p class="prompt">{escape(item.prompt)}</p>'
        f'<p class="faint small">{escape("; ".join(filter(None, (tags, size))))}</p>'
        f'<div class="show">{shown}</div><dl>{_values(rows)}</dl></section>'
    )


def _values(rows: Sequence[Row]) -> str:
    """Every number of a video by metric, and what was said of a metric without one."""
    told = []
    for row in rows:
        name = f"{row.metric} · {row.protocol}" if row.protocol else row.metric
        given = [
            f"{'' if value_name == row.metric else f'{value_name} '}{number(value)}"
            for value_name, value in row.values.items()
            if value is not None
        ]
        said = "; ".join(filter(None, [", ".join(given), row.reason]))
        told.append(f"<div><dt>{escape(name)}</dt><dd>{escape(said)}</dd></div>")
    return "".join(told)


def _videos(report: Report, rows: Mapping[str, Sequence[Row]], worst: Sequence[str]) -> str:
    """Every video of the benchmark, those without a number first, then the worst first."""
    columns = list(dict.fromkeys((row.metric, name) for row in report.rows for name in row.values))
    protocols = {row.metric: row.protocol for row in report.rows}
    head = '<th>video</th><th class="words">status</th>' + "".join(
        column_head(value, report.directions[metric].get(value, ""), metric, protocols[metric])
        for metric, value in columns
    )
    known = set(worst)
    drawn = []
    for id in [*(id for id in report.items if id not in known), *worst]:
        values = {(row.metric, name): value for row in rows[id] for name, value in row.values.items()}
        given = [values.get(column) for column in columns]
        cells = "".join(f"<td>{'–' if value is None else number(value)}</td>" for value in given)
        drawn.append(f'<tr><td>{escape(id)}</td><td class="words">{_status(rows[id])}</td>{cells}</tr>')
    return f"<h2>Every video</h2>{scrolled(head, drawn)}"


def _status(rows: Sequence[Row]) -> str:
    """What became of a video, in short, with the reasons to read where one points at it."""
    if not rows:
        return '<span class="bad">not measured yet</span>'
    wrong = list(dict.fromkeys(row.status for row in rows if row.status != "ok"))
    reasons = "; ".join(dict.fromkeys(row.reason for row in rows if row.reason and row.status != "ok"))
    if not wrong:
        return "ok"
    partly = "partly " if any(row.status == "ok" for row in rows) else ""
    return f'<span class="bad">{escape(partly + ", ".join(wrong))}</span><small>{escape(reasons)}</small>'


def _how(report: Report) -> str:
    """Under which protocol and with which weights each metric was computed, and what it took."""
    seen: dict[tuple[str, str, str], list[float]] = {}
    for row in report.rows:
        if row.num_frames:
            seen.setdefault((row.metric, row.protocol, row.weights), []).append(row.seconds)
    if not seen:
        return ""
    drawn = [
        f'<tr><td>{escape(metric)}</td><td class="words">{escape(protocol)}</td><td class="words">{escape(weights) or "none"}</td>'
        f"<td>{sum(seconds) / len(seconds):.2f}</td></tr>"
        for (metric, protocol, weights), seconds in seen.items()
    ]
    head = (
        '<th>metric</th><th class="words">protocol</th><th class="words">weights (SHA-256)</th><th>seconds a video</th>'
    )
    return f"<h2>How it was measured</h2>{scrolled(head, drawn)}"
