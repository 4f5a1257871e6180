"""The report of a dataset: its tables in, one HTML page out.

The tables are read by whole columns; pictures are fetched for the few clips and faces that are shown.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from likeness.curate.config import CurationConfig
from likeness.curate.leak_table import is_outdated
from likeness.curate.record import Dataset, read_table
from likeness.curate.report_choice import Verdicts, evenly, nearest, spread
from likeness.curate.report_page import Failure, Gallery, Histogram, Page, Picture, Step, number, render
from likeness.curate.report_pairs import ChosenPairs, choose_pairs, shrunk
from likeness.curate.rules import LEAK, NOT_IN_TOP, QUALITY, REASONS, RULES, is_of_pairs
from likeness.curate.tables import measures_of
from likeness.curate.tradeoff import TRADEOFF
from likeness.curate.verdicts import CLIPS
from likeness.media import atomic_write

REPORT = "report.html"
_SHOWN, _SHOWN_KEPT, _SHOWN_LIMIT = 6, 12, 4  # pictures of a reason, of what is kept, and on each side of a limit
_SHOWN_FAILURES = 200
_LINE = 160  # characters of a caption
_FAILED = ("crash", "timeout", "error")  # in the order of how much they want to be looked at

_OUT = "not in trade-off pairs: "

Choice = tuple[str, str, np.ndarray]  # a heading, a note, and rows of clips

# What each rule's number is called, its unit, and the end of its scale; None: as far as the values go.
_MEASURED: dict[str, tuple[str, str, float | None]] = {
    "no person in caption": ("words in the caption that name a person", "", None),
    "too long": ("samples of a clip", "", None),
    "too short": ("duration", "s", None),
    "corrupt": ("samples that are damaged or missing", "%", 1.0),
    "no face": ("people in most samples", "", None),
    "people count varies": ("samples with another number of people than most", "%", 1.0),
    "too many people": ("people in most samples", "", None),
    "identity varies": ("cosines below the limit, of the person with most", "%", 1.0),
    "identity changes": ("best cosine across a moment, where it is least", "", 1.0),
    "face too small": ("share of the frame that faces cover", "%", 1.0),
    "face too large": ("share of the frame that faces cover", "%", 1.0),
    NOT_IN_TOP: ("score that ranks clips", "", None),
    LEAK: ("cosine to a face of a benchmark", "", 1.0),
}
_SETTING = {rule.reason: rule.setting for rule in RULES} | {NOT_IN_TOP: "ranking.top", LEAK: "pairing.leak"}
_SECTION = {rule.reason: rule.section for rule in RULES} | {NOT_IN_TOP: "4.2", LEAK: "A.1"}
_KEEPS = {rule.reason: rule.keeps for rule in RULES} | {NOT_IN_TOP: "at least", LEAK: "at most"}


@dataclass(frozen=True, eq=False)
class _Tables:
    """The tables of a dataset, and what a column of them is asked for again and again."""

    dataset: Dataset
    clips: pa.Table
    verdicts: Verdicts
    quality: Verdicts  # about trade-off pairs, of the clips that are kept; a status is empty for the others
    cosines: np.ndarray  # float64, of all clips
    has_faces: bool
    paths: list[str]
    captions: list[str | None]


def write_report(folder: Path) -> Path:
    """Write ``report.html`` of a dataset and return its path.

    Raises:
        UserError: there is no dataset, it was not decided yet, or the disk is full.
        CheckpointError: a table of it is damaged.
    """
    dataset = Dataset.open(folder)
    path = dataset.folder / REPORT
    html = render(_page(_read(dataset)))
    with atomic_write(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _read(dataset: Dataset) -> _Tables:
    clips = read_table(dataset.folder / CLIPS)
    captions = clips.column("caption").to_pylist()
    values, cosines = _values(clips, captions, dataset.config)
    limits = {rule.reason: float(rule.limit(dataset.config)) for rule in RULES}
    values[NOT_IN_TOP] = clips.column("score").to_numpy()
    reason = np.array(clips.column("reason").to_pylist(), object)
    tradeoff, ranked = _tradeoff(dataset, clips)
    worse = np.concatenate([clips.column("threshold").to_numpy()[reason == NOT_IN_TOP], ranked])
    if len(worse):
        limits[NOT_IN_TOP] = float(worse[0])
    is_leak = reason == LEAK
    values[LEAK] = np.where(is_leak, clips.column("value").to_numpy(), np.nan)
    if is_leak.any():
        limits[LEAK] = dataset.config.pairing.leak
    status = np.array(clips.column("status").to_pylist(), object)
    fit = np.array(["" if reason is None else "dropped" if reason else "ok" for reason in tradeoff], object)
    return _Tables(
        dataset=dataset,
        clips=clips,
        verdicts=Verdicts(status=status, reason=reason, values=values, limits=limits),
        quality=Verdicts(status=fit, reason=tradeoff, values=values, limits=limits),
        cosines=cosines,
        has_faces=bool(np.nanmax(values["no face"], initial=0.0)),
        paths=clips.column("path").to_pylist(),
        captions=captions,
    )


def _tradeoff(dataset: Dataset, clips: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Why each clip is in no trade-off pair: None for one that is dropped, empty for one that may be in some; and the limits of
    the ranking that kept some out."""
    reasons = np.array(clips.column("tradeoff").to_pylist(), object)
    path = dataset.folder / "pairs" / f"{TRADEOFF}.parquet"
    if not path.exists():
        return reasons, np.zeros(0)
    pairs = read_table(path, ["clip", "reason", "threshold"])
    worse = np.array([reason == NOT_IN_TOP for reason in pairs.column("reason").to_pylist()], bool)
    reasons[pairs.column("clip").to_numpy()[worse]] = NOT_IN_TOP
    return reasons, pairs.column("threshold").to_numpy()[worse]


