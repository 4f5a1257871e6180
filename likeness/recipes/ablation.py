"""The papers' ablations on drawn people: Concat-ID's Table 3 (stages I, II, III) and ST-DRC's Table 1 (its five components).

`make ablation`, or `python -m likeness.recipes.ablation --output RUNS`, draws the pairs, trains every row through `likeness.train`
from one base, measures all of them on people not seen in training, and writes `docs/ablations.md` with its plot. It goes on where it was
stopped. The base is trained first, on text alone; or it is a model that is there already (`--start`), and rows are fine-tunings of it.

A row is a configuration that differs from the row above in one thing. Rows of ST-DRC see pre-training pairs, where a reference can be
copied; those of Concat-ID differ in their pairs alone.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from likeness.backbones.load import resolve_model
from likeness.method import CONCAT_ID, ST_DRC, Augment, Guidance, IdentityLoss, Method
from likeness.recipes.pages import Figures, measured, table, write_between
from likeness.recipes.runs import Material, add_options, launch, prepare
from likeness.recipes.training import TINY_CONCAT_ID, tiny
from likeness.train.config import Previews, TrainConfig

_JOINT = Guidance(kind="joint", text=2.0)
_DECOUPLED = Guidance(kind="decoupled", text=2.0, reference=4.0)
_CONCATENATED = replace(
    ST_DRC, name="concatenated", placement=CONCAT_ID.placement, guidance=_JOINT, augment=None, identity_loss=None
)
_TASS = replace(_CONCATENATED, name="tass", placement=ST_DRC.placement)
_AUGMENTED = replace(_TASS, name="augmented", augment=Augment())
_IDENTITY = replace(_AUGMENTED, name="identity", identity_loss=IdentityLoss())


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        table: "ST-DRC, Table 1" or "Concat-ID, Table 3".
        label: what it adds.
        run: name of its training run.
        method: it is trained and sampled with.
        start: name of the run that it starts from; None for random weights.
        pairs: "pretraining", "cross" or "tradeoff".
        share: of the steps of a whole run.
        reference: False for a row that is sampled without one.
        trained_as: the run whose weights it takes, where it is sampled in another way alone.
    """

    table: str
    label: str
    run: str
    method: Method
    start: str | None
    pairs: str = "pretraining"
    share: float = 1.0
    reference: bool = True
    trained_as: str | None = None


_MARKS = ("<!-- tables: made by likeness.recipes.ablation -->", "<!-- end of tables -->")
_DRC, _CID = "ST-DRC, Table 1", "Concat-ID, Table 3"
BASE = Row(_DRC, "text to video alone", "base", replace(_CONCATENATED, name="base", reference_dropout=1.0), None,
           share=3.0, reference=False)  # fmt: skip
ROWS: tuple[Row, ...] = (
    BASE,
    Row(_DRC, "+ reference concatenation", "concatenated", _CONCATENATED, "base"),
    Row(_DRC, "+ TASS-RoPE", "tass", _TASS, "base"),
    Row(_DRC, "+ reference augmentation", "augmented", _AUGMENTED, "base"),
    Row(_DRC, "+ identity losses", "identity", _IDENTITY, "base"),
    Row(_DRC, "+ decoupled guidance", "decoupled", replace(_IDENTITY, name="decoupled", guidance=_DECOUPLED), "base",
        trained_as="identity"),
    Row(_CID, "the base, given a reference", "given", TINY_CONCAT_ID, None, trained_as="base"),
    Row(_CID, "stage I: pre-training pairs", "stage1", TINY_CONCAT_ID, "base"),
    Row(_CID, "stage II: cross-video pairs", "stage2", TINY_CONCAT_ID, "stage1", pairs="cross"),
    Row(_CID, "stage III: trade-off pairs", "stage3", TINY_CONCAT_ID, "stage2", pairs="tradeoff", share=0.25),
)  # fmt: skip


