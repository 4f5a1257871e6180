"""What each run of a tiny model changed: `python -m likeness.recipes.stages MODEL --runs RUNS --page PAGE`.

Each run's model (see `likeness.recipes.family`) is measured as the ablations' rows are, on the same people, prompts and noise; with
`--start`, the model that the first of them started from as well. A run is measured once, runs side by side.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from likeness.recipes.ablation_figures import Measurement
from likeness.recipes.family import MODELS
from likeness.recipes.pages import Figures, measured, table, write_between

_MARKS = ("<!-- stages: made by likeness.recipes.stages -->", "<!-- end of stages -->")


def figures_of(model: str, file: Path, people: int, second_recogniser: Path | None, with_reference: bool) -> Figures:
    """Figures of a model, read back from the file if it is there; see :class:`Measurement`."""
    torch.set_num_threads(1)
    return measured(file, lambda: Measurement(people, second_recogniser).of(model, None, with_reference=with_reference))


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=[name for name in MODELS if name != "two"], help="as in recipes.family")
    parser.add_argument("--runs", type=Path, required=True, help="--output of recipes.family")
    parser.add_argument("--start", help="model that the first run started from")
    parser.add_argument("--people", type=int, default=100, help="to measure on")
    parser.add_argument("--second-recogniser", type=Path, help="as in recipes.ablation")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--page", type=Path, help="Markdown file whose table is replaced")
    arguments = parser.parse_args()
    models = (
        {} if arguments.start is None else {"before": (arguments.start, arguments.runs / "start.figures.json", True)}
    )
    for step in MODELS[arguments.model]:
        if (folder := arguments.runs / step.run / "model").is_dir():
            models[step.label] = (str(folder), arguments.runs / f"{step.run}.figures.json", step.run != "base")
    if not models:
        parser.error(
            f"{arguments.runs} has no finished run of {arguments.model}; make one with likeness.recipes.family"
        )
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        jobs = {
            label: pool.submit(figures_of, model, file, arguments.people, arguments.second_recogniser, with_reference)
            for label, (model, file, with_reference) in models.items()
        }
        lines = table({label: job.result() for label, job in jobs.items()})
    text = (
        "\n".join([*lines, "", f"{arguments.people} people, a prompt each; means with 95 % intervals over people."])
        + "\n"
    )
    print(text)
    if arguments.page:
        write_between(arguments.page, _MARKS, text)


if __name__ == "__main__":
    main()
