"""LoRA files of the transformer: saved, loaded, scaled, mixed and taken out again."""

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from likeness.errors import UserError
from likeness.pipeline import LikenessPipeline

CONFIG = LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)


@pytest.fixture
def save_lora(family, make_pipeline, tmp_path):
    """A folder with a random LoRA, whose alpha is not its rank."""

    def save(seed: int):
        donor = make_pipeline(family)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            donor.transformer.add_adapter(CONFIG)
        layers = get_peft_model_state_dict(donor.transformer)
        folder = tmp_path / f"lora{seed}"
        metadata = donor.transformer.peft_config["default"].to_dict()
        LikenessPipeline.save_lora_weights(folder, layers, transformer_lora_adapter_metadata=metadata)
        return folder, donor

    return save


def test_saved_and_loaded(pipeline, video, save_lora) -> None:
    before = video(pipeline)
    folder, donor = save_lora(0)
    pipeline.load_lora_weights(folder, adapter_name="style")
    assert pipeline.get_active_adapters() == ["style"]
    loaded = video(pipeline)
    assert not torch.equal(loaded, before)
    assert torch.equal(loaded, video(donor))  # alpha too, which is in the file's metadata
    pipeline.unload_lora_weights()
    assert torch.equal(video(pipeline), before)


def test_scaled_and_mixed(pipeline, video, save_lora) -> None:
    before = video(pipeline)
    pipeline.load_lora_weights(save_lora(0)[0], adapter_name="first")
    first = video(pipeline)
    pipeline.load_lora_weights(save_lora(1)[0], adapter_name="second")
    pipeline.set_adapters("first", 0.0)
    assert torch.equal(video(pipeline), before)
    pipeline.set_adapters(["first", "second"], [1.0, 0.0])
    torch.testing.assert_close(video(pipeline), first)
    pipeline.set_adapters(["first", "second"], [0.5, 0.5])
    mixed = video(pipeline)
    assert not torch.equal(mixed, first) and not torch.equal(mixed, before)
    pipeline.delete_adapters("second")
    assert pipeline.get_list_adapters() == {"transformer": ["first"]}
    pipeline.disable_lora()
    assert torch.equal(video(pipeline), before)


def test_fused(pipeline, video, save_lora) -> None:
    before = video(pipeline)
    pipeline.load_lora_weights(save_lora(0)[0])
    loaded = video(pipeline)
    pipeline.fuse_lora()
    assert not torch.equal(video(pipeline), before)
    torch.testing.assert_close(video(pipeline), loaded, rtol=1e-3, atol=1e-4)
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    torch.testing.assert_close(video(pipeline), before, rtol=1e-3, atol=1e-4)


def test_another_trainers_names_are_read_on_wan(make_pipeline, video, tmp_path) -> None:
    """The native names of Wan, under which most of its LoRAs are published."""
    pipeline = make_pipeline("wan")
    dim = pipeline.transformer.blocks[0].attn1.to_q.in_features
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for index in range(len(pipeline.transformer.blocks)):
        for layer in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"):
            name = f"diffusion_model.blocks.{index}.{layer}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(2, dim, generator=generator)
            tensors[f"{name}.lora_B.weight"] = torch.randn(dim, 2, generator=generator)
    save_file(tensors, tmp_path / "native.safetensors")
    before = video(pipeline)
    pipeline.load_lora_weights(tmp_path / "native.safetensors")
    assert not torch.equal(video(pipeline), before)
    weights = pipeline.transformer.blocks[1].attn1.to_v.lora_A["default_0"].weight
    assert torch.equal(weights, tensors["diffusion_model.blocks.1.self_attn.v.lora_A.weight"])


def test_files_that_are_no_loras_are_refused(pipeline, save_lora, tmp_path) -> None:
    folder, _ = save_lora(0)
    (path,) = folder.glob("*.safetensors")
    tensors = {**load_file(path), "transformer.proj_out.weight": torch.zeros(1)}
    with pytest.raises(UserError, match=r"proj_out\.weight"):
        pipeline.load_lora_weights(tensors)
    pickled = tmp_path / "pickled.bin"
    torch.save(load_file(path), pickled)
    with pytest.raises(Exception, match=r"header|safetensors"):
        pipeline.load_lora_weights(pickled)
    assert not pipeline.get_list_adapters()
