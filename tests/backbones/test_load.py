import json
import shutil
from pathlib import Path

import pytest
import torch

from likeness.backbones.known import MODELS
from likeness.backbones.load import load_backbone, load_method, resolve_model
from likeness.errors import CheckpointError, UserError
from likeness.method import CONCAT_ID_WAN, CONCAT_ID_WAN_ADALN


@pytest.fixture(scope="session")
def saved(random_wan_components, tmp_path_factory) -> Path:
    """A folder as the pipeline saves it; tests that break it take a copy."""
    from likeness.pipeline import LikenessPipeline

    folder = tmp_path_factory.mktemp("model")
    LikenessPipeline(**random_wan_components, method=CONCAT_ID_WAN).save_pretrained(folder)
    return folder


@pytest.fixture
def broken(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    pairs = zip(sorted(first.state_dict().items()), sorted(second.state_dict().items()), strict=True)
    return all(name == other and value.equal(copy) for (name, value), (other, copy) in pairs)


def test_round_trip(saved, random_wan_components) -> None:
    backbone = load_backbone(saved)
    for part in ("transformer", "vae", "text_encoder"):
        loaded = getattr(backbone, part)
        assert same_weights(loaded, random_wan_components[part])
        assert not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert backbone.max_sequence_length == 12
    assert backbone.spec.process.shift == 5.0
    assert load_backbone(saved, shift=3.0).spec.process.shift == 3.0
    assert load_method(saved) == CONCAT_ID_WAN


def test_types(saved) -> None:
    backbone = load_backbone(saved, dtype=torch.bfloat16)
    assert backbone.transformer.dtype == backbone.text_encoder.dtype == torch.bfloat16
    assert backbone.vae.dtype == torch.float32


def test_an_ordinary_wan_folder_loads(saved, broken, random_wan_components) -> None:
    """As diffusers saves one: its own transformer class, a multistep solver, no method."""
    from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    parts = dict(random_wan_components)
    config = {key: value for key, value in parts["transformer"].config.items() if not key.startswith("_")}
    del config["reference_modulation"]
    stock = WanTransformer3DModel(**config)
    stock.load_state_dict(parts["transformer"].state_dict())
    parts["transformer"] = stock
    parts["scheduler"] = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    WanPipeline(**parts).save_pretrained(broken)
    backbone = load_backbone(broken)
    assert same_weights(backbone.transformer, stock)
    assert backbone.spec.process.shift == 3.0
    # The references' own modulation is not in the files and starts as the video's.
    separate = load_backbone(broken, method=CONCAT_ID_WAN_ADALN).transformer
    table = separate.blocks[1].scale_shift_table_ref
    assert table.equal(separate.blocks[1].scale_shift_table)
    assert not any(parameter.is_meta for parameter in separate.parameters())


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_missing_and_cut_files_are_named(broken, name) -> None:
    path = broken / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=path.name):
        load_backbone(broken)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{path.name} is missing"):
        load_backbone(broken)


def test_a_broken_tokenizer_is_named(broken) -> None:
    (broken / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_backbone(broken)


def test_missing_tensors_and_other_sizes_are_named(broken) -> None:
    from safetensors.torch import load_file, save_file

    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    removed = tensors.pop("blocks.1.ffn.net.2.weight")
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors .* blocks.1.ffn.net.2.weight"):
        load_backbone(broken)
    tensors["blocks.1.ffn.net.2.weight"] = removed[:, :3].contiguous()
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="ConcatWanTransformer3DModel"):
        load_backbone(broken)


def test_missing_shards_are_named(broken) -> None:
    folder = broken / "transformer"
    index = {"metadata": {}, "weight_map": {"a": "part-1.safetensors"}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"part-1\.safetensors is missing"):
        load_backbone(broken)


def test_pickled_weights_are_not_read(broken) -> None:
    weights = broken / "vae" / "diffusion_pytorch_model.safetensors"
    weights.unlink()

    class Trap:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("a pickle was loaded",))

    torch.save({"trap": Trap()}, weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="safetensors is missing"):
        load_backbone(broken)


def test_another_kind_of_model_is_refused(broken) -> None:
    (broken / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", "unet": []}))
    with pytest.raises(CheckpointError, match="lists no transformer"):
        load_backbone(broken)


def test_parts_that_do_not_fit_are_refused(broken) -> None:
    from diffusers import AutoencoderKLWan

    AutoencoderKLWan(
        base_dim=8, z_dim=2, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True]
    ).save_pretrained(broken / "vae")
    with pytest.raises(CheckpointError, match="the VAE has 2"):
        load_backbone(broken)


def test_method_file(broken) -> None:
    path = broken / "method.json"
    path.write_text(json.dumps({**CONCAT_ID_WAN.to_dict(), "text_dropout": 7}))
    with pytest.raises(CheckpointError, match=r"method.json is not a method: .*0..1"):
        load_method(broken)
    path.write_text("[1, 2")
    with pytest.raises(CheckpointError, match=r"method\.json is not JSON"):
        load_method(broken)
    path.unlink()
    with pytest.raises(CheckpointError, match="concat-id-wan"):
        load_method(broken)


def test_names(saved, tmp_path, monkeypatch) -> None:
    assert resolve_model(saved) == saved
    assert resolve_model(str(saved)) == saved
    assert {"tiny", "wan2.1-1.3b", "wan2.1-14b"} <= set(MODELS)
    with pytest.raises(UserError, match=r"'wan3'.*tiny, tiny-st-drc, tiny-two, wan2\.1-1\.3b, wan2\.1-14b"):
        resolve_model("wan3")


def test_no_network(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"Wan2.1-T2V-1.3B-Diffusers .* give its folder"):
        resolve_model("wan2.1-1.3b")


def test_the_shipped_model_loads(tiny_folder) -> None:
    assert resolve_model("tiny") == tiny_folder
    backbone = load_backbone("tiny")
    backbone.check_method(load_method(tiny_folder))
