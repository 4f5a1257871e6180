import logging
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

from likeness.errors import CheckpointError, UserError
from likeness.method import CONCAT_ID, CONCAT_ID_WAN, CONCAT_ID_WAN_ADALN, ST_DRC
from likeness.pipeline import LikenessPipeline

PROMPT = "a man smiling in the park"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def canvas(seed: int = 0, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def run(pipeline: LikenessPipeline, prompt=PROMPT, references=None, **kwargs):
    references = [canvas()] if references is None else references
    settings = {"num_inference_steps": 2, "generator": seeded(), **kwargs}
    return pipeline(prompt, references, **settings).frames


def test_output_types(random_pipeline) -> None:
    (frames,) = run(random_pipeline)
    assert frames.shape == (5, 32, 32, 3)
    assert frames.dtype == np.float32
    assert 0 <= frames.min() < frames.max() <= 1
    (pictures,) = run(random_pipeline, output_type="pil")
    assert len(pictures) == 5
    assert isinstance(pictures[0], Image.Image)
    assert np.array_equal(np.stack([np.asarray(item) for item in pictures]), (frames * 255).round().astype(np.uint8))
    (tensor,) = run(random_pipeline, output_type="pt")
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), frames)
    latents = run(random_pipeline, output_type="latent")
    assert latents.shape == (1, 4, 2, 4, 4)
    decoded = random_pipeline.backbone.decode(latents)[0].permute(1, 2, 3, 0)
    np.testing.assert_allclose(frames, (decoded.numpy() + 1) / 2, atol=1e-6)


def test_everything_reaches_the_video(random_pipeline) -> None:
    first = run(random_pipeline, output_type="latent")
    assert first.equal(run(random_pipeline, output_type="latent"))
    changes = {
        "seed": {"generator": seeded(1)},
        "prompt": {"prompt": "a woman left"},
        "reference": {"references": [canvas(1)]},
        "no reference": {"references": []},
        "negative": {"negative_prompt": "a city"},
        "steps": {"num_inference_steps": 3},
        "text guidance": {"text_guidance": 2.0},
        "reference guidance": {"reference_guidance": 3.0},
    }
    for name, change in changes.items():
        assert not run(random_pipeline, **{"output_type": "latent", **change}).equal(first), name


def test_sizes(random_pipeline) -> None:
    (frames,) = run(random_pipeline, references=[canvas(0, 16, 48)], num_frames=9, height=16, width=48)
    assert frames.shape == (9, 16, 48, 3)


