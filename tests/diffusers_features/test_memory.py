"""Types, offloading and how blocks are computed: each leaves the video as it is, or as near as its type allows."""

import accelerate
import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from likeness.backbones.wan import ConcatWanTransformer3DModel
from likeness.method import CONCAT_ID_WAN_ADALN


def near(first: torch.Tensor, second: torch.Tensor, limit: float) -> None:
    difference = (first - second).abs().max().item()
    assert difference <= limit * second.abs().max().item(), difference


def test_to_a_device_and_a_type(pipeline, video) -> None:
    before = video(pipeline)
    assert pipeline.to("cpu") is pipeline and torch.equal(video(pipeline), before)
    pipeline.to(torch.bfloat16)
    assert {part.dtype for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder)} == {torch.bfloat16}
    assert not torch.equal(video(pipeline), before)
    near(video(pipeline), before, 0.1)
    assert np.isfinite(video(pipeline, output_type="np")[0]).all()


def test_model_offload(pipeline, video) -> None:
    before = video(pipeline, output_type="np")[0]
    pipeline.enable_model_cpu_offload(device="cpu")
    for _ in range(2):  # the hooks are put back after a call
        assert all(hasattr(part, "_hf_hook") for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder))
        assert np.array_equal(video(pipeline, output_type="np")[0], before)


def test_sequential_offload(pipeline, video, monkeypatch) -> None:
    before = video(pipeline, output_type="np")[0]
    # diffusers says "cpu:0", which accelerate takes for another device than that of the weights.
    offload = accelerate.cpu_offload
    monkeypatch.setattr(accelerate, "cpu_offload", lambda model, device, **kwargs: offload(model, "cpu", **kwargs))
    pipeline.enable_sequential_cpu_offload(device="cpu")
    for _ in range(2):
        for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
            assert {parameter.device.type for parameter in part.parameters()} == {"meta"}
        assert np.array_equal(video(pipeline, output_type="np")[0], before)


@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_offloading_without_an_accelerator_is_refused(pipeline, way) -> None:
    with pytest.raises(RuntimeError, match="requires accelerator"):
        getattr(pipeline, way)()


@pytest.mark.parametrize(
    "stays", [("text_encoder",), ("text_encoder", "connectors"), ("text_encoder", "connectors", "vae")]
)
def test_parts_may_stay_on_the_cpu(pipeline, video, stays, monkeypatch) -> None:
    """Weights on the device "meta" have sizes and no numbers: whatever is computed in the wrong place is an error."""
    texts = []
    encode = pipeline.encode_prompts
    monkeypatch.setattr(pipeline, "encode_prompts", lambda prompts: texts.append(encode(prompts)) or texts[-1])
    for name in {"transformer", "vae", "connectors"} - set(stays):
        if getattr(pipeline, name) is not None:
            getattr(pipeline, name).to("meta")
    devices = []
    latents = video(
        pipeline, generator=None, callback_on_step_end=lambda *args: devices.append(args[-1]["latents"].device.type)
    )
    assert latents.device.type == "meta" and devices == ["meta"] * 2
    if pipeline.connectors is None or "connectors" in stays:
        assert {text.device.type for text in texts} == {"cpu"} and all(text.isfinite().all() for text in texts)


@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_group_offload(pipeline, video, level) -> None:
    before = video(pipeline, output_type="np")[0]
    device = torch.device("cpu")
    blocks = {"num_blocks_per_group": 1} if level == "block_level" else {}
    pipeline.enable_group_offload(onload_device=device, offload_device=device, offload_type=level, **blocks)
    for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
        hooked = [module for module in part.modules() if hasattr(module, "_diffusers_hook")]
        assert any("group_offloading" in module._diffusers_hook.hooks for module in hooked)
    assert np.array_equal(video(pipeline, output_type="np")[0], before)


def test_layerwise_casting(pipeline, video, blocks) -> None:
    before = video(pipeline)
    pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    types = {parameter.dtype for parameter in blocks(pipeline).parameters()}
    assert torch.bfloat16 in types
    after = video(pipeline)
    assert not torch.equal(after, before)
    near(after, before, 0.1)


def test_layerwise_casting_leaves_the_references_modulation_alone(make_pipeline, random_wan_components, video) -> None:
    separate = ConcatWanTransformer3DModel.from_base(random_wan_components["transformer"], "separate")
    pipeline = make_pipeline("wan", CONCAT_ID_WAN_ADALN, transformer=separate)
    pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    tables = {
        name: parameter.dtype
        for name, parameter in pipeline.transformer.named_parameters()
        if "scale_shift_table" in name or "time_proj_ref" in name
    }
    assert len(tables) == 7 and set(tables.values()) == {torch.float32}
    assert video(pipeline).isfinite().all()


