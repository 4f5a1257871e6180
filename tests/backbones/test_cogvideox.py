import logging
from dataclasses import replace

import pytest
import torch
from cogvideox_parts import SCHEDULER, cogvideox_parts
from diffusers import CogVideoXDPMScheduler, CogVideoXPipeline
from transformers import T5Config, T5EncoderModel

from likeness.backbones.cogvideox import CogVideoXBackbone, rotary_table
from likeness.conditioning.sequence import drop, join
from likeness.errors import UserError
from likeness.method import CONCAT_ID, CONCAT_ID_WAN, CONCAT_ID_WAN_ADALN, ST_DRC, Placement
from likeness.sampling import denoise
from likeness.types import LatentGrid


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def parts(tiny_tokenizer) -> dict:
    return cogvideox_parts(tiny_tokenizer)


@pytest.fixture
def backbone(parts) -> CogVideoXBackbone:
    return CogVideoXBackbone(**parts)


@pytest.fixture
def clip() -> torch.Tensor:
    return torch.rand(1, 3, 9, 32, 48, generator=seeded()) * 2 - 1


def test_spec_is_read_from_the_parts(backbone) -> None:
    spec = backbone.spec
    assert (spec.spatial_stride, spec.temporal_stride, spec.patch, spec.latent_channels) == (8, 4, (1, 2, 2), 4)
    assert spec.latent_shape(49, 480, 720) == (4, 13, 60, 90)
    assert spec.grid(49, 480, 720) == LatentGrid(13, 30, 45)
    assert spec.process.snr_shift_scale == 1.0


@torch.no_grad()
def test_frame_rule_is_that_of_the_decoder(backbone) -> None:
    for frames in (1, 9, 17, 49, 81):
        backbone.spec.check_size(frames, 32, 48)
    assert backbone.decode(torch.zeros(1, *backbone.spec.latent_shape(17, 32, 48))).shape[2] == 17
    with pytest.raises(UserError, match=r"80 frames.*CogVideoX makes 1 \+ 8 n frames: use 73 or 81"):
        backbone.spec.check_size(80, 32, 48)
    # 5 frames encode to 2 latents, of which diffusers' decoder makes 8 frames.
    with pytest.raises(UserError, match="use 1 or 9"):
        backbone.spec.check_size(5, 32, 48)
    assert backbone.vae.decode(torch.zeros(1, 4, 2, 4, 6)).sample.shape[2] == 8
    with pytest.raises(UserError, match="2 latents"):
        backbone.decode(torch.zeros(1, 4, 2, 4, 6))
    with pytest.raises(UserError, match="A height of 40 px"):
        backbone.spec.check_size(9, 40, 48)


def test_sampler_is_named_by_argument_config_or_class(parts) -> None:
    assert CogVideoXBackbone(**parts).spec.process.sampler_name == "ddim"
    dpm = CogVideoXDPMScheduler(**SCHEDULER)
    assert CogVideoXBackbone(**{**parts, "scheduler": dpm}).spec.process.sampler_name == "dpm"
    dpm.register_to_config(sampler="sat-dpm")
    assert CogVideoXBackbone(**{**parts, "scheduler": dpm}).spec.process.sampler_name == "sat-dpm"
    assert CogVideoXBackbone(**{**parts, "scheduler": dpm}, sampler="ddim").spec.process.sampler_name == "ddim"


@torch.no_grad()
def test_latents_are_scaled_by_the_config(backbone, clip) -> None:
    raw = backbone.vae.encode(clip).latent_dist.mode()
    latents = backbone.encode_video(clip)
    assert latents.shape == (1, *backbone.spec.latent_shape(9, 32, 48))
    torch.testing.assert_close(latents, raw * 0.7)
    torch.testing.assert_close(backbone.decode(latents), backbone.vae.decode(raw).sample.clamp(-1, 1))


@torch.no_grad()
def test_a_picture_is_encoded_alone(backbone, clip) -> None:
    reference = backbone.encode_reference(clip[:, :, :1])
    assert reference.shape == (1, 4, 1, 4, 6)
    # Not what it is as a video's first frame.
    assert (reference - backbone.encode_video(clip)[:, :, :1]).abs().max() > 1e-3


@pytest.mark.parametrize("total", [1, 3, 5])
def test_window_equals_the_whole_and_has_gradient_to_its_latents_alone(backbone, total) -> None:
    latents = torch.randn(1, 4, total, 2, 2, generator=seeded(), requires_grad=True)
    whole = backbone.decode(latents)
    assert whole.shape[2] == 4 * total - 3
    for start in range(total):
        for end in range(start + 1, total + 1):
            window = backbone.decode_window(latents, start, end - start)
            first = 0 if start == 0 else 4 * start - 3
            assert window.equal(whole[:, :, first : 4 * end - 3]), (start, end)
            (gradient,) = torch.autograd.grad(window.sum(), latents)
            touched = gradient.abs().sum((0, 1, 3, 4)) > 0
            assert touched.tolist() == [start <= index < end for index in range(total)], (start, end)


def test_history_of_a_window_keeps_no_graph(backbone) -> None:
    recorded = []
    hook = backbone.vae.decoder.register_forward_hook(
        lambda module, args, output: recorded.append(output[0].requires_grad)
    )
    backbone.decode_window(torch.zeros(1, 4, 7, 2, 2, requires_grad=True), 5, 1)
    hook.remove()
    assert recorded == [False, False, True]


def test_window_must_lie_in_the_video(backbone) -> None:
    for start, length in ((-1, 1), (0, 0), (2, 2)):
        with pytest.raises(UserError, match="window"):
            backbone.decode_window(torch.zeros(1, 4, 3, 4, 4), start, length)
    with pytest.raises(UserError, match="4 latents"):
        backbone.decode_window(torch.zeros(1, 4, 4, 4, 4), 0, 1)


