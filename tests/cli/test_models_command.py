"""`likeness models`: everything that has a name, on stdout, in lines of a terminal's width."""

import pytest
from typer.testing import CliRunner

from likeness.backbones.known import MODELS, WEIGHTS
from likeness.cli import app


@pytest.fixture
def listed(monkeypatch, tmp_path):
    """The blocks of the list by their titles, with only the first published file in the Hub's cache."""
    file = tmp_path / WEIGHTS[0].file
    file.write_bytes(bytes(3_000_000))

    def cached(repo: str, name: str) -> str | None:
        return str(file) if (repo, name) == (WEIGHTS[0].repo, WEIGHTS[0].file) else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0 and result.stderr == ""
    assert max(map(len, result.stdout.splitlines())) < 80
    return {block.splitlines()[0]: block for block in result.stdout.split("\n\n")}


def test_models_say_where_they_come_from_and_what_they_can(listed) -> None:
    for name, model in MODELS.items():
        block = listed[f"--model {name}"]
        assert (model.repo or "this package") in block and model.licence in block and model.parameters in block
        assert all(method in block for method in model.methods) and model.methods
    assert "already here" in listed["--model tiny"]
    assert "not here" in listed["--model cogvideox-5b"]


def test_published_weights_are_listed_as_they_are_asked_for(listed) -> None:
    first, second = (listed[f"--model {item.base} --method {item.method}"] for item in WEIGHTS[:2])
    assert "3 MB on disk, already here" in first and WEIGHTS[0].repo in first
    assert "not here" in second and WEIGHTS[1].file in second
