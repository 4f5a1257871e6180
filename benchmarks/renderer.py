"""Frames a second of the drawn world: `python benchmarks/renderer.py [--processes 2]`.

One single-threaded process a core, as the pool is drawn; the median of nine rounds of eight clips each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time

CLIPS, ROUNDS = 8, 9


def _rounds(first: int) -> list[float]:
    """Frames a second of each round."""
    import torch

    from likeness.world import NUM_FRAMES, clip_of, draw

    torch.set_num_threads(1)
    draw([clip_of(first, 0)])
    rates = []
    for number in range(ROUNDS):
        clips = [clip_of(first + person, number) for person in range(CLIPS)]
        started = time.perf_counter()
        draw(clips)
        rates.append(CLIPS * NUM_FRAMES / (time.perf_counter() - started))
    return rates


def main() -> None:
    """Print the rate of all processes together."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    processes = parser.parse_args().processes
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        rates = pool.map(_rounds, [1000 * index for index in range(processes)], chunksize=1)
    total = sum(statistics.median(of_process) for of_process in rates)
    print(f"{total:.0f} frames of 64x64 a second with {processes} processes ({total / processes:.0f} each)")


if __name__ == "__main__":
    main()
