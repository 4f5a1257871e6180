"""What each run of a tiny model changed: `python -m likeness.recipes.stages MODEL --runs RUNS --page PAGE`.

Each run's model (see `likeness.recipes.family`) is measured as the ablations' rows are, on the same people, prompts and noise; with
`--start`, the model that the first of them started from as well. A run is measured once, runs side by side.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from likeness.media import atomic_write
from likeness.recipes.ablation_figures import Measurement
from likeness.recipes.family import MODELS
from likeness.recipes.pages import table, write_between

_MARKS = ("<!-- stages: made by likeness.recipes.stages -->", "<!-- end of stages -->")
_LABELS = {
    "base": "text to video alone",
    "stage1": "stage I: pre-training pairs",
    "stage2": "stage II: cross-video pairs",
    "stage3": "stage III: trade-off pairs",
    "faces": "a stage for faces: photographs",
    "identity": "the same with identity losses",
    "st-drc": "ST-DRC on pre-training pairs",
}
Figures = dict[str, list[float]]


def measured(model: str, file: Path, people: int, second_recogniser: Path | None, with_reference: bool) -> Figures:
    """Figures of a model, read back from the file if it is there; see :class:`Measurement`."""
    if not file.exists():
        torch.set_num_threads(1)
        values = Measurement(people, second_recogniser).of(model, None, with_reference=with_reference)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


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
    models = {} if arguments.start is None else {"before": (arguments.start, arguments.runs / "start.figures.json")}
    for step in MODELS[arguments.model]:
        if (folder := arguments.runs / step.run / "model").is_dir():
            models[step.run] = (str(folder), arguments.runs / f"{step.run}.figures.json")
    if not models:
        parser.error(
            f"{arguments.runs} has no finished run of {arguments.model}; make one with likeness.recipes.family"
        )
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        jobs = {
            _LABELS.get(run, run): pool.submit(
                measured, model, file, arguments.people, arguments.second_recogniser, run != "base"
            )
            for run, (model, file) in models.items()
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