def test_fused_projections(pipeline, video) -> None:
    before = video(pipeline)
    pipeline.transformer.fuse_qkv_projections()
    assert any("to_qkv" in name for name, _ in pipeline.transformer.named_parameters())
    near(video(pipeline), before, 1e-5)
    pipeline.transformer.unfuse_qkv_projections()
    assert torch.equal(video(pipeline), before)


def test_gradient_checkpointing(pipeline) -> None:
    """The same prediction and the same gradients, with the references in the sequence."""
    from likeness.conditioning.sequence import join

    backbone = pipeline.backbone
    generator = torch.Generator().manual_seed(0)
    shape = backbone.spec.latent_shape(9, 32, 32)
    latents = torch.randn(1, *shape, generator=generator)
    reference = torch.randn(1, shape[0], 1, *shape[2:], generator=generator)
    sequence = join(pipeline.method, latents, [reference])
    text = pipeline.encode_prompts(["a man"]).clone()
    transformer = pipeline.transformer.requires_grad_(True).train()

    def run() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        transformer.zero_grad()
        prediction = backbone.predict(sequence, torch.tensor([0.5]), text)
        prediction.square().mean().backward()
        gradients = {
            name: parameter.grad.clone()
            for name, parameter in transformer.named_parameters()
            if parameter.grad is not None
        }
        return prediction.detach(), gradients

    prediction, gradients = run()
    transformer.enable_gradient_checkpointing()
    calls = []
    checkpoint = transformer._gradient_checkpointing_func
    transformer._gradient_checkpointing_func = lambda *args: calls.append(args) or checkpoint(*args)
    again, again_gradients = run()
    assert len(calls) == transformer.config.num_layers
    assert torch.equal(again, prediction)
    assert gradients.keys() == again_gradients.keys()
    assert all(torch.equal(gradients[name], again_gradients[name]) for name in gradients)


@pytest.fixture
def native_afterwards():
    yield
    # The choice also becomes the process's.
    _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)


@pytest.mark.parametrize("family", ["wan", "ltx2"])
def test_attention_backends(pipeline, video, blocks, native_afterwards) -> None:
    before = video(pipeline)
    pipeline.transformer.set_attention_backend("_native_math")
    backends = {block.attn1.processor._attention_backend for block in blocks(pipeline)}
    assert backends == {AttentionBackendName._NATIVE_MATH}
    near(video(pipeline), before, 1e-5)
    with pytest.raises(ValueError, match=r"must be one of the following: .*native"):
        pipeline.transformer.set_attention_backend("no-such-backend")


def test_attention_backends_do_not_reach_cogvideox(make_pipeline, native_afterwards) -> None:
    """diffusers' CogVideoX calls torch's attention itself: the setting is taken and changes nothing."""
    pipeline = make_pipeline("cogvideox")
    pipeline.transformer.set_attention_backend("_native_math")
    assert not any(
        hasattr(block.attn1.processor, "_attention_backend") for block in pipeline.transformer.transformer_blocks
    )


def test_xformers_is_missed_by_name(pipeline) -> None:
    with pytest.raises(RuntimeError, match="xformers"):
        pipeline.transformer.set_attention_backend("xformers")
    with pytest.raises(ModuleNotFoundError, match="xformers"):
        pipeline.enable_xformers_memory_efficient_attention()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["wan", "ltx2"])
def test_compiled_blocks(pipeline, video, blocks) -> None:
    before = video(pipeline)
    pipeline.transformer.compile_repeated_blocks()
    assert all(block._compiled_call_impl is not None for block in blocks(pipeline))
    near(video(pipeline), before, 1e-4)


@pytest.mark.slow
def test_blocks_of_cogvideox_are_compiled_one_by_one(make_pipeline, video) -> None:
    pipeline = make_pipeline("cogvideox")
    before = video(pipeline)
    with pytest.raises(ValueError, match="_repeated_blocks"):
        pipeline.transformer.compile_repeated_blocks()
    for block in pipeline.transformer.transformer_blocks:
        block.compile()
    near(video(pipeline), before, 1e-4)


def test_blocks_are_named_for_compilation_and_device_maps() -> None:
    """The parent's names are of the parent's block, which no subclass has."""
    for names in (ConcatWanTransformer3DModel._repeated_blocks, ConcatWanTransformer3DModel._no_split_modules):
        assert names == ["ConcatWanTransformerBlock"]
