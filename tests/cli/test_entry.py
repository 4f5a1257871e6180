"""The command itself: help without heavy imports, version, exit codes, the list of models, running as a module."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from likeness.cli import app


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "likeness", *arguments], capture_output=True, text=True, check=False)


def test_module_and_exit_codes():
    assert run("--help").returncode == 0
    assert run("--version").stdout.startswith("likeness 0.")
    wrong = run("generat")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    assert wrong.stderr.startswith("error: ") and "generat" in wrong.stderr


@pytest.mark.parametrize("command", [(), ("generate",), ("models",), ("world",), ("world", "draw")])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom likeness.cli import app\n"
        f"result = CliRunner().invoke(app, [*{command!r}, '--help'])\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'onnxruntime', 'av'} & set(sys.modules)\n"
        "print(result.exit_code, sorted(heavy), 'Usage' in result.output)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 [] True"


def test_without_arguments_the_help_is_shown():
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2 and "generate" in result.output and "error" not in result.output


def test_models_are_listed_with_their_licence():
    from likeness.backbones.known import MODELS

    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0
    blocks = {block.splitlines()[0].removeprefix("--model "): block for block in result.stdout.split("\n\n")}
    assert set(MODELS) <= set(blocks)
    assert all(model.licence in blocks[name] for name, model in MODELS.items())
    assert "Apache-2.0" in blocks["wan2.1-1.3b"] and "LTX-2 Community License" in blocks["ltx-2.3"]
    assert all(model.repo is None or model.repo in blocks[name] for name, model in MODELS.items())