def test_batches_and_several_videos_a_prompt(random_pipeline) -> None:
    prompts = [PROMPT, "a woman left"]
    generators = [seeded(index) for index in range(4)]
    frames = run(
        random_pipeline, prompts, [[canvas(0)], [canvas(1)]], num_videos_per_prompt=2, generator=generators,
        negative_prompt=["a city", ""],
    )  # fmt: skip
    assert len(frames) == 4
    for index in range(4):
        (alone,) = run(
            random_pipeline, prompts[index // 2], [canvas(index // 2)], generator=seeded(index),
            negative_prompt=["a city", ""][index // 2],
        )  # fmt: skip
        np.testing.assert_allclose(frames[index], alone, atol=1e-4)
    shared = run(random_pipeline, prompts, [canvas(1)], generator=[seeded(0), seeded(2)])
    np.testing.assert_allclose(
        run(random_pipeline, prompts[1], [canvas(1)], generator=seeded(2))[0], shared[1], atol=1e-4
    )


def test_no_reference_is_a_dropped_one(random_pipeline) -> None:
    zero = run(random_pipeline, references=(), reference_latents=[torch.zeros(1, 4, 1, 4, 4)], output_type="latent")
    assert run(random_pipeline, references=(), output_type="latent").equal(zero)
    # Under "absent" it is the base model, whatever the scale of the reference.
    random_pipeline.method = ST_DRC
    first = run(random_pipeline, references=(), output_type="latent")
    assert not first.equal(zero)
    assert run(random_pipeline, references=(), reference_guidance=2.0, output_type="latent").equal(first)


def test_embeddings_and_latents_in_place_of_prompts_and_pictures(random_pipeline) -> None:
    given = {
        "prompt": None,
        "references": (),
        "prompt_embeds": random_pipeline.encode_prompts([PROMPT]),
        "negative_prompt_embeds": random_pipeline.encode_prompts([""]),
        "reference_latents": [random_pipeline.encode_reference(canvas())],
        "latents": torch.randn(1, 4, 2, 4, 4, generator=seeded()),
    }
    assert run(random_pipeline, **given, output_type="latent").equal(run(random_pipeline, output_type="latent"))


def test_each_prompt_and_picture_is_encoded_once(random_pipeline) -> None:
    calls = {"text_encoder": 0, "encoder": 0}

    def count(name: str):
        def hook(*_) -> None:
            calls[name] += 1

        return hook

    hooks = [
        random_pipeline.text_encoder.register_forward_hook(count("text_encoder")),
        random_pipeline.vae.encoder.register_forward_hook(count("encoder")),
    ]
    for prompt in (PROMPT, PROMPT, "a woman left"):
        run(random_pipeline, prompt, [canvas(0)])
    run(random_pipeline, [PROMPT, PROMPT], [[canvas(1)], [canvas(0)]], generator=None)
    for hook in hooks:
        hook.remove()
    assert calls == {"text_encoder": 3, "encoder": 2}  # two prompts and the empty one; two pictures


def test_a_reference_object_has_a_canvas(random_pipeline) -> None:
    @dataclass
    class Prepared:
        canvas: np.ndarray

    assert np.array_equal(run(random_pipeline, references=[Prepared(canvas())])[0], run(random_pipeline)[0])


def test_a_canvas_spans_minus_one_to_one(random_pipeline) -> None:
    seen = []
    hook = random_pipeline.vae.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    picture = canvas()
    picture[0, 0], picture[1, 2] = (0, 127, 255), (255, 0, 0)
    random_pipeline.encode_reference(picture)
    hook.remove()
    pixels = seen[0][0, :, 0]
    assert pixels[:, 0, 0].tolist() == pytest.approx([-1, 127 / 127.5 - 1, 1])
    assert pixels[:, 1, 2].tolist() == [1, -1, -1]


def test_callback(random_pipeline) -> None:
    seen = []

    def callback(pipeline, step, timestep, values):
        seen.append((step, timestep))
        assert pipeline is random_pipeline
        return {"latents": torch.zeros_like(values["latents"])} if step == 1 else None

    assert run(random_pipeline, output_type="latent", callback_on_step_end=callback).eq(0).all()
    assert seen == [(0, 1000.0), (1, pytest.approx(1000 * 5 / 6, rel=1e-5))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ""}, "empty prompt"),
        ({"prompt": [PROMPT, " "], "references": []}, "empty prompt"),
        ({"prompt": []}, "empty prompt"),
        ({"prompt": None}, "prompt or prompt_embeds"),
        ({"num_inference_steps": -1}, "-1 denoising steps"),
        ({"num_frames": 6}, "5 or 9"),
        ({"num_frames": 0}, "use 1"),
        ({"height": 30}, "16 or 32"),
        ({"width": 48}, r"uint8 \[32, 48, 3\]"),
        ({"references": [canvas().astype(np.float32)]}, "Reference 0 is float32"),
        ({"references": [canvas(), canvas()]}, "at most 1"),
        ({"references": [[canvas()], [canvas()]]}, "one list a prompt"),
        ({"text_guidance": float("nan")}, "finite"),
        ({"output_type": "gif"}, "np, pil, pt, latent"),
        ({"num_videos_per_prompt": 0}, "at least 1"),
        ({"generator": [seeded()] * 2}, "2 generators"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts"),
        ({"latents": torch.zeros(1, 4, 2, 4, 5)}, r"takes \[1, 4, 2, 4, 4\]"),
        ({"reference_latents": [torch.zeros(1, 4, 1, 4, 5)]}, "Reference 0 has latents"),
    ],
)
def test_mistakes_are_explained(random_pipeline, change, message) -> None:
    with pytest.raises(UserError, match=message):
        run(random_pipeline, **change)


def test_a_very_long_prompt_is_cut_and_it_is_said(random_pipeline, caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="likeness"):
        run(random_pipeline, "park " * 10_000)
    assert "9989 tokens" in caplog.text


def test_several_references(random_pipeline) -> None:
    random_pipeline.method = CONCAT_ID
    one = run(random_pipeline, references=[canvas(0)], output_type="latent")
    two = run(random_pipeline, references=[canvas(0), canvas(1)], output_type="latent")
    swapped = run(random_pipeline, references=[canvas(1), canvas(0)], output_type="latent")
    assert not one.equal(two)
    assert not two.equal(swapped)


