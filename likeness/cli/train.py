"""`likeness train`: pairs in, a model out."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from likeness.train.config import TrainConfig


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or a config.json of an earlier run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; one that was stopped goes on.")],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Pairs: Concat-ID's JSON, JSONL, Parquet or a folder; repeat for more."),
    ] = None,
    store: Annotated[str | None, typer.Option(help="Folder that `likeness precompute` filled.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to start from, in place of the recipe's.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A value of the configuration, e.g. steps=100; repeat for more. See --show."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="CPU processes that share the batch.")] = 1,
    show: Annotated[bool, typer.Option("--show", help="Print the configuration and stop.")] = False,
) -> None:
    """Train a model. With several devices: `accelerate launch -m likeness train ...`."""
    import json

    from likeness.recipes.training import recipe as recipe_of
    from likeness.train.config import read_config

    config = read_config(Path(recipe)) if recipe.endswith(".json") else recipe_of(recipe)
    given = [f"data.pairs={json.dumps(data)}"] if data else []
    given += [f"data.store={json.dumps(store)}"] if store else []
    given += [f"model={json.dumps(model)}"] if model else []
    config = config.override([*given, *(settings or [])])
    if show:
        typer.echo(json.dumps(config.to_dict(), indent=2))
        return
    rank = int(
        os.environ.get("RANK", "0")
    )  # of torchrun or accelerate launch; each of their processes is a whole command
    if processes == 1:
        _run(config, output, quiet=rank > 0)
    else:
        from likeness.train.parallel import run_parallel

        run_parallel(_share, processes, config, output)
    if rank == 0:
        typer.echo(output / "model")


def _share(rank: int, processes: int, config: TrainConfig, output: Path) -> None:
    """One of several processes; the first one to exit ends the others, so the main one speaks first."""
    import time

    from likeness.cli._group import print_line
    from likeness.errors import UserError

    os.environ["ACCELERATE_USE_CPU"] = "true"
    try:
        _run(config, output, quiet=rank > 0)
    except (UserError, typer.Exit) as error:
        if rank > 0:
            time.sleep(2)
        if isinstance(error, UserError):
            print_line("error", str(error))
        sys.exit(2 if isinstance(error, UserError) else error.exit_code)


def _run(config: TrainConfig, output: Path, *, quiet: bool = False) -> None:
    from likeness.cli._group import print_line
    from likeness.cli._progress import Bar
    from likeness.generate.studio import quieten_libraries
    from likeness.train.run import Stopped, Trainer

    quieten_libraries()
    # Wan's norms keep their weights in float32 under autocast, as they should.
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
    with Bar("training", quiet=quiet) as bar:

        def on_step(step: int, steps: int, values: Mapping[str, float]) -> None:
            bar.update(step, steps, text=f"training  loss {values['loss']:.4f}")
            # A log file wants a line now and then instead of a bar.
            if not quiet and not bar.is_shown and step % max(1, steps // 20) == 0:
                print_line("training", f"step {step} of {steps}, loss {values['loss']:.4f}")

        try:
            Trainer(config, output, on_step).run()
        except Stopped as stopped:
            if not quiet:
                with bar.aside():
                    print_line("stopped", str(stopped))
            raise typer.Exit(130) from stopped
