"""How every command ends: one line for a mistake, never a traceback, and an exit code that says whose mistake it was.

| exit code | meaning                                                                                     |
|-----------|---------------------------------------------------------------------------------------------|
| 0         | done                                                                                        |
| 1         | a fault of the program; `LIKENESS_DEBUG=1` shows the traceback                              |
| 2         | a mistake of the user's, or one of several videos failed                                    |
| 130       | interrupted with Ctrl-C; what was finished is kept                                          |
"""

import errno
import os
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from likeness.errors import UserError

DEBUG_VARIABLE = "LIKENESS_DEBUG"


def print_line(kind: str, message: str) -> None:
    """`kind: message` as exactly one line on stderr; unwrapped, so that it can be searched for and piped."""
    typer.echo(f"{kind}: {' '.join(str(message).split())}", err=True)


class Group(TyperGroup):
    """A command group that turns errors into one line and an exit code."""

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        try:
            code = super().main(*args, standalone_mode=False, **kwargs)
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
                raise
            _fail(error)
        sys.exit(code if isinstance(code, int) else 0)


class RunGroup(TyperGroup):
    """A command group whose command `run` is meant where none is named: `curate clips/` is `curate run clips/`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


def _fail(error: Exception) -> NoReturn:
    if isinstance(error, UserError):
        print_line("error", str(error))
        sys.exit(2)
    if isinstance(error, typer.TyperException):
        _fail_usage(error)
    if isinstance(error, typer.Abort):
        print_line("error", "given up")
        sys.exit(1)
    if isinstance(error, OSError) and error.filename is not None:
        reason = "the disk is full; free some space" if error.errno == errno.ENOSPC else error.strerror
        print_line("error", f"{error.filename}: {reason}")
        sys.exit(2)
    print_line(
        "error",
        f"unexpected {type(error).__name__}: {error}; this is a fault of the program, {DEBUG_VARIABLE}=1 shows where",
    )
    sys.exit(1)


def _fail_usage(error: typer.TyperException) -> NoReturn:
    """A wrong option or command. Without any arguments the help has been asked for, which Typer carries as an error as well."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.exit(2)
    command = context.command_path if context is not None else "likeness"
    print_line("error", f"{error.format_message().rstrip('.')}; see {command} --help")
    sys.exit(2)
