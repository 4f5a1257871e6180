import logging
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLWan, FirstBlockCacheConfig, WanPipeline

from likeness.backbones.wan import ConcatWanTransformer3DModel, WanBackbone
from likeness.backbones.wan_transformer import ConcatWanTransformerBlock, rotary_table
from likeness.conditioning.sequence import drop, join
from likeness.errors import UserError
from likeness.method import CONCAT_ID, CONCAT_ID_WAN, CONCAT_ID_WAN_ADALN, ST_DRC, Method


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def clip() -> torch.Tensor:
    return torch.rand(1, 3, 9, 32, 32, generator=seeded()) * 2 - 1


@pytest.fixture
def transformer(tiny_transformer_config) -> ConcatWanTransformer3DModel:
    torch.manual_seed(0)
    return ConcatWanTransformer3DModel(**tiny_transformer_config)


def test_spec_is_read_from_the_layers(random_wan_backbone) -> None:
    spec = random_wan_backbone.spec
    assert (spec.spatial_stride, spec.temporal_stride, spec.patch) == (8, 4, (1, 2, 2))
    assert spec.latent_channels == 4
    assert spec.process.shift == 5.0


@torch.no_grad()
@pytest.mark.parametrize("residual", [False, True])
def test_vaes_in_the_manner_of_wan_2_2(random_wan_components, residual) -> None:
    vae = AutoencoderKLWan(
        base_dim=8, decoder_base_dim=8, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1, patch_size=2, in_channels=12,
        out_channels=12, temperal_downsample=[True, True], is_residual=residual, latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()  # fmt: skip
    backbone = WanBackbone(**{**random_wan_components, "vae": vae})
    pixels = torch.rand(1, 3, 5, 32, 48) * 2 - 1
    latents = backbone.encode_video(pixels)
    assert (1, *backbone.spec.latent_shape(5, 32, 48)) == latents.shape == (1, 4, 2, 4, 6)
    assert backbone.decode(latents).shape == pixels.shape
    assert backbone.decode_window(latents, 1, 1).equal(backbone.decode(latents)[:, :, 1:])


@torch.no_grad()
def test_latents_are_normalised_by_the_config(random_wan_backbone, clip) -> None:
    vae = random_wan_backbone.vae
    raw = vae.encode(clip).latent_dist.mode()
    for channel, (mean, deviation) in enumerate(zip(vae.config.latents_mean, vae.config.latents_std, strict=True)):
        latents = random_wan_backbone.encode_video(clip)[:, channel]
        torch.testing.assert_close(latents, (raw[:, channel] - mean) / deviation)
    # Decoding undoes it.
    torch.testing.assert_close(
        random_wan_backbone.decode(random_wan_backbone.encode_video(clip)), vae.decode(raw).sample
    )


@torch.no_grad()
def test_a_picture_is_encoded_as_the_first_frame_of_a_video(random_wan_backbone, clip) -> None:
    reference = random_wan_backbone.encode_reference(clip[:, :, :1])
    torch.testing.assert_close(reference, random_wan_backbone.encode_video(clip)[:, :, :1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("start", "length"), [(0, 1), (0, 3), (1, 1), (1, 2), (2, 1)])
def test_window_equals_the_whole_and_has_gradient_to_its_latents_alone(random_wan_backbone, start, length) -> None:
    latents = torch.randn(1, 4, 3, 4, 4, generator=seeded(), requires_grad=True)
    window = random_wan_backbone.decode_window(latents, start, length)
    first = 0 if start == 0 else 4 * start - 3
    whole = random_wan_backbone.decode(latents)
    assert window.equal(whole[:, :, first : first + window.shape[2]])
    assert window.shape[2] == 4 * length - (3 if start == 0 else 0)
    (gradient,) = torch.autograd.grad(window.sum(), latents)
    touched = gradient.abs().sum((0, 1, 3, 4)) > 0
    assert touched.tolist() == [start <= index < start + length for index in range(3)]


def test_window_must_lie_in_the_video(random_wan_backbone) -> None:
    for start, length in ((-1, 1), (0, 0), (2, 2)):
        with pytest.raises(UserError, match="window"):
            random_wan_backbone.decode_window(torch.zeros(1, 4, 3, 4, 4), start, length)


@torch.no_grad()
def test_text_is_encoded_as_by_diffusers(random_wan_backbone, random_wan_components) -> None:
    pipeline = WanPipeline(**random_wan_components)
    prompts = ["a man smiling in the park", "a  woman &amp; a city", ""]
    expected, _ = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=12)
    embeds = random_wan_backbone.encode_text(prompts)
    assert embeds.shape == (3, 12, 16)
    assert embeds.equal(expected)
    assert embeds[0, :7].abs().amin(-1).gt(0).all()
    assert embeds[0, 7:].eq(0).all()


def test_text_has_gradient(random_wan_backbone) -> None:
    encoder = random_wan_backbone.text_encoder.requires_grad_(True)
    try:
        random_wan_backbone.encode_text(["a man"]).sum().backward()
        assert encoder.shared.weight.grad.abs().sum() > 0
    finally:
        encoder.requires_grad_(False).zero_grad()


@torch.no_grad()
def test_long_prompts_are_cut_and_it_is_said(random_wan_backbone, caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="likeness"):
        random_wan_backbone.encode_text(["man " * 11])  # and the end token: 12, just fits
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger="likeness"):
        embeds = random_wan_backbone.encode_text(["man " * 40])
    assert "29 tokens of 41" in caplog.text
    assert embeds.shape == (1, 12, 16)


