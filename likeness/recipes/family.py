"""A model of the tiny family, made by one command: `python -m likeness.recipes.family MODEL --output RUNS`.

| MODEL | its runs, each from the one before |
|---|---|
| `concat-id` | text to video; stage I, pre-training pairs; stage II, cross-video pairs; stage III, trade-off pairs; two stages of our own for faces |
| `st-drc` | those of `concat-id`; ST-DRC on pre-training pairs |
| `two` | those of `concat-id`; stages I and II of two people as LoRAs (Concat-ID, appendix B.1) |

Pairs are drawn, a store is filled, and every run goes through `likeness.train`. What is there already is kept, so runs are shared between
the models and a command that was stopped goes on. The last run's `model/` is the model. `--start MODEL --after RUN` takes a model that is there for
what that run left; `--export` writes the model as it ships. `RUNS/MODEL.png` has the curves of all its runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from likeness.backbones.load import BASE_KEY, LORA_FILE, METHOD_FILE, folders_of
from likeness.errors import UserError
from likeness.recipes.runs import Material, add_options, launch, prepare
from likeness.recipes.training import recipe
from likeness.train.config import TrainConfig
from likeness.train.curves import draw_curves
from likeness.train.result import CONFIG_FILE


@dataclass(frozen=True)
class Step:
    """A run: its name, its recipe, the list of pairs that it sees, what tables call it, and whether its pairs show two people."""

    run: str
    recipe: str
    pairs: str
    label: str
    two: bool = False


_CONCAT_ID = (
    Step("base", "tiny-base", "pretraining", "text to video alone"),
    Step("stage1", "tiny-concat-id-stage1", "pretraining", "stage I: pre-training pairs"),
    Step("stage2", "tiny-concat-id-stage2", "cross", "stage II: cross-video pairs"),
    Step("stage3", "tiny-concat-id-stage3", "tradeoff", "stage III: trade-off pairs"),
    Step("faces", "tiny-concat-id-faces", "photographs", "a stage for faces: photographs"),
    Step("identity", "tiny-concat-id-identity", "photographs", "the same with identity losses"),
)
MODELS: dict[str, tuple[Step, ...]] = {
    "concat-id": _CONCAT_ID,
    "st-drc": (*_CONCAT_ID, Step("st-drc", "tiny-st-drc", "pretraining", "ST-DRC on pre-training pairs")),
    "two": (
        *_CONCAT_ID,
        Step("two1", "tiny-two", "pretraining", "two people, stage I", two=True),
        Step("two2", "tiny-two", "cross", "two people, stage II", two=True),
    ),
}


def steps_of(model: str, after: str | None = None) -> tuple[Step, ...]:
    """The runs of a model, or those after one of them.

    Raises:
        UserError: where the model has no run ``after``, or nothing after it.
    """
    steps = MODELS[model]
    if after is None:
        return steps
    names = [step.run for step in steps]
    if after not in names[:-1]:
        raise UserError(f"{model} has no run after {after!r}. Choose one of {', '.join(names[:-1])}.")
    return steps[names.index(after) + 1 :]


def configs_of(
    model: str,
    runs: Path,
    material: Material,
    scale: float,
    seed: int,
    start: tuple[str, str] | None = None,
) -> list[tuple[str, TrainConfig]]:
    """Name and configuration of each run of a model, in their order.

    Args:
        model: key of :data:`MODELS`.
        runs: folder of the runs.
        material: see there.
        scale: times the steps of the recipes.
        seed: of order, noise and dropout.
        start: name or folder of a trained model, and the run that it stands for with all before.
    """
    found: list[tuple[str, TrainConfig]] = []
    before, after = (str(material.base), None) if start is None else start
    for step in steps_of(model, after):
        config = recipe(step.recipe)
        folder = material.pairs_two if step.two else material.pairs
        config = replace(
            config,
            model=before,
            data=replace(config.data, pairs=(str(folder / f"{step.pairs}.json"),), store=str(material.store)),
            steps=max(1, round(config.steps * scale)),
            seed=seed,
        )
        found.append((step.run, config))
        before = str(runs / step.run / "model")
    return found


def export(model: Path, folder: Path, base: str | None) -> Path:
    """Write a trained model as it ships: no path of the machine that it was trained on.

    Args:
        model: the ``model/`` of a run.
        folder: to write, or to write into.
        base: known model that has the parts other than the transformer, and whose LoRA it is where it is one; None for a whole
            model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bases = folders_of(model)
    loras = [path / LORA_FILE for path in bases if (path / LORA_FILE).is_file()]
    if base is None:
        shutil.copytree(model, folder, dirs_exist_ok=True)
    elif loras:
        save_file(stacked([load_file(path) for path in loras]), folder / LORA_FILE, metadata={"format": "pt"})
    else:
        shutil.copytree(model / "transformer", folder / "transformer", dirs_exist_ok=True)
    shutil.copyfile(model / METHOD_FILE, folder / METHOD_FILE)
    index = json.loads((model / "model_index.json").read_text(encoding="utf-8"))
    if base is not None:
        kept = {key: value for key, value in index.items() if key.startswith(("_class", "default_"))}
        index = {**kept, BASE_KEY: base}
    config = json.loads((model / CONFIG_FILE).read_text(encoding="utf-8"))
    config["model"] = "/".join(Path(config["model"]).parts[-2:])
    config["data"] |= {"pairs": [Path(path).name for path in config["data"]["pairs"]], "store": None}
    for name, values in (("model_index.json", index), (CONFIG_FILE, config)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return folder


def stacked(loras: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One LoRA for several that were trained one on the other, ``B1 A1 + B2 A2 = [B1 B2] [A1; A2]``."""
    return {
        name: torch.cat([lora[name] for lora in loras], 0 if ".lora_A." in name else 1).contiguous()
        for name in loras[0]
    }


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", choices=tuple(MODELS))
    add_options(parser)
    parser.add_argument("--after", help="run that --start stands for, with all before it")
    parser.add_argument("--pairs-two", type=Path, help="pairs of two people a clip; in the runs' by default")
    parser.add_argument("--export", type=Path, help="folder that gets the model as it ships")
    parser.add_argument("--export-base", help="known model that has its other parts; a whole model by default")
    parser.add_argument("--people", type=int, default=6000, help="to draw")
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps of the recipes")
    arguments = parser.parse_args()
    if (arguments.start is None) != (arguments.after is None):
        parser.error("--start and --after go together: a model, and the run that it stands for")
    start = None if arguments.start is None else (arguments.start, arguments.after)
    material = Material.chosen(arguments)
    try:
        configs = configs_of(arguments.model, arguments.output, material, arguments.scale, arguments.seed, start)
    except UserError as error:
        parser.error(str(error))
    prepare(
        material, people=arguments.people, processes=arguments.processes, seed=arguments.seed,
        together=arguments.model == "two",
    )  # fmt: skip
    for run, config in configs:
        print(f"training {run}: {config.steps} steps", flush=True)
        launch(config, arguments.output / run, processes=arguments.processes, compiled=arguments.compile)
    runs = [arguments.output / run for run, _ in configs]
    draw_curves(runs, arguments.output / f"{arguments.model}.png")
    made = runs[-1] / "model"
    print(made if arguments.export is None else export(made, arguments.export, arguments.export_base))


if __name__ == "__main__":
    main()
