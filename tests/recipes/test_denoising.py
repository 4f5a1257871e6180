"""Noisy clips are denoised from where the sampler would have had them."""

import numpy as np
import torch

from likeness.pipeline import LikenessPipeline
from likeness.recipes.denoising import denoised_from
from likeness.world import caption_of, clip_of, draw


def test_the_less_noise_the_more_is_left_of_a_clip() -> None:
    pipeline = LikenessPipeline.from_pretrained("tiny")
    pipeline.set_progress_bar_config(disable=True)
    clip = clip_of(823_000, 0)
    real = draw([clip], height=64, width=64).pixels
    with torch.no_grad():
        clean = pipeline.backbone.encode_video(torch.from_numpy(real).permute(0, 4, 1, 2, 3).float() / 127.5 - 1)
    canvas = np.zeros((64, 64, 3), np.uint8)

    def error(start: int) -> float:
        made = denoised_from(pipeline, clean, [caption_of(clip)], [canvas], start)
        assert made.shape == real.shape and made.dtype == np.uint8
        return float(np.abs(made.astype(float) - real).mean())

    nothing, half, most = error(0), error(10), error(19)
    assert most < half < nothing and most < 8  # of 255; the VAE's own error is about 5