@torch.no_grad()
def test_predict_is_for_the_video_and_reads_everything(random_wan_backbone) -> None:
    video, text = torch.randn(2, 4, 3, 4, 4, generator=seeded()), torch.randn(2, 12, 16, generator=seeded(1))
    reference, sigma = torch.randn(2, 4, 1, 4, 4, generator=seeded(2)), torch.tensor([0.9, 0.1])
    sequence = join(CONCAT_ID_WAN, video, (reference,))
    output = random_wan_backbone.predict(sequence, sigma, text)
    assert output.shape == video.shape
    changes = {
        "sigma": (sequence, sigma * 0.5, text),
        "text": (sequence, sigma, text * 0.5),
        "reference": (join(CONCAT_ID_WAN, video, (reference * 0.5,)), sigma, text),
        "placement": (join(CONCAT_ID, video, (reference,)), sigma, text),
        "absence": (drop(ST_DRC, sequence, True), sigma, text),
        "timestep": (join(replace(CONCAT_ID_WAN, reference_timestep="clean"), video, (reference,)), sigma, text),
    }
    for name, arguments in changes.items():
        assert not random_wan_backbone.predict(*arguments).equal(output), name
    # A video does not see its neighbours in the batch.
    alone = random_wan_backbone.predict(join(CONCAT_ID_WAN, video[1:], (reference[1:],)), sigma[1:], text[1:])
    torch.testing.assert_close(alone, output[1:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_timesteps_are_thousandths_and_rounded_on_request(random_wan_components) -> None:
    seen = []
    transformer = random_wan_components["transformer"]
    hook = transformer.condition_embedder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    sequence = join(CONCAT_ID_WAN, torch.randn(1, 4, 1, 4, 4), (torch.randn(1, 4, 1, 4, 4),))
    for dtype in (None, torch.bfloat16):
        backbone = WanBackbone(**random_wan_components, timestep_dtype=dtype)
        backbone.predict(sequence, torch.tensor([0.723]), torch.zeros(1, 12, 16))
    hook.remove()
    assert [round(timestep.item(), 3) for timestep in seen] == [723.0, 724.0]


@pytest.mark.parametrize("method", [CONCAT_ID_WAN, ST_DRC, replace(CONCAT_ID_WAN, reference_timestep="clean")])
def test_checkpointing_changes_no_gradient(transformer, method: Method) -> None:
    backbone_inputs = {
        "hidden_states": torch.randn(1, 4, 3, 4, 4),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 5, 16),
        "references": (torch.randn(1, 4, 1, 4, 4),),
        "placement": method.placement,
        "reference_reads_text": method.reference_reads_text,
        "reference_timestep": method.reference_timestep,
    }
    gradients = []
    for checkpointing in (False, True):
        transformer.zero_grad()
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        transformer(**backbone_inputs).sample.square().mean().backward()
        assert all(parameter.grad is not None for parameter in transformer.parameters())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in transformer.parameters()]))
    assert gradients[0].equal(gradients[1])


def test_trains_after_inference_mode(transformer) -> None:
    """What is cached in one mode must serve in the other."""
    inputs = torch.randn(1, 4, 2, 6, 4), torch.tensor([500.0]), torch.randn(1, 5, 16)
    references = (torch.randn(1, 4, 1, 6, 4),)
    rotary_table.cache_clear()
    with torch.inference_mode():
        transformer(*inputs, references=references)
    transformer(*inputs, references=references).sample.sum().backward()
    assert rotary_table.cache_info().hits == 1


