"""The page of a comparison: runs as rows of one table, and the videos in which they differ most, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from likeness.evaluate.compare import Compared, Comparison, Paired
from likeness.evaluate.pages import page
from likeness.evaluate.record import Report, Row
from likeness.evaluate.report import column_head, interval, number, ordered_by, scrolled
from likeness.evaluate.strips import curves_of, plot, references, strip
from likeness.media import atomic_write

NUM_CASES = 6  # of each kind, with pictures of every run


def write_comparison(comparison: Comparison, reports: Sequence[Report], path: Path) -> None:
    """Writes the page.

    Args:
        comparison: of the reports.
        path: the .html file.

    Raises:
        UserError: the file cannot be written.
    """
    title = " and ".join(comparison.names)
    told = f"{comparison.num_shared} rows are in every run"
    if comparison.num_unshared:
        told += f", {comparison.num_unshared} are not and were left out"
    parts = [f"<h1>{escape(title)}</h1>", f"<p>{told}.</p>"]
    parts += [
        f'<p class="faint small">{escape(metric)} is left out: only {escape(", ".join(having))} has it.</p>'
        for metric, having in comparison.left_out.items()
    ]
    parts += [_table(comparison), _cases(comparison.names, reports)]
    text = page("report", {"title": escape(title), "body": "\n".join(parts)})
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _table(comparison: Comparison) -> str:
    if not comparison.lines:
        return "<p>There is no number that every run has.</p>"
    head = "<th>run</th>" + "".join(
        column_head(line.value, line.direction, line.metric, line.protocol) for line in comparison.lines
    )
    rows = [
        f"<tr><td>{escape(name)}</td>{''.join(_cell(line, place) for line in comparison.lines)}</tr>"
        for place, name in enumerate(comparison.names)
    ]
    first = escape(comparison.names[0])
    note = (
        f'<p class="faint small">Means over the rows that all runs have, with 95 % intervals over identities. Below them, against '
        f"{first}: the mean difference of a pair of videos, coloured where its interval leaves 0 out, and the share of pairs in "
        "which the run is better (ties count half).</p>"
    )
    return f"<h2>Means</h2>{scrolled(head, rows)}{note}"


def _cell(line: Compared, place: int) -> str:
    against = _against(line, line.against_first[place - 1]) if place else ""
    return f"<td>{interval(line.means[place])}{against}</td>"


def _against(line: Compared, paired: Paired) -> str:
    difference = paired.difference
    told = f"{difference.mean:+.3f}"
    if difference.low is not None and difference.high is not None:
        told += f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    kind = "good" if paired.verdict == line.direction else "bad"
    colour = f' class="{kind}"' if paired.verdict and line.direction else ""
    wins = "" if paired.win_rate is None else f"<small>better in {paired.win_rate.mean:.0%}</small>"
    return f"<small><span{colour}>{told}</span></small>{wins}"


def _cases(names: Sequence[str], reports: Sequence[Report]) -> str:
    """Rows in which the second run loses or gains most against the first."""
    rows = [_by_id(report) for report in reports]
    gains: dict[str, float] = {}
    for id, item in reports[0].items.items():
        if all(id in of_run for of_run in rows):
            (metric, first), (other_metric, second) = (ordered_by(item, of_run[id]) for of_run in rows[:2])
            if first is not None and second is not None and metric == other_metric:
                gains[id] = second - first
    ordered = sorted(gains, key=lambda id: gains[id])
    lost = [id for id in ordered if gains[id] < 0][:NUM_CASES]
    won = [id for id in reversed(ordered) if gains[id] > 0][:NUM_CASES]
    shown = []
    for title, ids in ((f"Where {names[1]} loses most", lost), (f"Where {names[1]} gains most", won)):
        if ids:
            shown.append(f"<h2>{escape(title)}</h2>")
            shown += [_case(id, gains[id], names, reports, rows) for id in ids]
    return "\n".join(shown)


def _case(
    id: str, gain: float, names: Sequence[str], reports: Sequence[Report], rows: Sequence[dict[str, list[Row]]]
) -> str:
    item = reports[0].items[id]
    parts = []
    for name, report, of_run in zip(names, reports, rows, strict=True):
        curves = curves_of(of_run[id])
        metric, value = ordered_by(item, of_run[id])
        said = f"{metric} {number(value)}" if value is not None else "no number"
        drawn = strip(report.items[id], of_run[id]) + (plot(curves) if curves is not None else "")
        parts.append(
            f'<p class="small"><b>{escape(name)}</b> <span class="faint">{escape(said)}</span></p><div class="show">{drawn}</div>'
        )
    return (
        f'<section class="case"><div class="head"><h3>{escape(id)}</h3><b>{gain:+.3f}</b></div>'
        f'<p class="prompt">{escape(item.prompt)}</p><div class="show">{references(item)}<div>{"".join(parts)}</div></div></section>'
    )


def _by_id(report: Report) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in report.rows:
        found.setdefault(row.id, []).append(row)
    return found
