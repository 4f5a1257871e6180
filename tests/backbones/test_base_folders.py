"""Model folders that hold what was trained alone and take the rest from the model that they name as their base."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from likeness.backbones.load import LORA_FILE, check_folder, folders_of, load_backbone, part_folder, read_index
from likeness.convert.write import part_files, take_parts
from likeness.errors import CheckpointError
from likeness.method import CONCAT_ID
from likeness.pipeline import LikenessPipeline


@pytest.fixture(scope="module")
def whole(random_wan_components, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    LikenessPipeline(**random_wan_components, method=CONCAT_ID, default_fps=8).save_pretrained(folder)
    return folder


@pytest.fixture
def base(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "whole"))


def folder_on(base: str | Path, folder: Path, **values: object) -> Path:
    """A folder beside its base, with nothing of its own."""
    folder.mkdir()
    index = {"_class_name": "LikenessPipeline", "base": str(base), **values}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_transformer_of_its_own_and_the_rest_of_the_base(base) -> None:
    folder = folder_on("../whole", base.parent / "tuned", default_fps=12)
    shutil.copytree(base / "transformer", folder / "transformer")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    assert check_folder(folder).name == check_folder(base).name
    tuned, plain = load_backbone(folder), load_backbone(base)
    for name, value in tuned.transformer.state_dict().items():
        assert torch.equal(value, plain.transformer.state_dict()[name] + 1)
    assert all(
        torch.equal(a, b) for a, b in zip(tuned.vae.state_dict().values(), plain.vae.state_dict().values(), strict=True)
    )
    index = read_index(folders_of(folder))
    assert index["default_fps"] == 12 and index["vae"] == read_index(folders_of(base))["vae"] and "base" not in index


def test_parts_of_the_base_are_taken_along(base) -> None:
    folder = folder_on("../whole", base.parent / "tuned")
    assert part_files(folder) == [
        base.parent / "tuned" / ".." / "whole" / p.relative_to(base) for p in part_files(base)
    ]
    take_parts(folder, base.parent / "new")
    files = {path.relative_to(base) for path in part_files(base)}
    assert {
        path.relative_to(base.parent / "new") for path in (base.parent / "new").rglob("*") if path.is_file()
    } == files


def test_a_lora_is_merged_into_the_base(base) -> None:
    """W + B A, one on the other where a LoRA was trained on a LoRA."""
    first, second = folder_on("../whole", base.parent / "first"), folder_on("../first", base.parent / "second")
    layer = "blocks.0.attn1.to_q"
    for number, folder in enumerate((first, second), 1):
        weights = {
            f"transformer.{layer}.lora_A.weight": torch.full((2, 12), 0.1 * number),
            f"transformer.{layer}.lora_B.weight": torch.eye(12)[:, :2].contiguous(),
        }
        plain = load_backbone(base).transformer.get_submodule(layer).weight
        rows, columns = plain.shape
        weights[f"transformer.{layer}.lora_A.weight"] = torch.full((2, columns), 0.1 * number)
        weights[f"transformer.{layer}.lora_B.weight"] = torch.eye(rows)[:, :2].contiguous()
        save_file(weights, folder / LORA_FILE)
    assert folders_of(second) == [second, second / "../first", second / "../first/../whole"]
    merged = load_backbone(second).transformer.get_submodule(layer).weight
    assert torch.allclose(merged[:2] - plain[:2], torch.full_like(plain[:2], 0.3), atol=1e-6)
    assert torch.equal(merged[2:], plain[2:])


def test_a_lora_that_does_not_fit_is_named(base) -> None:
    folder = folder_on("../whole", base.parent / "lora")
    pair = {"lora_A.weight": torch.zeros(2, 3), "lora_B.weight": torch.zeros(5, 2)}
    for layer, message in (
        ("blocks.9.attn1.to_q", "blocks.9.attn1.to_q does not fit"),
        ("blocks.0.attn1.to_q", r"\[5, 3\]"),
    ):
        save_file({f"transformer.{layer}.{side}": value for side, value in pair.items()}, folder / LORA_FILE)
        with pytest.raises(CheckpointError, match=message):
            load_backbone(folder)
    save_file({"transformer.blocks.0.attn1.to_q.alpha": torch.ones(1)}, folder / LORA_FILE)
    with pytest.raises(CheckpointError, match=r"to_q\.alpha"):
        load_backbone(folder)
    save_file(pair, folder / LORA_FILE, metadata={"lora_adapter_metadata": "{}"})
    with pytest.raises(CheckpointError, match="load_lora_weights"):
        load_backbone(folder)


def test_a_base_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"its base, '\.\./gone'"):
        folders_of(folder_on("../gone", tmp_path / "lost"))
    with pytest.raises(CheckpointError, match="does one name itself"):
        folders_of(folder_on(".", tmp_path / "self"))


def test_a_base_may_be_known_by_name(tmp_path) -> None:
    folder = folder_on("tiny", tmp_path / "own")
    assert part_folder(folders_of(folder), "vae").parent.name == "tiny"