def test_every_parameter_of_the_adaln_variant_learns(tiny_transformer_config) -> None:
    model = ConcatWanTransformer3DModel(**tiny_transformer_config, reference_modulation="separate")
    inputs = torch.randn(1, 4, 3, 4, 4), torch.tensor([500.0]), torch.randn(1, 5, 16)
    model(*inputs, references=(torch.randn(1, 4, 1, 4, 4),)).sample.square().mean().backward()
    # The last block's references do not reach the output, so the gate of their feed-forward has nothing to learn there.
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []
    assert model.blocks[0].scale_shift_table_ref.grad[:, 5].any()


@torch.no_grad()
def test_bfloat16_weights_and_autocast_agree_with_float32(transformer) -> None:
    inputs = torch.randn(1, 4, 3, 4, 4), torch.tensor([500.0]), torch.randn(1, 5, 16)
    references = (torch.randn(1, 4, 1, 4, 4),)
    exact = transformer(*inputs, references=references).sample
    with torch.autocast("cpu", torch.bfloat16):
        mixed = transformer(*inputs, references=references).sample
    half = transformer.to(torch.bfloat16)(
        inputs[0].bfloat16(), inputs[1], inputs[2].bfloat16(), references=(references[0].bfloat16(),)
    ).sample
    for other in (mixed, half):
        assert (other.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_saves_and_loads(transformer, tmp_path) -> None:
    separate = ConcatWanTransformer3DModel.from_base(transformer, "separate")
    for model in (transformer, separate):
        model.save_pretrained(tmp_path / "model")
        loaded = ConcatWanTransformer3DModel.from_pretrained(tmp_path / "model")
        assert loaded.config.num_layers == 2
        assert loaded.config.reference_modulation == model.config.reference_modulation
        for (name, saved), (other, value) in zip(
            sorted(model.state_dict().items()), sorted(loaded.state_dict().items()), strict=True
        ):
            assert name == other
            assert saved.equal(value)


def test_modulation_stays_in_float32_when_loaded_in_bfloat16(transformer, tmp_path) -> None:
    separate = ConcatWanTransformer3DModel.from_base(transformer, "separate")
    separate.save_pretrained(tmp_path)
    loaded = ConcatWanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert loaded.blocks[0].scale_shift_table_ref.dtype == torch.float32
    assert loaded.blocks[0].scale_shift_table.dtype == torch.float32


@torch.no_grad()
def test_diffusers_step_cache_knows_the_block(transformer) -> None:
    inputs = torch.randn(1, 4, 3, 4, 4), torch.tensor([500.0]), torch.randn(1, 5, 16)
    references = (torch.randn(1, 4, 1, 4, 4),)
    exact = transformer(*inputs, references=references).sample
    transformer.enable_cache(FirstBlockCacheConfig(threshold=0.5))
    ran = []
    transformer.blocks[1].attn1.register_forward_hook(lambda *_: ran.append(1))
    with transformer.cache_context("guided"):
        torch.testing.assert_close(transformer(*inputs, references=references).sample, exact)
        torch.testing.assert_close(transformer(*inputs, references=references).sample, exact)
    assert len(ran) == 1  # the second step took the first one's residual


def test_blocks_are_named_to_diffusers(transformer) -> None:
    assert transformer._repeated_blocks == [ConcatWanTransformerBlock.__name__] == transformer._no_split_modules
    assert all(type(block) is ConcatWanTransformerBlock for block in transformer.blocks)


def test_methods_and_parts_that_do_not_fit_are_refused(random_wan_backbone, random_wan_components) -> None:
    for method in (CONCAT_ID, CONCAT_ID_WAN, ST_DRC):
        random_wan_backbone.check_method(method)
    with pytest.raises(UserError, match=r"concat-id-wan-adaln.*from_base"):
        random_wan_backbone.check_method(CONCAT_ID_WAN_ADALN)
    other = ConcatWanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=12, in_channels=6, out_channels=4, text_dim=4, freq_dim=4, ffn_dim=4,
        num_layers=1,
    )  # fmt: skip
    with pytest.raises(UserError, match="takes 6"):
        _ = WanBackbone(**{**random_wan_components, "transformer": other}).spec
