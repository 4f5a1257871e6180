"""diffusers' step caches: a state for each guidance stream, forgotten after each video."""

from dataclasses import replace

import pytest
import torch
from diffusers import FasterCacheConfig, FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, SeaCacheConfig
from diffusers.hooks import MagCacheConfig, TaylorSeerCacheConfig
from diffusers.hooks._helpers import TransformerBlockRegistry

from likeness.backbones.wan_transformer import ConcatWanTransformerBlock
from likeness.errors import UserError
from likeness.method import ST_DRC

STEPS = 4


@pytest.fixture
def tail_calls(blocks):
    """How often the last block computes."""

    def count(pipeline) -> list[int]:
        calls = []
        # diffusers' hooks replace the block's forward; its norms are called where that really runs.
        blocks(pipeline)[-1].norm2.register_forward_pre_hook(lambda module, arguments: calls.append(1))
        return calls

    return count


def first_block(threshold: float) -> FirstBlockCacheConfig:
    return FirstBlockCacheConfig(threshold=threshold)


def test_nothing_is_skipped_at_threshold_zero(pipeline, video, tail_calls) -> None:
    before = video(pipeline, num_inference_steps=STEPS)
    pipeline.transformer.enable_cache(first_block(0.0))
    calls = tail_calls(pipeline)
    assert torch.equal(video(pipeline, num_inference_steps=STEPS), before)
    assert len(calls) == 2 * STEPS


def test_what_is_skipped(pipeline, video, tail_calls) -> None:
    before = video(pipeline, num_inference_steps=STEPS)
    pipeline.transformer.enable_cache(first_block(1e9))
    calls = tail_calls(pipeline)
    first = video(pipeline, num_inference_steps=STEPS)
    assert len(calls) == 2  # each stream's first step
    assert first.isfinite().all() and not torch.equal(first, before)
    # A second video begins anew.
    assert torch.equal(video(pipeline, num_inference_steps=STEPS), first)
    assert len(calls) == 4
    pipeline.transformer.disable_cache()
    assert torch.equal(video(pipeline, num_inference_steps=STEPS), before)


def test_streams_have_states_of_their_own(pipeline, video) -> None:
    """Streams of different lengths: one without the reference's tokens. A state in common would not even fit."""
    pipeline.method = replace(ST_DRC, max_references=1)
    names = []
    original = pipeline.transformer.cache_context

    def watched(name: str, **kwargs):
        names.append(name)
        return original(name, **kwargs)

    pipeline.transformer.cache_context = watched
    pipeline.transformer.enable_cache(first_block(1e9))
    assert video(pipeline, num_inference_steps=STEPS).isfinite().all()
    assert len(names) == 3 * STEPS and len(set(names)) == 3
    assert names[:3] == names[3:6]


def test_cached_streams_do_not_see_each_other(pipeline, video) -> None:
    """With one stream or with two, the stream with everything computes the same predictions."""
    pipeline.transformer.enable_cache(first_block(1e9))
    transformer, outputs = pipeline.transformer, []

    def predictions(text_guidance: float) -> list[torch.Tensor]:
        outputs.clear()
        hook = transformer.register_forward_hook(lambda module, arguments, output: outputs.append(output[0]))
        latents = torch.randn(
            1, *pipeline.backbone.spec.latent_shape(9, 32, 32), generator=torch.Generator().manual_seed(5)
        )
        # The same latents before each step, whatever was predicted.
        video(
            pipeline, num_frames=9, latents=latents, text_guidance=text_guidance, num_inference_steps=STEPS,
            callback_on_step_end=lambda *arguments: {"latents": latents},
        )  # fmt: skip
        hook.remove()
        return list(outputs)

    alone, both = predictions(1.0), predictions(3.0)
    assert len(alone) == STEPS and len(both) == 2 * STEPS
    halves = (both[0::2], both[1::2])
    assert any(all(torch.equal(a, b) for a, b in zip(alone, half, strict=True)) for half in halves)


def test_an_error_leaves_no_state_behind(pipeline, video) -> None:
    pipeline.transformer.enable_cache(first_block(1e9))

    def fail(*arguments):
        raise KeyboardInterrupt

    first = video(pipeline, num_inference_steps=STEPS)
    with pytest.raises(KeyboardInterrupt):
        video(pipeline, num_frames=1, num_inference_steps=STEPS, callback_on_step_end=fail)
    assert torch.equal(video(pipeline, num_inference_steps=STEPS), first)


def test_the_subclass_is_registered_by_its_exact_class() -> None:
    metadata = TransformerBlockRegistry.get(ConcatWanTransformerBlock)
    assert metadata.return_hidden_states_index == 0

    class Another(ConcatWanTransformerBlock):
        pass

    with pytest.raises(ValueError, match="not registered"):
        TransformerBlockRegistry.get(Another)


def test_mag_cache(pipeline, video, tail_calls) -> None:
    config = MagCacheConfig(threshold=1e9, mag_ratios=[1.0] * STEPS, num_inference_steps=STEPS, retention_ratio=0.25)
    pipeline.transformer.enable_cache(config)
    calls = tail_calls(pipeline)
    assert video(pipeline, num_inference_steps=STEPS).isfinite().all()
    assert 0 < len(calls) < 2 * STEPS


def test_taylor_seer(pipeline, video) -> None:
    before = video(pipeline, num_inference_steps=STEPS)
    config = TaylorSeerCacheConfig(
        cache_interval=2,
        disable_cache_before_step=1,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[r".*blocks\.\d+\.(attn1|ff|ffn)"],
    )
    pipeline.transformer.enable_cache(config)
    after = video(pipeline, num_inference_steps=STEPS)
    assert after.isfinite().all() and not torch.equal(after, before)
    assert torch.equal(video(pipeline, num_inference_steps=STEPS), after)


def test_taylor_seer_finds_nothing_by_itself(pipeline, video) -> None:
    """diffusers' default patterns end in "attn", these attentions are called attn1; docs/diffusers.md says what to give."""
    before = video(pipeline, num_inference_steps=STEPS)
    pipeline.transformer.enable_cache(TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1))
    assert torch.equal(video(pipeline, num_inference_steps=STEPS), before)


@pytest.mark.parametrize("config", [PyramidAttentionBroadcastConfig, FasterCacheConfig])
def test_caches_with_one_state_for_all_streams_are_refused(pipeline, video, config) -> None:
    pipeline.transformer.enable_cache(
        config(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(0, 1000),
            current_timestep_callback=lambda: 500,
        )
    )
    with pytest.raises(UserError, match=rf"{config.__name__}.*FirstBlockCacheConfig"):
        video(pipeline)


def test_sea_cache_on_wan(make_pipeline, video) -> None:
    """It learns of the step and its noise level from the loop. CogVideoX it does not know and computes in full."""
    for family, skips in (("wan", True), ("cogvideox", False)):
        pipeline = make_pipeline(family)
        before = video(pipeline, num_inference_steps=STEPS)
        pipeline.transformer.enable_cache(SeaCacheConfig(threshold=1e9))
        assert torch.equal(video(pipeline, num_inference_steps=STEPS), before) != skips
