"""Synthetic checkpoints under their authors' names, made into folders that open."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cogvideox_parts import cogvideox_parts
from published_names import sat_names, wan_names
from safetensors.torch import save_file

from likeness.backbones.load import load_backbone, load_method
from likeness.convert import fetch, write
from likeness.convert.base import convert
from likeness.convert.keys import source_of
from likeness.errors import CheckpointError, UserError
from likeness.method import CONCAT_ID, CONCAT_ID_WAN, CONCAT_ID_WAN_ADALN
from likeness.pipeline import LikenessPipeline

SIZES = {"default_num_frames": 5, "default_height": 32, "default_width": 32, "default_num_inference_steps": 2}


@pytest.fixture(scope="module")
def wan_base(random_wan_components, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    LikenessPipeline(**random_wan_components, method=CONCAT_ID_WAN, **SIZES).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(random_wan_components) -> dict:
    """Another transformer than the base's."""
    generator = torch.Generator().manual_seed(3)
    state = random_wan_components["transformer"].state_dict()
    return {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in state.items()}


def assert_same(folder: Path, state: dict, **options) -> None:
    found = load_backbone(folder, **options).transformer.state_dict()
    assert found.keys() == state.keys()
    assert all(found[name].equal(value) for name, value in state.items())


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"module": s},
                                  lambda s: {"model": {f"pipe.dit.{k}": v for k, v in s.items()}},
                                  lambda s: {f"model.{k}": v for k, v in s.items()}])  # fmt: skip
def test_first_stage(wan_base, trained, tmp_path, wrap) -> None:
    torch.save(wrap(wan_names(trained)), tmp_path / "first_stage.pt")
    folder = convert(tmp_path / "first_stage.pt", tmp_path / "out", base=wan_base, method="concat-id-wan")
    assert_same(folder, trained)
    assert load_method(folder) == CONCAT_ID_WAN


def test_second_stage_generates(wan_base, trained, tmp_path) -> None:
    more = {"condition_embedder.time_proj_ref." + end: trained["condition_embedder.time_proj." + end] + 1
            for end in ("weight", "bias")}  # fmt: skip
    more |= {f"blocks.{n}.scale_shift_table_ref": trained[f"blocks.{n}.scale_shift_table"] - 1 for n in range(2)}
    save_file(wan_names(trained | more), tmp_path / "second.safetensors")
    done = []
    folder = convert(
        tmp_path / "second.safetensors",
        tmp_path / "out",
        base=wan_base,
        progress=lambda n, total: done.append(n / total),
    )
    assert done[-1] == 1.0
    assert_same(folder, trained | more)
    pipeline = LikenessPipeline.from_pretrained(folder)
    assert pipeline.method == CONCAT_ID_WAN_ADALN
    frames = pipeline("a man", [torch.zeros(32, 32, 3, dtype=torch.uint8).numpy()]).frames[0]
    assert frames.shape == (5, 32, 32, 3)
    with pytest.raises(UserError, match="modulation of its own"):
        convert(tmp_path / "second.safetensors", tmp_path / "no", base=wan_base, method="concat-id-wan")


def test_cogvideox_folder(tiny_tokenizer, tmp_path) -> None:
    parts = cogvideox_parts(tiny_tokenizer)
    LikenessPipeline(**parts, method=CONCAT_ID, **SIZES).save_pretrained(tmp_path / "base")
    state = {name: value + 0.5 for name, value in parts["transformer"].state_dict().items()}
    (tmp_path / "sat" / "1000").mkdir(parents=True)
    (tmp_path / "sat" / "latest").write_text("1000\n")
    others = {"first_stage_model.encoder.weight": torch.ones(2), "conditioner.weight": torch.ones(2)}
    torch.save({"module": sat_names(state, 2) | others}, tmp_path / "sat/1000/mp_rank_00_model_states.pt")
    folder = convert(tmp_path / "sat", tmp_path / "out", base=tmp_path / "base")
    assert_same(folder, state)
    assert load_method(folder) == replace(CONCAT_ID, dropped_text="zeros")
    assert load_backbone(folder).transformer.config.norm_eps == 1e-6


def test_a_base_to_train_on(wan_base, random_wan_components, tmp_path) -> None:
    folder = convert(wan_base, tmp_path / "out", method="concat-id-wan-adaln")
    model = load_backbone(folder).transformer
    assert model.blocks[1].scale_shift_table_ref.equal(model.blocks[1].scale_shift_table)
    assert not list(tmp_path.glob(".out*"))


def test_types_are_kept_and_shards_fit(wan_base, trained, tmp_path, monkeypatch) -> None:
    from safetensors.torch import load_file

    monkeypatch.setattr(write, "SHARD_BYTES", 20_000)
    half = {name: value.bfloat16() for name, value in trained.items()}
    torch.save(wan_names(half), tmp_path / "half.pt")
    folder = convert(tmp_path / "half.pt", tmp_path / "out", base=wan_base, method="concat-id-wan")
    files = list((folder / "transformer").glob("*.safetensors"))
    assert len(files) > 1
    assert {value.dtype for file in files for value in load_file(file).values()} == {torch.bfloat16}
    assert_same(folder, {name: value.float() for name, value in half.items()})


class Crafted:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def test_files_that_are_not_weights(wan_base, trained, tmp_path) -> None:
    torch.save({"a": Crafted(tmp_path / "ran")}, tmp_path / "bad.pt")
    save_file(wan_names(trained), tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    torch.save({"conv.weight": torch.ones(2)}, tmp_path / "other.pt")
    for name, message in (("bad.pt", "run code"), ("cut.safetensors", "cut short"), ("other.pt", "architecture")):
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / name, tmp_path / "out", base=wan_base, method="concat-id-wan")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_output_is_whole_or_absent(wan_base, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
        with pytest.raises(UserError, match=r"takes .* MB, but the disk of .* has 0\.0 MB free"):
            convert(wan_base, folder, method="concat-id-wan")
    with monkeypatch.context() as patch:
        patch.setattr(write, "save_file", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(wan_base, folder, method="concat-id-wan")
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(UserError, match="not empty"):
        convert(wan_base, folder, method="concat-id-wan")
    convert(wan_base, folder, method="concat-id-wan", overwrite=True)
    assert not (folder / "mine").exists()


def test_weights_by_name_are_converted_once(wan_base, trained, tmp_path, monkeypatch) -> None:
    torch.save(wan_names(trained), tmp_path / "first_stage.pt")
    asked = []
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "resolve_model", lambda name, announce: wan_base)
    monkeypatch.setattr(fetch, "fetch", lambda repo, patterns, *others: asked.extend(patterns) or tmp_path)
    first = fetch.prepare("wan2.1-1.3b", "concat-id-wan")
    assert fetch.prepare("wan2.1-1.3b", "concat-id-wan") == first
    assert asked == ["first_stage.pt"]
    assert_same(first, trained)


@pytest.mark.parametrize("layout", ["wan", "sat"])
def test_each_parameter_names_the_tensor_that_it_is_made_of(random_wan_components, tiny_tokenizer, layout) -> None:
    if layout == "wan":
        state = random_wan_components["transformer"].state_dict()
        made = wan_names(state)
    else:
        state = cogvideox_parts(tiny_tokenizer)["transformer"].state_dict()
        made = {name.removeprefix("model.diffusion_model."): value for name, value in sat_names(state, 2).items()}
    assert {source_of(layout, name) for name in state} == made.keys()
