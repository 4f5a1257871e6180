"""The tiny family's models are chains of runs; what they start from is made once."""

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from likeness.backbones.known import MODELS as MODELS_BY_NAME
from likeness.backbones.load import LORA_FILE, check_folder, folders_of, read_index
from likeness.errors import UserError
from likeness.recipes import family, runs
from likeness.recipes.family import MODELS, configs_of, export, steps_of
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
    monkeypatch.setattr(runs, "untrained", lambda material, seed: material.base)
    material = Material.below(tmp_path)
    runs.prepare(material, people=10, processes=1, seed=0, together=True)
    drawn = [command for command in commands if command[2] == "likeness.recipes.pairs"]
    assert [command[command.index("--first") + 1] for command in drawn] == ["0", "10"]
    assert [command[command.index("--together") + 1] for command in drawn] == ["1", "2"]
    assert [command[:3] for command in commands[2:]] == [[sys.executable, "-m", "likeness"]] * 2
    count = len(commands)
    runs.prepare(material, people=10, processes=1, seed=0, together=True)
    assert len(commands) == count


@pytest.mark.parametrize("part", ["vae", "text"])
def test_an_untrained_model_may_have_parts_of_its_own(part, tmp_path) -> None:
    shipped = Path(MODELS_BY_NAME["tiny"].folder)
    path, name = {
        "vae": ("vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.bias"),
        "text": ("text_encoder/model.safetensors", "shared.weight"),
    }[part]
    for folder in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(shipped / folder, tmp_path / "parts" / folder)
    tensors = load_file(tmp_path / "parts" / path)
    tensors[name] = tensors[name] + 1
    save_file(tensors, tmp_path / "parts" / path, metadata={"format": "pt"})
    own = {"vae": tmp_path / "parts" / "vae"} if part == "vae" else {"text": tmp_path / "parts"}
    for folder, parts in (("own", own), ("known", {})):
        made = runs.untrained(replace(Material.below(tmp_path / folder), **parts), 0)
        moved = load_file(made / path)[name].float() - load_file(shipped / path)[name].float()
        assert bool((moved.abs() > 0.5).all()) == (folder == "own")


def test_material_may_lie_elsewhere_in_parts() -> None:
    parser = argparse.ArgumentParser()
    runs.add_options(parser)
    chosen = Material.chosen(parser.parse_args(["--output", "runs", "--store", "elsewhere"]))
    assert chosen == replace(Material.below(Path("runs")), store=Path("elsewhere"))


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


@pytest.mark.parametrize(
    ("model", "after", "left"), [("concat-id", "stage3", 2), ("st-drc", "identity", 1), ("two", "base", 7)]
)
def test_a_trained_start_stands_for_a_run_and_those_before(model, after, left) -> None:
    material = Material.below(Path("made"))
    found = configs_of(model, Path("runs"), material, scale=1.0, seed=0, start=("tiny", after))
    assert len(found) == left and found[0][1].model == "tiny"


@pytest.mark.parametrize("after", ["identity", "stage9"])
def test_there_must_be_a_run_after_the_start(after) -> None:
    with pytest.raises(UserError, match="Choose one of base, stage1, stage2, stage3, faces"):
        steps_of("concat-id", after)


@pytest.mark.parametrize(
    "options", [["--start", "tiny"], ["--after", "base"], ["--start", "tiny", "--after", "stage9"]]
)
def test_a_start_says_what_it_stands_for(options, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["family", "concat-id", "--output", str(tmp_path / "runs"), *options])
    with pytest.raises(SystemExit) as stop:
        family.main()
    assert stop.value.code == 2 and not (tmp_path / "runs").exists()


def test_loras_on_loras_ship_as_one(tmp_path) -> None:
    """B1 A1 + B2 A2."""
    generator = torch.Generator().manual_seed(0)
    layer, folders = "transformer.blocks.0.attn1.to_q", [tmp_path / "two1" / "model", tmp_path / "two2" / "model"]
    change = torch.zeros(6, 5)
    for folder, base in zip(folders, ("tiny", "../../two1/model"), strict=True):
        folder.mkdir(parents=True)
        down, up = torch.randn(2, 5, generator=generator), torch.randn(6, 2, generator=generator)
        change += up @ down
        save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, folder / LORA_FILE)
        index = {"_class_name": "LikenessPipeline", "base": base, "default_fps": 8}
        (folder / "model_index.json").write_text(json.dumps(index))
        (folder / "method.json").write_text("{}")
        data = {"pairs": ["/data/somebody/pairs/cross.json"], "store": "/data/somebody/store"}
        (folder / "training.json").write_text(json.dumps({"model": "/data/somebody/runs/two1/model", "data": data}))
    shipped = export(folders[1], tmp_path / "tiny-two", "tiny")
    tensors = load_file(shipped / LORA_FILE)
    merged = tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
    assert torch.allclose(merged, change, atol=1e-5)
    assert json.loads((shipped / "model_index.json").read_text()) == {
        "_class_name": "LikenessPipeline", "default_fps": 8, "base": "tiny",
    }  # fmt: skip
    assert not any("somebody" in path.read_text() for path in shipped.glob("*.json"))


def test_a_transformer_ships_without_the_parts_of_its_base(tmp_path) -> None:
    model = Path(shutil.copytree(MODELS_BY_NAME["tiny"].folder, tmp_path / "run" / "model"))
    config = {"model": "tiny", "data": {"pairs": [], "store": None}}
    (model / "training.json").write_text(json.dumps(config))
    shipped = export(model, tmp_path / "tiny-st-drc", "tiny")
    assert sorted(path.name for path in shipped.iterdir()) == [
        "method.json", "model_index.json", "training.json", "transformer",
    ]  # fmt: skip
    assert check_folder(shipped).name == "Wan" and read_index(folders_of(shipped))["default_num_frames"] == 17
