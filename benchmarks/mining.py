"""Comparing all faces with all: `python benchmarks/mining.py --faces 20000 100000`, one core, CPU seconds.

Ways: float32 blocks as one would write them, this project's search by each prefilter, and faiss (flat and IVF) where it is
installed. Large tables are timed on a sample of tiles (faiss: of queries), drawn anew for each size, and scaled by their number;
ways take turns. Every way is asked for the same pairs, 0.7 <= cos; recall is the share of the true ones that it saw.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import torch

from likeness.curate.bands import Band, Best
from likeness.curate.mining import Found, Search, Tile
from likeness.curate.quantised import Prefilter, full_precision

LOW = 0.7
BANDS = [Band(low=LOW, high=0.9, pick="random"), Band(low=0.9, high=0.99, pick="smallest")]
NPROBE = 16
EXTRAPOLATED = (1_300_000, 10_000_000)


@dataclass(frozen=True, eq=False)
class Way:
    """A way to compare: what it costs once, and a call that does a share of the work; ``share`` is that of the whole."""

    name: str
    once_s: float
    run: Callable[[], object]
    share: float
    recall: Callable[[], float]


def made_up_faces(count: int, width: int = 512, per_person: int = 10, seed: int = 0) -> np.ndarray:
    """``float16 [N, D]``: people with ten faces each on average, alike to different degrees."""
    rng = np.random.default_rng(seed)
    people = rng.standard_normal((max(count // per_person, 1), width), np.float32)
    faces = people[rng.integers(0, len(people), count)]
    faces += rng.uniform(0.2, 1.0, (count, 1)).astype(np.float32) * rng.standard_normal((count, width), np.float32)
    return (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float16)


def timed(call: Callable[[], object]) -> float:
    """CPU seconds of a call, of all threads."""
    start = time.process_time()
    call()
    return time.process_time() - start


def ways(faces: np.ndarray, num_tiles: int, prefilters: Sequence[Prefilter]) -> list[Way]:
    """Every way that is possible here, float32 blocks first."""
    groups = np.arange(len(faces))

    def prepared(prefilter: Prefilter) -> tuple[Search, float]:
        prepare = partial(Search.prepare, faces, groups, BANDS, prefilter=prefilter, device="cpu")
        return prepare(), median(timed(prepare) for _ in range(5))

    blocks, _ = prepared("float32")
    tiles = sample(blocks.tiles(), num_tiles)
    share = len(tiles) / len(blocks.tiles())
    true = pairs_of(blocks, tiles)
    made = [Way("float32 blocks", 0.0, partial(plain_blocks, blocks, tiles), share, lambda: 1.0)]
    for prefilter in prefilters:
        search, seconds = prepared(prefilter)
        run, recall = partial(search.run, tiles), partial(recall_of, search, tiles, true)
        made.append(Way(f"likeness, {prefilter}", seconds, run, share, recall))
    return made + faiss_ways(faces)


def sample(tiles: list[Tile], count: int) -> list[Tile]:
    """Some tiles, evenly chosen from the whole."""
    places = np.linspace(0, len(tiles) - 1, min(count, len(tiles))).round().astype(int)
    return [tiles[place] for place in places]


def plain_blocks(search: Search, tiles: Sequence[Tile]) -> int:
    """What one writes first: a product in float32, a comparison, the places where it holds."""
    unit, block, found = search.codes.values, search.block, 0
    for first, second in tiles:
        rows, columns = (slice(number * block, (number + 1) * block) for number in (first, second))
        found += len(torch.nonzero(torch.ge(unit[rows] @ unit[columns].T, LOW)))
    return found


def pairs_of(search: Search, tiles: Sequence[Tile]) -> np.ndarray:
    """Pairs of some tiles with 0.7 <= cos, compared in float64; each as one number."""
    count, found = len(search.vectors), []
    for first, second in tiles:
        i, j = (np.arange(number * search.block, min((number + 1) * search.block, count)) for number in (first, second))
        cosine = search.vectors[i].astype(np.float64) @ search.vectors[j].astype(np.float64).T
        row, column = np.nonzero(cosine >= LOW * np.outer(search.norms[i], search.norms[j]))
        found.append((i[row] * count + j[column])[i[row] < j[column]])
    return np.concatenate(found)


def recall_of(search: Search, tiles: Sequence[Tile], true: np.ndarray) -> float:
    """Share of the true pairs that the prefilter let through."""
    found = Found([Best.empty(len(search.vectors)) for _ in search.bands])
    seen = [i * len(search.vectors) + j for i, j, _ in search.hits(found, tiles)]
    return float(np.isin(true, np.concatenate(seen)).mean())


def faiss_ways(faces: np.ndarray, num_queries: int = 2000) -> list[Way]:
    """Range searches of faiss, if it is installed."""
    try:
        import faiss  # pyright: ignore[reportMissingImports]
    except ImportError:
        return []
    faiss.omp_set_num_threads(1)
    vectors = faces.astype(np.float32)
    count, width = vectors.shape
    queries = np.linspace(0, count - 1, min(num_queries, count)).round().astype(int)
    share = len(queries) / count
    flat = faiss.IndexFlatIP(width)
    num_lists = int(4 * count**0.5)
    quantiser = faiss.IndexFlatIP(width)
    inverted = faiss.IndexIVFFlat(quantiser, width, num_lists, faiss.METRIC_INNER_PRODUCT)
    inverted.nprobe = NPROBE

    def fill() -> None:
        inverted.train(vectors[: 40 * num_lists])
        inverted.add(vectors)

    def results(index) -> int:
        return len(index.range_search(vectors[queries], LOW)[2])

    seconds = {"flat": timed(lambda: flat.add(vectors)), "IVF": timed(fill)}
    return [
        Way("faiss, flat", seconds["flat"], lambda: results(flat), share, lambda: 1.0),
        Way(f"faiss, IVF {num_lists}, nprobe {NPROBE}", seconds["IVF"], lambda: results(inverted), share,
            lambda: results(inverted) / results(flat)),
    ]  # fmt: skip


def table(faces: np.ndarray, num_tiles: int, runs: int, prefilters: Sequence[Prefilter]) -> str:
    """A table in Markdown, and the curve for larger tables by the fastest exact way."""
    count = len(faces)
    torch.set_num_threads(1)
    with full_precision():
        rows = ways(faces, num_tiles, prefilters)
        spent: dict[str, list[float]] = {way.name: [] for way in rows}
        for _ in range(runs):
            for way in rows:
                spent[way.name].append(timed(way.run))
        seconds = {way.name: way.once_s + median(spent[way.name]) / way.share for way in rows}
        blocks = seconds[rows[0].name]
        lines = [
            f"| {count} faces | CPU s | of it once | times float32 blocks | timed | recall |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {way.name} | {seconds[way.name]:.1f} | {way.once_s:.1f} | {blocks / seconds[way.name]:.1f} | "
            f"{100 * way.share:.0f} % | {way.recall():.4f} |"
            for way in rows
        ]
    ours = next(way for way in rows if way.name == f"likeness, {prefilters[0]}")
    slope = (seconds[ours.name] - ours.once_s) / count**2
    for many in EXTRAPOLATED:
        hours = (slope * many**2 + ours.once_s * many / count) / 3600
        lines.append(f"{many} faces by this slope: {hours:.2f} core-hours")
    return "\n".join(lines)


def machine() -> str:
    """Processor, what it has for int8, versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    known = [
        name
        for name in ("avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8")
        if name in values.get("flags", "").split()
    ]
    return (
        f"{values.get('model name', platform.processor())}, {' '.join(known) or 'no int8 instructions known of'}; one thread; "
        f"torch {version('torch')}, numpy {version('numpy')}"
    )


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--faces", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument(
        "--tiles", type=int, default=210, help="time at most so many tiles of 1024 x 1024 (20,000 faces have 210)"
    )
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--prefilter", nargs="+", default=["int8", "bfloat16"])
    arguments = parser.parse_args()
    print(machine())
    for count in arguments.faces:
        print(f"\n{table(made_up_faces(count), arguments.tiles, arguments.runs, arguments.prefilter)}", flush=True)


if __name__ == "__main__":
    main()
