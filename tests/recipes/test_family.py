"""The tiny family's models are chains of runs; what they start from is made once."""

import sys
from pathlib import Path

import pytest

from likeness.recipes import runs
from likeness.recipes.family import MODELS, configs_of
from likeness.recipes.runs import Material
from likeness.recipes.training import recipe


@pytest.mark.parametrize("model", MODELS)
def test_each_run_starts_from_the_one_before(model) -> None:
    found = configs_of(model, Path("runs"), Material.below(Path("made")), scale=0.01, seed=4)
    assert [config.model for _, config in found] == ["made/untrained", *(f"runs/{run}/model" for run, _ in found[:-1])]
    assert all(config.seed == 4 and config.steps < recipe(config.recipe).steps for _, config in found)


def test_two_people_are_trained_on_pairs_of_two() -> None:
    configs = dict(configs_of("two", Path("runs"), Material.below(Path("made")), scale=1.0, seed=0))
    assert configs["stage1"].data.pairs == ("made/pairs/pretraining.json",)
    assert configs["two2"].data.pairs == ("made/pairs_two/cross.json",) and configs["two2"].method.max_references == 2


def test_material_is_made_once_and_people_are_drawn_once(tmp_path, monkeypatch) -> None:
    commands: list[list[str]] = []

    def note(command: list[str], check: bool) -> None:
        assert check
        commands.append(command)
        words = dict(zip(command[3::2], command[4::2], strict=False))
        if command[2] == "likeness.recipes.pairs":
            Path(words["--output"]).mkdir(parents=True)
            (Path(words["--output"]) / "tradeoff.json").write_text("[]")
        else:
            (tmp_path / "store").mkdir(exist_ok=True)

    monkeypatch.setattr(runs.subprocess, "run", note)
    monkeypatch.setattr(runs, "untrained", lambda folder, seed: folder / "model_index.json")
    material = Material.below(tmp_path)
    runs.prepare(material, people=10, processes=1, seed=0, together=True)
    drawn = [command for command in commands if command[2] == "likeness.recipes.pairs"]
    assert [command[command.index("--first") + 1] for command in drawn] == ["0", "10"]
    assert [command[command.index("--together") + 1] for command in drawn] == ["1", "2"]
    assert [command[:3] for command in commands[2:]] == [[sys.executable, "-m", "likeness"]] * 2
    count = len(commands)
    runs.prepare(material, people=10, processes=1, seed=0, together=True)
    assert len(commands) == count


def test_a_finished_run_is_not_launched(tmp_path, monkeypatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(runs.subprocess, "run", lambda command, check: commands.append(command))
    config = recipe("tiny-base")
    runs.launch(config, tmp_path / "run", processes=3, compiled=True)
    assert "micro_batch_size=32" in commands[0] and "compile=true" in commands[0]
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "model_index.json").write_text("{}")
    runs.launch(config, tmp_path / "run", processes=3, compiled=True)
    assert len(commands) == 1
