"""A model of the tiny family, made from nothing by one command: `python -m likeness.recipes.family MODEL --output RUNS`.

| MODEL | its runs, each from the one before |
|---|---|
| `concat-id` | text to video; stage I, pre-training pairs; stage II, cross-video pairs; stage III, trade-off pairs |
| `st-drc` | text to video; ST-DRC on pre-training pairs, then on cross-video pairs |
| `two` | text to video; stage I of one person; stages I and II of two (Concat-ID, appendix B.1) |

Pairs are drawn, a store is filled, and every run goes through `likeness.train`. What is there already is kept, so runs are shared between
the models and a command that was stopped goes on. The last run's `model/` is the model.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from likeness.recipes.runs import Material, launch, prepare
from likeness.recipes.training import recipe
from likeness.train.config import TrainConfig


@dataclass(frozen=True)
class Step:
    """A run: its name, its recipe, the list of pairs that it sees, and whether these show two people."""

    run: str
    recipe: str
    pairs: str
    two: bool = False


_BASE = Step("base", "tiny-base", "pretraining")
_STAGE1 = Step("stage1", "tiny-concat-id-stage1", "pretraining")
MODELS: dict[str, tuple[Step, ...]] = {
    "concat-id": (
        _BASE,
        _STAGE1,
        Step("stage2", "tiny-concat-id-stage2", "cross"),
        Step("stage3", "tiny-concat-id-stage3", "tradeoff"),
    ),
    "st-drc": (_BASE, Step("st-drc1", "tiny-st-drc", "pretraining"), Step("st-drc2", "tiny-st-drc", "cross")),
    "two": (
        _BASE,
        _STAGE1,
        Step("two1", "tiny-two", "pretraining", two=True),
        Step("two2", "tiny-two", "cross", two=True),
    ),
}


def configs_of(model: str, runs: Path, material: Material, scale: float, seed: int) -> list[tuple[str, TrainConfig]]:
    """Name and configuration of each run of a model, in their order.

    Args:
        model: key of :data:`MODELS`.
        runs: folder of the runs.
        material: see there.
        scale: times the steps of the recipes.
        seed: of order, noise and dropout.
    """
    found: list[tuple[str, TrainConfig]] = []
    start = material.base
    for step in MODELS[model]:
        config = recipe(step.recipe)
        folder = material.pairs_two if step.two else material.pairs
        config = replace(
            config,
            model=str(start),
            data=replace(config.data, pairs=(str(folder / f"{step.pairs}.json"),), store=str(material.store)),
            steps=max(1, round(config.steps * scale)),
            seed=seed,
        )
        found.append((step.run, config))
        start = runs / step.run / "model"
    return found


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=tuple(MODELS))
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs, shared by the models")
    parser.add_argument("--people", type=int, default=6000, help="to draw")
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps of the recipes")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="faster; needs a C++ compiler")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    material = Material.below(arguments.output)
    prepare(
        material, people=arguments.people, processes=arguments.processes, seed=arguments.seed,
        together=arguments.model == "two",
    )  # fmt: skip
    for run, config in configs_of(arguments.model, arguments.output, material, arguments.scale, arguments.seed):
        print(f"training {run}: {config.steps} steps", flush=True)
        launch(config, arguments.output / run, processes=arguments.processes, compiled=arguments.compile)
    print(arguments.output / MODELS[arguments.model][-1].run / "model")


if __name__ == "__main__":
    main()
