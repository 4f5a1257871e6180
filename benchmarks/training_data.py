"""What `likeness precompute` is worth: `python benchmarks/training_data.py [--model tiny] [--batch 8] [--device cpu]`.

Draws clips, precomputes them, and trains the model on them in one process: alternately a step whose batch is encoded as it is
needed and one whose batch is read from the store, medians of at least nine. Then steps in a row with reading ahead, for the share
of time that the loop waits for data.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path


def main() -> None:
    """Print the seconds of a step both ways, and the shares of waiting."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    from likeness.generate.studio import quieten_libraries
    from likeness.pipeline import LikenessPipeline
    from likeness.train.clips import FrameRule
    from likeness.train.loader import PairLoader
    from likeness.train.objective import Objective, sample_generators
    from likeness.train.pairs import read_pairs
    from likeness.train.precompute import Settings, default_size, precompute
    from likeness.train.store import Store
    from likeness.world.folder import DrawingSettings, draw_people

    quieten_libraries()
    size = default_size(arguments.model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = DrawingSettings(height=size.height, width=size.width, num_frames=size.num_frames, fps=size.fps)
        draw_people(folder / "people", first=0, num=32, clips=2, settings=settings)
        pairs = read_pairs([folder / "people"])
        rule = FrameRule(size.num_frames, size.fps)
        work = Settings(model=arguments.model, output=folder / "store", rule=rule, sizes=((size.height, size.width),))
        precompute(pairs, replace(work, device=arguments.device))

        pipeline = LikenessPipeline.from_pretrained(arguments.model, torch_dtype=torch.float32, device=arguments.device)
        pipeline.set_progress_bar_config(disable=True)
        backbone = pipeline.backbone
        transformer = pipeline.transformer.requires_grad_(True).train()
        objective = Objective(backbone, pipeline.method, pipeline.encode_prompts([""]))
        optimizer = torch.optim.AdamW(transformer.parameters(), 1e-6)

        def step(batch, number: int) -> None:
            generators = sample_generators(0, number, 0, arguments.batch)
            objective(batch.to(torch.device(arguments.device)), generators)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            if arguments.device != "cpu":
                torch.cuda.synchronize()

        def loader(store: Store | None, workers: int) -> PairLoader:
            return PairLoader(
                pairs, backbone, store=store, num_frames=size.num_frames, height=size.height, width=size.width,
                fps=size.fps, batch_size=arguments.batch, seed=0, workers=workers,
            )  # fmt: skip

        clock = time.process_time if arguments.device == "cpu" else time.perf_counter
        ways = {"encoded as needed": None, "from the store": Store.open(folder / "store", backbone)}
        loaders = {way: loader(store, 0) for way, store in ways.items()}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(arguments.rounds + 1):
            for way, made in loaders.items():
                began = clock()
                step(made.batch(number), number)
                if number:  # the first round warms up
                    seconds[way].append(clock() - began)
        medians = {way: statistics.median(values) for way, values in seconds.items()}
        shares = {}
        for way, store in ways.items():
            made = loader(store, arguments.workers)
            batches = made.batches(0)
            step(next(batches), 0)  # the first batch cannot be read ahead
            began, waited = time.perf_counter(), made.waited_s
            for number in range(1, arguments.rounds + 1):
                step(next(batches), number)
            shares[way] = (made.waited_s - waited) / (time.perf_counter() - began)
            batches.close()
    slow, fast = medians.values()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads, torch {torch.__version__}, {arguments.device}; "
        f"{arguments.model}, {size.num_frames} x {size.height} x {size.width}, batches of {arguments.batch}"
    )
    for way, median in medians.items():
        print(f"{way}: {median:.2f} s a step, {shares[way]:.1%} of it waiting for data ({arguments.workers} workers)")
    print(f"precomputed steps are {slow / fast:.2f} times as fast")


if __name__ == "__main__":
    main()