def test_saves_and_loads(random_pipeline, tmp_path) -> None:
    random_pipeline.method = replace(ST_DRC, max_references=2)
    random_pipeline.save_pretrained(tmp_path)
    loaded = LikenessPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.method == random_pipeline.method
    assert loaded.config.default_fps == 8
    assert np.array_equal(run(loaded)[0], run(random_pipeline)[0])
    assert LikenessPipeline.from_pretrained(tmp_path, method=CONCAT_ID_WAN).method == CONCAT_ID_WAN
    # A method whose tables the weights lack gets them as copies.
    separate = LikenessPipeline.from_pretrained(tmp_path, method=CONCAT_ID_WAN_ADALN)
    separate.save_pretrained(tmp_path / "separate")
    assert LikenessPipeline.from_pretrained(tmp_path / "separate").method == CONCAT_ID_WAN_ADALN
    with pytest.raises(UserError, match="separate modulation"):
        LikenessPipeline.from_pretrained(tmp_path / "separate", method=CONCAT_ID_WAN)
    (tmp_path / "method.json").unlink()
    with pytest.raises(CheckpointError, match="method="):
        LikenessPipeline.from_pretrained(tmp_path)


def test_half_precision_runs(random_pipeline, tmp_path) -> None:
    random_pipeline.save_pretrained(tmp_path)
    loaded = LikenessPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    loaded.set_progress_bar_config(disable=True)
    difference = np.abs(run(loaded)[0] - run(random_pipeline)[0])
    assert difference.mean() < 0.05


def test_a_method_is_needed(random_wan_components) -> None:
    with pytest.raises(UserError, match="method="):
        LikenessPipeline(**random_wan_components)


def test_diffusers_knows_the_components(random_pipeline, random_wan_components) -> None:
    assert random_pipeline.components == {**random_wan_components, "connectors": None}
    random_pipeline.to(torch.float32)


def test_the_shipped_model_makes_the_same_video_twice(tiny_folder) -> None:
    pipeline = LikenessPipeline.from_pretrained("tiny")
    pipeline.set_progress_bar_config(disable=True)
    height, width = pipeline.config.default_height, pipeline.config.default_width
    first, second = (run(pipeline, "a man in a park", [canvas(0, height, width)])[0] for _ in range(2))
    assert first.shape == (pipeline.config.default_num_frames, height, width, 3)
    assert np.array_equal(first, second)


def test_a_cogvideox_folder_serves_as_any_other(random_cogvideox_components, tmp_path) -> None:
    pipeline = LikenessPipeline(
        **random_cogvideox_components, method=CONCAT_ID, default_num_frames=9, default_height=32, default_width=32
    )
    pipeline.scheduler.register_to_config(sampler="sat-dpm")
    pipeline.set_progress_bar_config(disable=True)
    canvases = [np.full((32, 32, 3), value, np.uint8) for value in (40, 200)]

    def video(given) -> np.ndarray:
        generator = torch.Generator().manual_seed(3)
        return given("a man in the park", canvases, num_inference_steps=3, generator=generator).frames[0]

    first = video(pipeline)
    assert first.shape == (9, 32, 32, 3) and np.array_equal(first, video(pipeline))
    pipeline.save_pretrained(tmp_path)
    loaded = LikenessPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.backbone.spec.process.sampler_name == "sat-dpm"
    # Weights that lie elsewhere in memory may be added up in another order.
    np.testing.assert_allclose(video(loaded), first, atol=1e-4)
    with pytest.raises(UserError, match=r"8 frames .* 1 or 9"):
        pipeline("a man", num_frames=8)
    with pytest.raises(UserError, match="schedule has none"):
        LikenessPipeline.from_pretrained(tmp_path, shift=5.0)


def test_dropped_text_is_what_the_method_was_trained_with(random_pipeline) -> None:
    """Joint guidance needs a stream without text: the empty prompt's embeddings, zeros, or a negative prompt."""
    seen: list[torch.Tensor] = []
    hook = random_pipeline.transformer.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[2]))
    canvas = np.full((32, 32, 3), 90, np.uint8)

    def unconditional(dropped: str, negative: str) -> torch.Tensor:
        seen.clear()
        random_pipeline.method = replace(random_pipeline.method, dropped_text=dropped)
        random_pipeline("a man", [canvas], negative_prompt=negative, num_inference_steps=1, output_type="latent")
        return seen[0]  # streams without text come first

    try:
        assert torch.equal(unconditional("empty", ""), random_pipeline.encode_prompts([""]))
        assert unconditional("zeros", "").abs().max() == 0
        assert torch.equal(unconditional("zeros", "a woman"), random_pipeline.encode_prompts(["a woman"]))
    finally:
        hook.remove()
