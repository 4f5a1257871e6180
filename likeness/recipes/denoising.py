"""Where on the way from noise to a video the person is lost.

`python -m likeness.recipes.denoising --model tiny --output FIGURES.json` takes drawn clips of people whom no part was trained on, adds
noise to their latents up to several levels, and lets the model take it away again, with the person's photograph and the clip's own
caption. What is lost from level 1 is what generation loses; what is lost from a low level are details that the model does not
read off the photograph. Level 0 is the VAE alone. The level where most is lost is where training has most to gain.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likeness.faces import load_faces
from likeness.media import atomic_write
from likeness.pipeline import LikenessPipeline
from likeness.recipes.measure import identity, reconstruction, subjects_of
from likeness.world import VALIDATION_PEOPLE, caption_of, clip_of, draw

_FIRST = VALIDATION_PEOPLE.start + 23_000  # apart from those of the cards
_BATCH = 8


def denoised_from(
    pipeline: LikenessPipeline,
    clean: Tensor,
    prompts: list[str],
    canvases: list[np.ndarray],
    start: int,
    **settings: Any,
) -> np.ndarray:
    """Videos ``uint8 [B, F, H, W, 3]`` made from noisy clips.

    Args:
        pipeline: the model.
        clean: latents of the clips ``[B, C, T, H, W]``.
        prompts: one a clip.
        canvases: of the references, one a clip.
        start: the first step of the sampler that is taken; the latents are noised to the level where it starts. 0 is from noise alone.
        settings: of the pipeline's call.
    """
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))  # the same whatever the start
    process = pipeline.backbone.spec.process
    sigma = process.sampler(int(pipeline.config.default_num_inference_steps)).sigmas[start]

    def begin(_: LikenessPipeline, step: int, __: float, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the steps before made of noise gives way to the clip."""
        return {"latents": process.add_noise(clean, noise, sigma.item())} if step == start - 1 else values

    output = pipeline(
        prompts,
        [[canvas] for canvas in canvases],
        latents=noise,
        callback_on_step_end=begin if start else None,
        **settings,
    )
    return np.rint(np.stack(output.frames) * 255).astype(np.uint8)


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument(
        "--starts", type=int, nargs="+", default=[0, 6, 9, 12, 15, 18], help="steps of the sampler to start from"
    )
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    pipeline = LikenessPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    backbone, faces = pipeline.backbone, load_faces(None)
    steps = int(pipeline.config.default_num_inference_steps)
    if max(arguments.starts) >= steps:
        parser.error(f"the model takes {steps} steps; start from one before the last")
    height, width = pipeline.config.default_height, pipeline.config.default_width
    people = list(range(_FIRST, _FIRST + arguments.people))
    subjects = subjects_of(people, faces, height, width)
    gallery, owners = np.stack([subject.embedding for subject in subjects]), np.arange(len(people))
    clips = [clip_of(person, 0) for person in people]
    real = draw(clips, height=height, width=width).pixels
    with torch.no_grad():
        pixels = torch.from_numpy(real).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        clean = torch.cat([backbone.encode_video(part) for part in pixels.split(_BATCH)])

    def similarity(videos: np.ndarray) -> object:
        return identity(list(videos), owners, gallery, faces)["similarity to the own photograph"]

    levels = backbone.spec.process.sampler(steps).sigmas.tolist()
    figures: dict[str, object] = {"people": f"{people[0]} to {people[-1]}", "drawn clips": similarity(real)}
    for start in sorted(arguments.starts):
        made = [
            denoised_from(
                pipeline, clean[part], [caption_of(clip) for clip in clips[part]],
                [subject.canvas for subject in subjects[part]], start,
            )
            for part in (slice(first, first + _BATCH) for first in range(0, len(people), _BATCH))
        ]  # fmt: skip
        figures[f"from noise level {levels[start]:.2f}"] = similarity(np.concatenate(made))
    _, decoded = reconstruction(pipeline, real)
    figures["from noise level 0, the VAE alone"] = similarity(decoded)
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.output:
        with atomic_write(arguments.output) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
