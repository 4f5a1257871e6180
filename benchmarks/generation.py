"""Seconds to a tiny video: `python benchmarks/generation.py [--threads 2]`, with loading and after it.

Loading counts the imports. After it, the median of nine videos whose prompt and photograph are new each time.
"""

from __future__ import annotations

import argparse
import statistics
import time


def main() -> None:
    """Print both times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--videos", type=int, default=9)
    arguments = parser.parse_args()
    started = time.perf_counter()
    import torch

    torch.set_num_threads(arguments.threads)
    from likeness.faces import load_faces
    from likeness.pipeline import LikenessPipeline
    from likeness.world import VALIDATION_PEOPLE
    from likeness.world.folder import draw_photograph

    pipeline, faces = LikenessPipeline.from_pretrained("tiny"), load_faces()
    pipeline.set_progress_bar_config(disable=True)
    loading = time.perf_counter() - started
    seconds = []
    for index in range(arguments.videos):
        photograph = draw_photograph(VALIDATION_PEOPLE.start + index)
        begun = time.perf_counter()
        reference = faces.reference(photograph, pipeline.config.default_height, pipeline.config.default_width)
        pipeline(f"A person nods {'slowly ' * index}in the snow.", [reference], num_inference_steps=arguments.steps)
        seconds.append(time.perf_counter() - begun)
    median = statistics.median(seconds)
    print(
        f"{arguments.threads} threads, {arguments.steps} steps: loading {loading:.1f} s, a video {median:.2f} s after it"
    )


if __name__ == "__main__":
    main()