def config_of(row: Row, runs: Path, material: Material, steps: int, seed: int) -> TrainConfig:
    """The configuration of a row's training.

    Args:
        row: of the table.
        runs: folder of the runs.
        material: see there.
        steps: of a row whose share is 1.
        seed: of order, noise and dropout.
    """
    config = tiny(
        f"ablation-{row.run}", row.method, max(1, round(steps * row.share)), 2e-3 if row.start is None else 1e-3
    )
    return replace(
        config,
        model=str(material.base if row.start is None else runs / row.start / "model"),
        data=replace(config.data, pairs=(str(material.pairs / f"{row.pairs}.json"),), store=str(material.store)),
        previews=Previews(),
        seed=seed,
    )


def train_rows(rows: Sequence[Row], material: Material, arguments: argparse.Namespace) -> None:
    """Train what is not trained yet."""
    if arguments.start is not None and not (base := arguments.output / BASE.run / "model").exists():
        # Written as a whole, as a run leaves it: a killed copy is no base.
        work = base.with_name(".model.tmp")
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(resolve_model(arguments.start), work)
        work.rename(base)
    for row in rows:
        if row.trained_as is None:
            print(f"training {row.label}", flush=True)
            config = config_of(row, arguments.output, material, arguments.steps, arguments.seed)
            launch(config, arguments.output / row.run, processes=arguments.processes, compiled=arguments.compile)


def measure_rows(rows: Sequence[Row], arguments: argparse.Namespace) -> dict[str, Figures]:
    """The figures of every row; what was measured before is read back."""
    from likeness.recipes.ablation_figures import Measurement

    measurement: Measurement | None = None

    def measure(row: Row) -> Figures:
        nonlocal measurement
        measurement = measurement or Measurement(arguments.people, arguments.second_recogniser)
        print(f"measuring {row.label}", flush=True)
        model = arguments.output / (row.trained_as or row.run) / "model"
        return measurement.of(model, row.method, with_reference=row.reference)

    return {
        row.run: measured(arguments.output / f"{row.run}.figures.json", lambda row=row: measure(row)) for row in rows
    }


def page(rows: Sequence[Row], figures: dict[str, Figures], arguments: argparse.Namespace) -> str:
    """The tables as Markdown."""
    lines: list[str] = []
    for title in dict.fromkeys(row.table for row in rows):
        chosen = {row.label: figures[row.run] for row in rows if row.table == title}
        lines += [f"### {title}", "", *table(chosen), ""]
    base = (
        "a model that knew references already" if arguments.start else "text to video, trained in three times as many"
    )
    lines.append(
        f"{arguments.steps} steps of 96 pairs a row, a quarter of them for stage III, from {base}; seed "
        f"{arguments.seed}; {arguments.people} people, a prompt each; means with 95 % intervals over people."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_options(parser)
    parser.add_argument(
        "--second-recogniser",
        type=Path,
        help="folder of face models with another recogniser than that of the identity losses",
    )
    parser.add_argument("--train-people", type=int, default=6000)
    parser.add_argument("--people", type=int, default=100, help="to measure on")
    parser.add_argument("--steps", type=int, default=500, help="of a row")
    parser.add_argument("--rows", nargs="+", choices=[row.run for row in ROWS], help="some of the rows")
    parser.add_argument("--page", type=Path, help="Markdown file whose tables are replaced; its plot goes to images/")
    arguments = parser.parse_args()
    material = Material.chosen(arguments)
    prepare(material, people=arguments.train_people, processes=arguments.processes, seed=arguments.seed)
    rows = [row for row in ROWS if arguments.rows is None or row.run in arguments.rows]
    train_rows(rows, material, arguments)
    figures = measure_rows(rows, arguments)
    text = page(rows, figures, arguments)
    print(text)
    if arguments.page:
        from likeness.recipes.ablation_figures import plot

        write_between(arguments.page, _MARKS, text)
        plot(rows, figures, arguments.page.parent / "images" / f"{arguments.page.stem}.png")


if __name__ == "__main__":
    main()