def _values(
    clips: pa.Table, captions: Sequence[str | None], config: CurationConfig
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What each rule compares, for every clip, and all cosines."""
    values = {rule.reason: np.full(len(clips), np.nan) for rule in RULES}
    cosines: list[float] = []
    for row, measures in enumerate(measures_of(clips)):
        if measures is None:
            continue
        cosines += [cosine for track in measures.cosines for cosine in track]
        for rule in RULES:
            value = rule.value(measures, captions[row], config)
            values[rule.reason][row] = np.nan if value is None else value
    return values, np.array(cosines)


def _page(tables: _Tables) -> Page:
    dataset, verdicts = tables.dataset, tables.verdicts
    reasons, limits = _by_reason(tables), _by_limit(tables)
    pairs = choose_pairs(dataset.folder)
    failures = np.flatnonzero(np.isin(verdicts.status, _FAILED))
    failures = failures[np.argsort([_FAILED.index(s) for s in verdicts.status[failures]], kind="stable")]
    wanted = {int(row) for _, _, rows in (*reasons, *limits) for row in rows} | pairs.clips
    jpegs = _thumbnails(tables, wanted)
    return Page(
        title=f"Curation of {dataset.folder.name}",
        subtitle=f"{len(tables.clips):,} clips; face models in {dataset.faces}",
        num_clips=len(tables.clips),
        totals=_totals(verdicts, pairs),
        notes=_notes(tables),
        funnel=_funnel(tables),
        histograms=_histograms(tables),
        reasons=_galleries(tables, reasons, jpegs),
        boundaries=_galleries(tables, limits, jpegs),
        tradeoff=_tradeoff_steps(tables, pairs),
        bands=pairs.bands(jpegs),
        failures=tuple(_failure(tables, int(row)) for row in failures[:_SHOWN_FAILURES]),
        num_failures=len(failures),
        settings=json.dumps({"config": dataset.config.to_dict(), "models": dict(dataset.basis.models)}, indent=2),
    )


def _totals(verdicts: Verdicts, pairs: ChosenPairs) -> tuple[tuple[str, int], ...]:
    statuses = Counter(verdicts.status)
    failed = sum(statuses[status] for status in _FAILED)
    clips = (("clips", len(verdicts.status)), ("kept", statuses["ok"]), ("dropped", statuses["dropped"]))
    return (*clips, ("failed", failed), *((f"{kind} pairs", count) for kind, count in pairs.counts.items()))


def _notes(tables: _Tables) -> tuple[str, ...]:
    uncaptioned = sum(caption is None for caption in tables.captions)
    notes = []
    if uncaptioned:
        notes.append(f"Clips without a caption: {uncaptioned:,}. The rule about captions does not apply to them.")
    if tables.has_faces and not len(tables.cosines):
        notes.append(
            "The face models have no recogniser, or no face was seen twice: whether a clip shows the same person throughout was not "
            "checked, and there are no pairs between clips."
        )
    if tables.dataset.config.measuring.aesthetics is None:
        notes.append(
            "There is no aesthetics model (measuring.aesthetics): clips are ranked by optical flow and motion."
        )
    if is_outdated(tables.dataset):
        notes.append(
            "Other clips are kept than those that were compared with a benchmark; run `likeness curate leaks` again."
        )
    return tuple(notes)


def _funnel(tables: _Tables) -> tuple[Step, ...]:
    """The rules in their order, then failures by size, then what is kept."""
    counts = Counter(zip(tables.verdicts.status, tables.verdicts.reason, strict=True))
    order = {("dropped", reason): number for number, reason in enumerate(REASONS)}
    steps = sorted(
        (pair for pair in counts if pair[0] != "ok"),
        key=lambda pair: (order.get(pair, len(order)), -counts[pair], pair),
    )
    return (
        *(
            Step(status=s, reason=r, count=counts[s, r], rule=_rule_told(tables, r) if s == "dropped" else s)
            for s, r in steps
        ),
        Step(status="ok", reason="", count=counts["ok", ""]),
    )


def _tradeoff_steps(tables: _Tables, pairs: ChosenPairs) -> tuple[Step, ...]:
    if not is_of_pairs(tables.dataset.config) or not (pairs.left_out or pairs.counts.get(TRADEOFF)):
        return ()
    reasons = sorted(pairs.left_out, key=REASONS.index)
    out = (Step(status="dropped", reason=r, count=pairs.left_out[r], rule=_rule_told(tables, r)) for r in reasons)
    return (*out, Step(status="ok", reason="", count=pairs.counts[TRADEOFF]))


def _rule_told(tables: _Tables, reason: str) -> str:
    """A rule as a sentence: what is compared, with what, and where that is from."""
    name, unit, _ = _MEASURED[reason]
    source = ", ".join(filter(None, (_SETTING[reason], _SECTION[reason] and f"section {_SECTION[reason]}")))
    return f"{name}: {_KEEPS[reason]} {number(tables.verdicts.limits[reason], unit)}" + (
        f" ({source})" if source else ""
    )


# ------------------------------------------------------------------------------------------------------ histograms


def _histograms(tables: _Tables) -> tuple[Histogram, ...]:
    config, clips = tables.dataset.config, tables.clips
    charts: dict[str, Histogram] = {}
    for rule in RULES:
        if not rule.setting:
            continue
        name, unit, high = _MEASURED[rule.reason]
        # Limits on both sides of one measure share a picture, unless it is another person's on each side.
        title = name if config.thresholds.area_of == "everybody" else f"{name}: {rule.reason}"
        limits = ((tables.verdicts.limits[rule.reason], rule.keeps),)
        if title in charts:
            limits = (*charts[title].limits, *limits)
        charts[title] = _histogram(title, tables.verdicts.values[rule.reason], unit, high, limits)
    cosines = ((config.thresholds.min_cosine, "at least"),)
    charts["cosines"] = _histogram(
        "cosine of a face and the next one", tables.cosines, "", 1.0, cosines, note="comparisons"
    )
    for column, title, unit in (
        ("flow", "optical flow, heights a second", ""),
        ("motion", "motion score", ""),
        ("aesthetics", "aesthetics score", ""),
    ):
        charts[column] = _histogram(title, clips.column(column).to_numpy(), unit, None, ())
    ranked = tables.verdicts.limits.get(NOT_IN_TOP)
    limits = () if ranked is None else ((ranked, "at least"),)
    charts[NOT_IN_TOP] = _histogram(_MEASURED[NOT_IN_TOP][0], tables.verdicts.values[NOT_IN_TOP], "", None, limits)
    return tuple(chart for chart in charts.values() if sum(chart.counts))


def _histogram(
    title: str,
    values: np.ndarray,
    unit: str,
    high: float | None,
    limits: tuple[tuple[float, str], ...],
    note: str = "clips",
) -> Histogram:
    counts, low, top = spread(values, high, [value for value, _ in limits])
    return Histogram(title=title, counts=counts, low=low, high=top, limits=limits, unit=unit, note=note)


# --------------------------------------------------------------------------------------------------------- clips


def _by_reason(tables: _Tables) -> list[Choice]:
    choices = []
    for step in _funnel(tables):
        rows = np.flatnonzero((tables.verdicts.status == step.status) & (tables.verdicts.reason == step.reason))
        kept = step.status == "ok"
        if len(rows) and step.status not in _FAILED:  # of those there is no picture; they are listed apart
            clips = f"{len(rows):,} clip{'s' if len(rows) > 1 else ''}"
            choices.append(("kept" if kept else step.reason, clips, evenly(rows, _SHOWN_KEPT if kept else _SHOWN)))
    for reason in REASONS:
        rows = np.flatnonzero((tables.quality.status == "dropped") & (tables.quality.reason == reason))
        if len(rows):
            choices.append((_OUT + reason, f"{len(rows):,} of the clips that are kept", evenly(rows, _SHOWN)))
    return choices


def _by_limit(tables: _Tables) -> list[Choice]:
    choices = []
    for reason in tables.verdicts.limits:
        if _SETTING[reason]:
            of_pairs = reason in QUALITY and is_of_pairs(tables.dataset.config)
            rows = np.concatenate(nearest(tables.quality if of_pairs else tables.verdicts, reason, _SHOWN_LIMIT))
            if len(rows):
                choices.append((_OUT + reason if of_pairs else reason, _rule_told(tables, reason), rows))
    return choices


def _galleries(tables: _Tables, choices: Sequence[Choice], jpegs: dict[int, bytes]) -> tuple[Gallery, ...]:
    """Galleries with what the rule of the title compares under each picture."""
    return tuple(
        Gallery(
            title=title,
            note=note,
            pictures=tuple(
                _picture(tables, int(row), jpegs, _measured(tables, title.removeprefix(_OUT), int(row))) for row in rows
            ),
        )
        for title, note, rows in choices
    )


def _picture(tables: _Tables, row: int, jpegs: dict[int, bytes], line: str) -> Picture:
    status = tables.verdicts.status[row]
    lines = [line] if line else []
    if out := tables.quality.reason[row]:
        lines.append(_OUT + out)
    if caption := tables.captions[row]:
        lines.append(caption if len(caption) <= _LINE else caption[: _LINE - 1] + "…")
    return Picture(jpeg=jpegs.get(row, b""), name=_name(tables, row), status=status, lines=tuple(lines))


def _measured(tables: _Tables, reason: str, row: int) -> str:
    """What a rule compares, of one clip; empty where it does not apply."""
    value = float(tables.verdicts.values[reason][row]) if reason in tables.verdicts.values else math.nan
    return number(value, _MEASURED[reason][1]) if math.isfinite(value) else ""


def _name(tables: _Tables, row: int) -> str:
    """File name, and the span of a shot."""
    start, end = (tables.clips.column(name)[row].as_py() for name in ("start_s", "end_s"))
    span = "" if not start and end is None else f", {start:.2f} s to {'the end' if end is None else f'{end:.2f} s'}"
    return Path(tables.paths[row]).name + span


def _thumbnails(tables: _Tables, rows: set[int]) -> dict[int, bytes]:
    """JPEGs by the row of the clip."""
    keys = tables.clips.column("key")
    row_of = {keys[row].as_py(): row for row in rows}
    found = {}
    for table in tables.dataset.current().tables(["key", "thumbnail"]):
        for place, key in enumerate(table.column("key").to_pylist()):
            if key in row_of and (jpeg := table.column("thumbnail")[place].as_py()):
                found[row_of[key]] = shrunk(jpeg)
    return found


def _failure(tables: _Tables, row: int) -> Failure:
    key = tables.clips.column("key")[row].as_py()
    detail = tables.clips.column("detail")[row].as_py()
    reason = tables.verdicts.reason[row]
    return Failure(
        name=tables.paths[row],
        status=tables.verdicts.status[row],
        reason=f"{reason}: {detail}" if detail else reason,
        command=f"likeness curate show {shlex.quote(str(tables.dataset.folder))} {key}",
    )
