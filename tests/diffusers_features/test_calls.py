"""What users of diffusers' pipelines expect of a call and of a folder, on every family."""

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, WanTransformer3DModel
from PIL import Image

from likeness.backbones.wan import ConcatWanTransformer3DModel
from likeness.method import CONCAT_ID_WAN_ADALN
from likeness.pipeline import LikenessPipeline


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_saved_and_loaded(pipeline, video, tmp_path) -> None:
    first = video(pipeline)
    pipeline.save_pretrained(tmp_path)
    loaded = LikenessPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.method == pipeline.method
    # Weights that lie elsewhere in memory may be added up in another order.
    torch.testing.assert_close(video(loaded), first, rtol=1e-4, atol=1e-4)
    half = LikenessPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.transformer.dtype == half.text_encoder.dtype == torch.bfloat16 and half.vae.dtype == torch.float32


def test_the_class_of_diffusers_does_not_open_the_folder(pipeline, tmp_path) -> None:
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(Exception, match="LikenessPipeline"):
        DiffusionPipeline.from_pretrained(tmp_path)


def test_from_pretrained_knows_no_device_map(pipeline, tmp_path) -> None:
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="device_map"):
        LikenessPipeline.from_pretrained(tmp_path, device_map="balanced")  # type: ignore[call-arg]


def test_output_types(pipeline, video) -> None:
    frames = video(pipeline, output_type="np")[0]
    count = pipeline.config.default_num_frames
    assert frames.shape == (count, 32, 32, 3) and frames.dtype == np.float32
    pictures = video(pipeline, output_type="pil")[0]
    assert len(pictures) == count and isinstance(pictures[0], Image.Image)
    tensor = video(pipeline, output_type="pt")[0]
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), frames)
    latents = video(pipeline)
    assert latents.shape == (1, *pipeline.backbone.spec.latent_shape(count, 32, 32))
    assert isinstance(video(pipeline, output_type="latent"), torch.Tensor)


def test_generators_and_videos_a_prompt(pipeline, video) -> None:
    several = video(pipeline, num_videos_per_prompt=2, generator=[seeded(1), seeded(2)])
    assert several.shape[0] == 2
    for index, seed in enumerate((1, 2)):
        torch.testing.assert_close(
            several[index : index + 1], video(pipeline, generator=seeded(seed)), rtol=1e-4, atol=1e-4
        )
    shared = video(pipeline, num_videos_per_prompt=2, generator=seeded(1))
    assert not torch.equal(shared[0], shared[1])
    assert torch.equal(shared, video(pipeline, num_videos_per_prompt=2, generator=seeded(1)))


def test_callback_and_interrupt(pipeline, video) -> None:
    steps = []

    def callback(given, step, timestep, values):
        assert given is pipeline and values["latents"].shape[0] == 1
        steps.append((step, timestep))
        given._interrupt = step == 1
        return {}

    whole = video(pipeline, num_inference_steps=4)
    stopped = video(pipeline, num_inference_steps=4, callback_on_step_end=callback)
    assert [step for step, _ in steps] == [0, 1] and steps[0][1] > steps[1][1]
    assert pipeline.interrupt and not torch.equal(stopped, whole)
    # The next call is not interrupted.
    assert torch.equal(video(pipeline, num_inference_steps=4), whole)


def test_latents_from_a_callback_are_taken(pipeline, video) -> None:
    made = video(
        pipeline, callback_on_step_end=lambda *arguments: {"latents": torch.zeros_like(arguments[3]["latents"])}
    )
    assert made.eq(0).all()


def test_a_vanilla_checkpoint_opens_with_every_parameter(tiny_transformer_config, tmp_path) -> None:
    """diffusers' own from_pretrained would leave the references' tables of an ordinary checkpoint without values."""
    base = WanTransformer3DModel(**tiny_transformer_config)
    base.save_pretrained(tmp_path)
    shared = ConcatWanTransformer3DModel.from_pretrained(tmp_path)
    assert not any(tensor.is_meta for tensor in [*shared.parameters(), *shared.buffers()])
    separate = ConcatWanTransformer3DModel.from_base(shared, "separate")
    assert not any(tensor.is_meta for tensor in [*separate.parameters(), *separate.buffers()])
    for block in separate.blocks:
        assert torch.equal(block.scale_shift_table_ref, block.scale_shift_table)
    embedder = separate.condition_embedder
    assert torch.equal(embedder.time_proj_ref.weight, embedder.time_proj.weight)


def test_a_pipeline_of_vanilla_weights_gets_tables_for_its_method(make_pipeline, video, tmp_path) -> None:
    make_pipeline("wan").save_pretrained(tmp_path)
    separate = LikenessPipeline.from_pretrained(tmp_path, method=CONCAT_ID_WAN_ADALN)
    separate.set_progress_bar_config(disable=True)
    assert not any(tensor.is_meta for tensor in separate.transformer.parameters())
    assert video(separate).isfinite().all()


def test_references_tables_stay_float32(make_pipeline, random_wan_components, tmp_path) -> None:
    transformer = ConcatWanTransformer3DModel.from_base(random_wan_components["transformer"], "separate")
    transformer.save_pretrained(tmp_path)
    loaded = ConcatWanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    for block in loaded.blocks:
        assert block.scale_shift_table_ref.dtype == block.scale_shift_table.dtype == torch.float32
        assert block.attn1.to_q.weight.dtype == torch.bfloat16