@torch.no_grad()
def test_text_is_encoded_as_by_diffusers(backbone, parts, caplog) -> None:
    prompts = ["a man smiling in the park", ""]
    expected, _ = CogVideoXPipeline(**parts).encode_prompt(
        prompts, do_classifier_free_guidance=False, max_sequence_length=12
    )
    with caplog.at_level(logging.WARNING, logger="likeness"):
        assert backbone.encode_text(prompts).equal(expected)
        assert not caplog.records
        assert backbone.encode_text(["man " * 40]).shape == (1, 12, 16)
    assert "29 tokens of 41" in caplog.text


@torch.no_grad()
def test_predict_is_for_the_video_and_reads_everything(backbone) -> None:
    video, text = torch.randn(2, 4, 3, 4, 6, generator=seeded()), torch.randn(2, 12, 16, generator=seeded(1))
    reference, sigma = torch.randn(2, 4, 1, 4, 6, generator=seeded(2)), torch.tensor([0.9, 0.1])
    sequence = join(CONCAT_ID, video, (reference,))
    output = backbone.predict(sequence, sigma, text)
    assert output.shape == video.shape
    changes = {
        "sigma": (sequence, sigma * 0.5, text),
        "text": (sequence, sigma, text * 0.5),
        "reference": (join(CONCAT_ID, video, (reference * 0.5,)), sigma, text),
        "placement": (join(ST_DRC, video, (reference,)), sigma, text),
        "absence": (drop(ST_DRC, sequence, True), sigma, text),
        "dropped": (drop(CONCAT_ID, sequence, True), sigma, text),
    }
    for name, arguments in changes.items():
        assert not backbone.predict(*arguments).equal(output), name
    # A video does not see its neighbours in the batch.
    alone = backbone.predict(join(CONCAT_ID, video[1:], (reference[1:],)), sigma[1:], text[1:])
    torch.testing.assert_close(alone, output[1:], atol=1e-5, rtol=1e-5)


def test_trains_after_inference_mode(parts) -> None:
    """What is cached in one mode must serve in the other."""
    backbone = CogVideoXBackbone(**parts)
    video = torch.randn(1, 4, 1, 8, 6, requires_grad=True)
    sequence = join(CONCAT_ID, video, (torch.randn(1, 4, 1, 8, 6),))
    arguments = (sequence, torch.tensor([0.5]), torch.zeros(1, 12, 16))
    rotary_table.cache_clear()
    with torch.inference_mode():
        backbone.predict(*arguments)
    backbone.predict(*arguments).sum().backward()
    assert video.grad is not None
    assert rotary_table.cache_info().hits == 1


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["ddim", "dpm", "sat-dpm"])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_denoises_with_any_number_of_references(parts, sampler, count) -> None:
    backbone = CogVideoXBackbone(**parts, sampler=sampler)
    noise = torch.randn(2, 4, 3, 4, 6, generator=seeded())
    references = [torch.randn(2, 4, 1, 4, 6, generator=seeded(index + 1)) for index in range(count)]
    text = backbone.encode_text(["a man in the park", "a woman"])

    def run(references, seed: int = 7) -> torch.Tensor:
        return denoise(
            backbone, CONCAT_ID, latents=noise, references=references, prompt_embeds=text,
            negative_embeds=torch.zeros_like(text), num_inference_steps=3, streams=CONCAT_ID.guidance.streams(),
            generator=seeded(seed),
        )  # fmt: skip

    latents = run(references)
    assert latents.shape == noise.shape
    assert latents.isfinite().all()
    assert latents.equal(run(references))
    # The noise of the stochastic samplers is the generator's.
    assert latents.equal(run(references, seed=8)) == (sampler == "ddim")
    if count:
        assert not latents.equal(run([*references[:-1], references[-1] * 0.5]))


def test_methods_that_joint_attention_cannot_express_are_refused(backbone) -> None:
    for method in (CONCAT_ID, ST_DRC, replace(CONCAT_ID, placement=Placement(gap=2, cols=1))):
        backbone.check_method(method)
    for method, field in (
        (CONCAT_ID_WAN, "reference_reads_text"),
        (CONCAT_ID_WAN_ADALN, "reference_reads_text"),
        (replace(CONCAT_ID, reference_timestep="clean"), "reference_timestep"),
        (replace(CONCAT_ID, reference_modulation="separate"), "reference_modulation"),
    ):
        with pytest.raises(UserError, match=rf"{method.name}.*{field}.*CogVideoX.*dataclasses.replace"):
            backbone.check_method(method)


def test_models_that_cannot_take_references_and_foreign_parts_are_refused(parts, tiny_tokenizer) -> None:
    def refused(match: str, **changes) -> None:
        with pytest.raises(UserError, match=match):
            CogVideoXBackbone(**{**parts, **changes})

    def transformer(**changes):
        return cogvideox_parts(tiny_tokenizer, **changes)["transformer"]

    refused("CogVideoX 1.5", transformer=transformer(patch_size_t=2))
    refused("absolute positions", transformer=transformer(use_rotary_positional_embeddings=False))
    refused("absolute positions", transformer=transformer(use_learned_positional_embeddings=True))
    refused("takes 8 .* image-to-video", transformer=transformer(in_channels=8))
    wide = T5Config(vocab_size=20, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    refused("width 16.* 24", text_encoder=T5EncoderModel(wide))
    refused("prediction_type", scheduler=CogVideoXDPMScheduler(prediction_type="epsilon"))
