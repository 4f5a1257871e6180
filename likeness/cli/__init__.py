"""The `likeness` command: one file a command, heavy imports inside the functions so that `--help` is instant."""

from typing import Annotated

import typer

from likeness.cli import compare, convert, curate, evaluate, generate, models, precompute, study, train, world
from likeness.cli._group import Group
from likeness.threads import wait_passively

app = typer.Typer(
    name="likeness",
    cls=Group,
    help="Make videos of a person from a photograph and a prompt.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"likeness {version('likeness')}")
        raise typer.Exit


@app.callback()
def likeness(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make videos of a person from a photograph and a prompt."""


app.command("generate")(generate.generate)
app.command("precompute")(precompute.precompute)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.add_typer(study.app, name="study")
app.command("convert")(convert.convert)
app.command("models")(models.models)
app.add_typer(curate.app, name="curate")
app.add_typer(world.app, name="world")


def main() -> None:
    """Entry point of the `likeness` command."""
    wait_passively()
    app(prog_name="likeness")
