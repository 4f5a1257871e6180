"""Figures that are measured once, and tables of them in pages whose prose is written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from likeness.media import atomic_write

Figures = dict[str, list[float]]  # name: [mean, low, high]


def measured(file: Path, measure: Callable[[], Figures]) -> Figures:
    """Figures from a file, or measured and written there."""
    if not file.exists():
        values = measure()
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def table(rows: Mapping[str, Figures]) -> list[str]:
    """Lines of a Markdown table, a row a label, with the columns of the last row."""
    names = list(list(rows.values())[-1])
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    return lines + [
        f"| {label} | {' | '.join(_cell(values.get(name)) for name in names)} |" for label, values in rows.items()
    ]


def write_between(path: Path, marks: tuple[str, str], text: str) -> None:
    """Replace what lies between a page's two marks; the prose around them is written by hand. A page without them gets them at its end."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    head, found, rest = before.partition(marks[0])
    tail = rest.partition(marks[1])[2] if found else "\n"
    with atomic_write(path) as temporary:
        temporary.write_text(f"{head}{marks[0]}\n{text}{marks[1]}{tail}", encoding="utf-8")


def _cell(value: list[float] | None) -> str:
    return "" if value is None else f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
