import copy
import json
import logging
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import LTX2Pipeline
from ltx2_parts import LTX20, LTX23, ltx2_parts, stock_transformer
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from likeness.backbones.load import load_backbone
from likeness.backbones.ltx2 import ConcatLTX2Transformer3DModel, Ltx2Backbone
from likeness.backbones.ltx2_transformer import AUDIO_KEYS, video_tensors
from likeness.conditioning.sequence import drop, join
from likeness.convert.base import convert
from likeness.diffusion.shifted import DynamicShiftFlow
from likeness.errors import CheckpointError, UserError
from likeness.method import CONCAT_ID, CONCAT_ID_WAN, CONCAT_ID_WAN_ADALN, ST_DRC
from likeness.pipeline import LikenessPipeline
from likeness.types import LatentGrid


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def parts(random_ltx2_components) -> dict:
    return random_ltx2_components


@pytest.fixture
def backbone(random_ltx2_backbone) -> Ltx2Backbone:
    return random_ltx2_backbone


@pytest.fixture
def clip() -> torch.Tensor:
    return torch.rand(1, 3, 9, 64, 96, generator=seeded()) * 2 - 1


@pytest.fixture(scope="module")
def saved(parts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ltx2")
    LikenessPipeline(
        **parts, method=ST_DRC, default_num_frames=9, default_height=64, default_width=64, default_fps=24,
        default_num_inference_steps=2,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture
def published(saved, tmp_path) -> Path:
    """The folder with the audio and video transformer that diffusers has."""
    folder = Path(shutil.copytree(saved, tmp_path / "published"))
    shutil.rmtree(folder / "transformer")
    stock_transformer().save_pretrained(folder / "transformer")
    (folder / "method.json").unlink()
    return folder


def test_spec_is_read_from_the_parts(backbone) -> None:
    spec = backbone.spec
    assert (spec.spatial_stride, spec.temporal_stride, spec.patch, spec.latent_channels) == (32, 8, (1, 1, 1), 4)
    assert spec.latent_shape(121, 704, 1216) == (4, 16, 22, 38)
    assert spec.grid(121, 704, 1216) == LatentGrid(16, 22, 38)
    assert isinstance(spec.process, DynamicShiftFlow) and spec.process.terminal == 0.1
    with pytest.raises(UserError, match=r"80 frames.*LTX-2 makes 1 \+ 8 n frames: use 73 or 81"):
        spec.check_size(80, 64, 64)
    with pytest.raises(UserError, match="multiple of 32: use 64 or 96"):
        spec.check_size(9, 64, 80)


def test_published_size_has_the_parameters_of_the_video_branch() -> None:
    with torch.device("meta"):
        video = ConcatLTX2Transformer3DModel(
            gated_attn=True, cross_attn_mod=True, rope_type="split", use_prompt_embeddings=False
        )
        full = type(stock_transformer())(**LTX23)
    assert sum(parameter.numel() for parameter in video.parameters()) == 13_124_316_288
    assert sum(parameter.numel() for parameter in full.parameters()) == 18_988_838_144
    assert not any(re.match(AUDIO_KEYS, name) for name in video.state_dict())
    assert video_tensors(full.state_dict()).keys() == video.state_dict().keys()


@torch.no_grad()
def test_a_folder_of_diffusers_loads_without_its_audio(published, parts) -> None:
    backbone = load_backbone(published)
    assert isinstance(backbone, Ltx2Backbone)
    loaded, wanted = backbone.transformer.state_dict(), parts["transformer"].state_dict()
    assert loaded.keys() == wanted.keys() and all(value.equal(wanted[name]) for name, value in loaded.items())
    # A fixed shift may stand in the place of the growing one.
    assert math.isclose(load_backbone(published, shift=3.0).spec.process.for_video(4096).shift, 3.0)
    # As a start for training: the audio stays behind.
    made = convert(published, published.with_name("made"), method="st-drc")
    assert load_file(made / "transformer" / "diffusion_pytorch_model.safetensors").keys() == wanted.keys()
    assert json.loads((made / "model_index.json").read_text())["default_num_frames"] == 9
    assert LikenessPipeline.from_pretrained(made).method == ST_DRC


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_tensor_too_few_or_too_many_is_named(published, change: str) -> None:
    path = published / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    if change == "missing":
        name = "transformer_blocks.1.attn2.to_gate_logits.bias"
        del state[name]
    else:
        name = "keyframes_abs_pos_embedding"
        state[name] = torch.zeros(1, 32)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=re.escape(name)):
        load_backbone(published)


def test_taking_over_weights_is_strict() -> None:
    base = stock_transformer()
    base.register_parameter("stranger", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(CheckpointError, match="stranger"):
        ConcatLTX2Transformer3DModel.from_base(base)


@torch.no_grad()
@pytest.mark.parametrize("version", ["2.3", "2.0"])
def test_text_is_what_diffusers_pipeline_gives_the_transformer(parts, tiny_tokenizer, version: str) -> None:
    if version == "2.0":
        parts = ltx2_parts(tiny_tokenizer, **{**dict.fromkeys(LTX23, False), **LTX20, "use_prompt_embeddings": True})
    backbone = Ltx2Backbone(**parts)
    prompts = ["a man in the park", " woman smiling "]
    tokenizer = copy.deepcopy(parts["tokenizer"])  # diffusers changes it
    pipeline = SimpleNamespace(
        _execution_device=torch.device("cpu"), text_encoder=parts["text_encoder"], tokenizer=tokenizer
    )
    hidden, mask = LTX2Pipeline._get_gemma_prompt_embeds(pipeline, prompts, max_sequence_length=12)
    expected, _, expected_mask = parts["connectors"](hidden, mask, padding_side="left")
    embeds = backbone.encode_text(prompts)
    torch.testing.assert_close(embeds, expected, atol=1e-6, rtol=0)
    assert embeds.shape == (2, 12, 32 if version == "2.3" else 16)
    assert expected_mask.all()  # nothing is masked, which is why no mask is kept
    torch.testing.assert_close(backbone.encode_text(prompts[1:]), embeds[1:], atol=1e-5, rtol=0)
    assert backbone.encode_text([""]).isfinite().all()


@torch.no_grad()
def test_long_prompts_are_cut_and_said(backbone, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        backbone.encode_text(["man " * 11])
        assert not caplog.records
        backbone.encode_text(["man " * 20])
    assert "last 9 tokens of 21 are not read" in caplog.text


@torch.no_grad()
def test_latents_are_normalised_by_the_vae_and_a_picture_is_a_first_frame(backbone, clip) -> None:
    vae = backbone.vae
    raw = vae.encode(clip).latent_dist.mode()
    latents = backbone.encode_video(clip)
    assert latents.shape == (1, *backbone.spec.latent_shape(9, 64, 96))
    expected = LTX2Pipeline._normalize_latents(raw, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    torch.testing.assert_close(latents, expected)
    torch.testing.assert_close(backbone.decode(latents), vae.decode(raw).sample.clamp(-1, 1), atol=1e-5, rtol=0)
    assert backbone.decode(latents).shape == clip.shape
    torch.testing.assert_close(backbone.encode_reference(clip[:, :, :1]), latents[:, :, :1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("start", "length"), [(0, 1), (0, 2), (2, 1), (3, 2), (4, 1), (0, 5)])
def test_a_window_that_sees_everything_is_exact(parts, start: int, length: int) -> None:
    backbone = Ltx2Backbone(**parts, window_context=5)
    latents = torch.randn(1, 4, 5, 2, 2, generator=seeded(), requires_grad=True)
    with torch.no_grad():
        whole = backbone.decode(latents)
    window = backbone.decode_window(latents, start, length)
    first = 8 * (start - 1) + 1 if start else 0
    torch.testing.assert_close(window, whole[:, :, first : 8 * (start + length - 1) + 1], atol=1e-5, rtol=0)
    window.sum().backward()
    moved = latents.grad.abs().amax(dim=(0, 1, 3, 4)) > 0
    assert moved.tolist() == [start <= index < start + length for index in range(5)]


@torch.no_grad()
def test_a_narrow_window_nears_the_whole(parts) -> None:
    latents = torch.randn(1, 4, 13, 2, 2, generator=seeded())
    whole = Ltx2Backbone(**parts).decode(latents)[:, :, 8 * 5 + 1 : 8 * 6 + 1]
    errors = [
        (Ltx2Backbone(**parts, window_context=context).decode_window(latents, 6, 1) - whole).abs().mean().item()
        for context in (1, 2, 4, 6)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-4 and errors[-1] < 1e-6
    for start, length in ((-1, 1), (12, 2), (3, 0)):
        with pytest.raises(UserError, match="13 latents"):
            Ltx2Backbone(**parts).decode_window(latents, start, length)


@torch.no_grad()
def test_what_changes_a_prediction_and_what_does_not(backbone, parts) -> None:
    generator = seeded()
    video, reference = torch.randn(2, 4, 2, 2, 3, generator=generator), torch.randn(2, 4, 1, 2, 3, generator=generator)
    text = backbone.encode_text(["a man", "a woman in the park"])
    sigma = torch.tensor([0.9, 0.3])
    sequence = join(ST_DRC, video, (reference,))
    output = backbone.predict(sequence, sigma, text)
    assert output.shape == video.shape
    alone = backbone.predict(join(ST_DRC, video[1:], (reference[1:],)), sigma[1:], text[1:])
    torch.testing.assert_close(alone, output[1:], atol=1e-5, rtol=1e-5)
    for name, changed in {
        "place": join(CONCAT_ID, video, (reference,)),
        "reading": join(replace(ST_DRC, reference_reads_text=False), video, (reference,)),
        "timestep": join(replace(ST_DRC, reference_timestep="clean"), video, (reference,)),
        "absence": drop(ST_DRC, sequence, True),
        "zeros": drop(CONCAT_ID, sequence, True),
    }.items():
        assert (backbone.predict(changed, sigma, text) - output).abs().max() > 1e-4, name
    faster = Ltx2Backbone(**parts, fps=6.0)
    assert (faster.predict(sequence, sigma, text) - output).abs().max() > 1e-4


def test_generates_saves_and_loads(saved, parts) -> None:
    pipeline = LikenessPipeline.from_pretrained(saved)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.method == ST_DRC and pipeline.connectors is not None
    face = np.full((64, 64, 3), 120, np.uint8)

    def video(pipeline, **settings) -> np.ndarray:
        return pipeline("a man", [face], generator=seeded(), **settings).frames[0]

    frames = video(pipeline)
    assert frames.shape == (9, 64, 64, 3)
    original = LikenessPipeline(
        **parts, method=ST_DRC, default_num_frames=9, default_height=64, default_width=64, default_fps=24,
        default_num_inference_steps=2,
    )  # fmt: skip
    original.set_progress_bar_config(disable=True)
    assert np.array_equal(video(original), frames)
    assert not np.array_equal(video(pipeline, fps=6), frames)
    assert not np.array_equal(pipeline("a man", generator=seeded()).frames[0], frames)


def trainable() -> ConcatLTX2Transformer3DModel:
    return ConcatLTX2Transformer3DModel.from_base(stock_transformer()).requires_grad_(True)


def forward(transformer, **settings) -> torch.Tensor:
    generator = seeded()
    return transformer(
        torch.randn(1, 4, 2, 2, 2, generator=generator), torch.tensor([500.0]),
        torch.randn(1, 4, 32, generator=generator), return_dict=False, placement=ST_DRC.placement,
        references=(torch.randn(1, 4, 1, 2, 2, generator=generator),), **settings,
    )[0]  # fmt: skip


def test_gradient_checkpointing_changes_nothing() -> None:
    gradients = []
    for checkpointing in (False, True):
        transformer = trainable()
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        forward(transformer, reference_timestep="clean").square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in transformer.named_parameters()})
    assert all(gradient is not None for gradient in gradients[0].values())  # no parameter is idle
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=0, rtol=0, msg=name)


def test_blocks_are_repeated_blocks_of_diffusers(monkeypatch) -> None:
    transformer = trainable()
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **settings: compiled.append(module))
    transformer.compile_repeated_blocks()
    assert compiled == list(transformer.transformer_blocks)


@torch.no_grad()
def test_lora_and_layerwise_casting(tmp_path) -> None:
    transformer = trainable()
    plain = forward(transformer)
    transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    tuned = forward(transformer)
    assert (tuned - plain).abs().max() > 1e-3
    transformer.save_lora_adapter(tmp_path)
    other = trainable()
    other.load_lora_adapter(tmp_path, prefix=None, weight_name="pytorch_lora_weights.safetensors")
    torch.testing.assert_close(forward(other), tuned, atol=1e-6, rtol=0)
    torch.testing.assert_close(forward(other, attention_kwargs={"scale": 0.0}), plain, atol=1e-6, rtol=0)
    cast = trainable()
    cast.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert cast.transformer_blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
    assert 0 < (forward(cast) - plain).abs().max() < 1


def test_methods_and_models_that_cannot_be_are_refused(backbone, parts, tiny_tokenizer) -> None:
    for method in (CONCAT_ID, CONCAT_ID_WAN, ST_DRC, replace(ST_DRC, reference_timestep="clean")):
        backbone.check_method(method)
    with pytest.raises(UserError, match=r"concat-id-wan-adaln.*reference_modulation.*LTX-2.*dataclasses.replace"):
        backbone.check_method(CONCAT_ID_WAN_ADALN)

    def refused(match: str, **changes) -> None:
        with pytest.raises(UserError, match=match):
            Ltx2Backbone(**{**parts, **changes})

    def transformer(**changes) -> ConcatLTX2Transformer3DModel:
        return ConcatLTX2Transformer3DModel.from_base(stock_transformer(**changes))

    refused("sound too.*from_base", transformer=stock_transformer())
    refused("input are 4 and 8", transformer=transformer(in_channels=8))
    refused("output are 4 and 8", transformer=transformer(out_channels=8))
    refused(
        r"frames and px a latent.*\(8, 32, 32\) and \(4, 32, 32\)",
        transformer=transformer(vae_scale_factors=(4, 32, 32)),
    )
    refused("width of the text.*32 and 48", transformer=transformer(cross_attention_dim=48))
    wrong = copy.deepcopy(parts["text_encoder"])
    wrong.config.text_config.num_hidden_layers = 5
    refused(r"text encoder's layers.*\(16, 6\) and \(16, 3\)", text_encoder=wrong)
    refused("fps 0", fps=0)
    refused("window_context 0", window_context=0)
    with pytest.raises(UserError, match="patches of 1 x 2 x 2"):
        ConcatLTX2Transformer3DModel(patch_size=2)
