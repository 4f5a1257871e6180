"""The tiny model's card: `python -m likeness.recipes.card --figures FIGURES.json --recipe RECIPE.md --output README.md`.

The figures are those that likeness.recipes.measure wrote; the recipe is prose about how these very weights were made.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from likeness.media import atomic_write


def _cell(value: object) -> str:
    if isinstance(value, list):
        mean, low, high = value
        return f"{mean:.3f} [{low:.3f}, {high:.3f}]" if abs(mean) < 10 else f"{mean:.2f} [{low:.2f}, {high:.2f}]"
    return str(value)


HEAD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-video
trained_on: drawn people
---
"""


def tables(figures: dict) -> str:
    """Markdown tables of nested figures: one section a dictionary."""
    plain = {name: value for name, value in figures.items() if not isinstance(value, dict)}
    lines = ["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in plain.items()), ""]
    for title, rows in figures.items():
        if isinstance(rows, dict):
            lines += [f"| {title} | mean [95 % interval over people] |", "|---|---|"]
            lines += [*(f"| {name} | {_cell(value)} |" for name, value in rows.items()), ""]
    return "\n".join(lines)


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    figures = json.loads(arguments.figures.read_text(encoding="utf-8"))
    with atomic_write(arguments.output) as temporary:
        temporary.write_text(
            HEAD + arguments.recipe.read_text(encoding="utf-8") + "\n" + tables(figures), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
