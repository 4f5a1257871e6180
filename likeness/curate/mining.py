"""Mining pairs: for each face, another clip's face whose cosine lies in a band; exact, in memory that grows with N alone.

Concat-ID (section 4.2) pairs a clip with a random face at ``0.7 <= cos < 0.9``, or with the least similar one at
``0.9 <= cos < 0.99``. Searching the k nearest is the wrong operation: a person with more than k clips would lose just the
matches with a low cosine that the paper wants. So all pairs are compared, and none is stored. Each face keeps one
candidate a band, the least by

- a hash of (seed, face, candidate), for a random pick: each candidate of the band is the least with the same chance;
- the cosine, then that hash, for the pick of the smallest.

The least of many does not depend on the order or the grouping in which they are seen. Therefore the tiles of the upper
triangle can be done in any order, by any number of threads or machines, and the result is the same to the bit.

Tiles are multiplied in int8 (:mod:`likeness.curate.quantised`), which may not miss a pair; every pair that could still
win is then compared in float64, with sums in a fixed order: :func:`~likeness.curate.cosine.cosines` alone decides what is inside a band.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from likeness.curate.bands import Band, Best, Picks
from likeness.curate.cosine import cosines, lengths
from likeness.curate.quantised import Codes, Prefilter, encode, full_precision

CPU_BLOCK, GPU_BLOCK = 1024, 16384  # rows of a tile: products fit into a processor's cache, or keep a GPU busy
STRIP = 64  # products of a row that are looked at together
CROWDED = 8  # beyond one in so many strips with a hit, the other halves of codes are multiplied all at once
CHUNK_PRODUCTS = 2**20  # products searched for hits at once: bounds the memory where everybody looks alike
CHUNK_PAIRS = 2**16  # hits looked at together
PROGRESS_S = 0.2  # between two calls of on_progress

Tile = tuple[int, int]  # numbers of two blocks of rows, the second not before the first


@dataclass(eq=False)
class Found:
    """What a number of tiles gave: the best of each band, and how much was looked at.

    ``hits`` counts the pairs that the cheap products could not rule out, ``compared`` those that were compared exactly.
    """

    best: list[Best]
    tiles: int = 0
    hits: int = 0
    compared: int = 0

    def merge(self, other: Found) -> None:
        """Take over what other tiles gave; in any order."""
        for mine, theirs in zip(self.best, other.best, strict=True):
            mine.merge(theirs)
        self.tiles += other.tiles
        self.hits += other.hits
        self.compared += other.compared


class _Strips(NamedTuple):
    """Strips of a tile: products ``[S, STRIP]``, numbers ``[S]`` within the tile; where it begins, what a hit reaches, and whether
    its products are those of whole codes."""

    values: torch.Tensor
    places: torch.Tensor
    first_row: int
    first_column: int
    least: float
    is_whole: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """Vectors and bands, made ready for tiles. All of it is of the size of the vectors."""

    vectors: np.ndarray  # [N, D]
    norms: np.ndarray  # float64 [N]
    groups: np.ndarray  # int64 [N]
    bands: tuple[Band, ...]
    seeker_hash: np.ndarray  # uint64 [N]
    found_hash: np.ndarray  # uint64 [N]
    codes: Codes
    block: int

    @classmethod
    def prepare(
        cls,
        vectors: np.ndarray,
        groups: np.ndarray,
        bands: Sequence[Band],
        *,
        seed: int = 0,
        keys: np.ndarray | None = None,
        block: int | None = None,
        prefilter: Prefilter = "int8",
        device: torch.device | str | None = None,
    ) -> Search:
        """As :func:`mine` describes."""
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        block = block or (GPU_BLOCK if device.type == "cuda" else CPU_BLOCK)
        block = (
            -(-min(block, max(len(vectors), 1)) // STRIP) * STRIP
        )  # kernels want multiples of 8 rows, and more than 16
        norms = lengths(vectors)
        keys = np.arange(len(vectors), dtype=np.uint64) if keys is None else keys
        return cls(
            vectors=vectors,
            norms=norms,
            groups=groups,
            bands=tuple(bands),
            seeker_hash=_mixed(keys ^ _mixed(np.array([seed % 2**64], np.uint64))),
            found_hash=_mixed(keys + np.uint64(0x9E3779B97F4A7C15)),
            codes=encode(vectors, norms, prefilter, block, device, min(band.low for band in bands)),
            block=block,
        )

    def tiles(self) -> list[Tile]:
        """All tiles of the upper triangle."""
        blocks = range(len(self.codes.errors) // self.block)
        return [(first, second) for first in blocks for second in blocks[first:]]

    def run(self, tiles: Iterable[Tile]) -> Found:
        """The best of some tiles."""
        found = Found([Best.empty(len(self.vectors)) for _ in self.bands])
        waiting: list[tuple[np.ndarray, ...]] = []
        number = 0
        for hits in self.hits(found, tiles):
            waiting.append(hits)
            number += len(hits[0])
            if number >= CHUNK_PAIRS:  # a tile alone has few
                self._reduce_all(found, waiting)
                waiting, number = [], 0
        self._reduce_all(found, waiting)
        return found

    def hits(self, found: Found, tiles: Iterable[Tile]) -> Iterator[tuple[np.ndarray, ...]]:
        """Pairs that may lie in a band, each once, with their products as cosines; some at a time."""
        waiting: list[_Strips] = []
        number = 0
        for strips in self._strips(found, tiles):
            if number + len(strips.values) > CHUNK_PRODUCTS // STRIP:  # a tile alone has few
                yield self._hits_of(waiting)
                waiting, number = [], 0
            waiting.append(strips)
            number += len(strips.values)
        if waiting:
            yield self._hits_of(waiting)

    def _strips(self, found: Found, tiles: Iterable[Tile]) -> Iterator[_Strips]:
        """The strips of some tiles that have a hit. Most have none, which one cheap look tells."""
        codes, out = self.codes, None
        low = min(band.low for band in self.bands)
        errors = codes.errors.reshape(-1, self.block).max(1).tolist()
        for first, second in tiles:
            rows, columns = (slice(number * self.block, (number + 1) * self.block) for number in (first, second))
            half, out = codes.half, codes.product(rows, columns, out)
            least = codes.least(low, errors[first], errors[second])
            products = out.view(-1, STRIP)
            some = torch.nonzero(torch.ge(products.amax(1), least))[:, 0]
            if half is not None and len(some) * CROWDED > len(products):
                half, out = None, out.add_(half.product(rows, columns))
                some = torch.nonzero(torch.ge(products.amax(1), least))[:, 0]
            for part in some.split(CHUNK_PRODUCTS // STRIP):
                yield _Strips(products[part], part, rows.start, columns.start, least, half is None)
            found.tiles += 1

    def _hits_of(self, waiting: Sequence[_Strips]) -> tuple[np.ndarray, ...]:
        """The hits in strips of several tiles."""
        values, places = (torch.cat(tensors) for tensors in zip(*(strips[:2] for strips in waiting), strict=True))
        # Of each strip what is its tile's.
        num_strips = [len(strips.values) for strips in waiting]
        first_row, first_column, least, is_whole = (
            np.repeat(said, num_strips) for said in zip(*(strips[2:] for strips in waiting), strict=True)
        )
        limit = torch.from_numpy(least).to(values.device, torch.float32 if values.is_floating_point() else torch.int32)
        strip, place = torch.nonzero(torch.ge(values, limit[:, None]), as_tuple=True)
        product = values[strip, place].double().cpu().numpy()
        row, column = np.divmod(places.cpu().numpy(), self.block // STRIP)
        strip = strip.cpu().numpy()
        i = (first_row + row)[strip]
        j = (first_column + column * STRIP)[strip] + place.cpu().numpy()
        wanted = (i < j) & (j < len(self.vectors))
        wanted[wanted] = self.groups[i[wanted]] != self.groups[j[wanted]]
        i, j, product, strip = i[wanted], j[wanted], product[wanted], strip[wanted]
        if self.codes.half is not None:
            bounds = np.flatnonzero(~is_whole[strip])
            product[bounds] += self.codes.half.rest(i[bounds], j[bounds])
            near = product >= least[strip]
            i, j, product = i[near], j[near], product[near]
        return i, j, product * self.codes.unit

    def _reduce_all(self, found: Found, hits: Sequence[tuple[np.ndarray, ...]]) -> None:
        """Let the hits of several tiles compete, a bounded number at a time."""
        if hits:
            i, j, near = (np.concatenate(columns) for columns in zip(*hits, strict=True))
            for start in range(0, len(i), CHUNK_PAIRS):
                part = slice(start, start + CHUNK_PAIRS)
                self._reduce(found, i[part], j[part], near[part])

    def _reduce(self, found: Found, i: np.ndarray, j: np.ndarray, near: np.ndarray) -> None:
        """Let pairs of rows with approximate cosines compete, in both directions; those that may win are compared exactly."""
        found.hits += len(i)
        radius = self.codes.radius(self.codes.errors[i], self.codes.errors[j])
        lowest, highest = near - radius, near + radius
        contests = []
        open_ends = np.zeros(len(i), bool)
        for band, best in zip(self.bands, found.best, strict=True):
            maybe = (highest >= band.low) & (lowest <= band.high)
            surely = (lowest >= band.low) & (highest < band.high)
            for seeker, other in ((i, j), (j, i)):
                pairs = np.flatnonzero(maybe & band.concerns(seeker, other))
                rows, others, certain = seeker[pairs], other[pairs], surely[pairs]
                tie = _mixed(self.seeker_hash[rows] ^ self.found_hash[others])
                if band.pick == "random":
                    # Inside for certain: the hash alone decides. It spares comparing where a person has thousands of clips.
                    best.offer(rows[certain], np.zeros(certain.sum()), tie[certain], others[certain])
                    left = ~certain & ((best.index[rows] < 0) | (tie < best.tie[rows]))
                else:
                    np.minimum.at(best.limit, rows[certain], highest[pairs[certain]])
                    left = lowest[pairs] <= best.limit[rows]
                open_ends[pairs[left]] = True
                contests.append((band, best, rows[left], tie[left], others[left], pairs[left]))
        cosine = np.full(len(i), np.nan)
        cosine[open_ends] = cosines(self.vectors, self.norms, i[open_ends], j[open_ends])
        found.compared += int(open_ends.sum())
        for band, best, rows, tie, others, pairs in contests:
            inside = band.holds(cosine[pairs])
            score = cosine[pairs[inside]] if band.pick == "smallest" else np.zeros(inside.sum())
            best.offer(rows[inside], score, tie[inside], others[inside])

    def picks(self, found: Found) -> list[Picks]:
        """The result, with exact cosines."""
        result = []
        for best in found.best:
            rows = np.flatnonzero(best.index >= 0)
            cosine = np.full(len(best.index), np.nan)
            cosine[rows] = cosines(self.vectors, self.norms, rows, best.index[rows])
            result.append(Picks(best.index, cosine))
        return result


def mine(
    vectors: np.ndarray,
    groups: np.ndarray,
    bands: Sequence[Band],
    *,
    seed: int = 0,
    keys: np.ndarray | None = None,
    workers: int = 1,
    block: int | None = None,
    prefilter: Prefilter = "int8",
    device: torch.device | str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Picks]:
    """Give every face a partner from another group, for each band.

    Args:
        vectors: ``float16 or float32 [N, D]`` embeddings of any length but zero; may be mapped from a file.
        groups: ``int64 [N]``: faces of one group (a clip, or a source video) are never paired.
        bands: what is sought.
        seed: another seed gives other random picks.
        keys: ``uint64 [N]``, names of the rows that random picks go by; the row's number if None. With names of their own,
            picks do not depend on the order of the rows.
        workers: threads. The result does not depend on this, nor on the next three.
        block: rows of a tile.
        prefilter: number format of the first look.
        device: where tiles are multiplied; None: a GPU if there is one, else the CPU.
        on_progress: called with the number of tiles begun and of all tiles, from this thread.

    Returns:
        for each band, what was found.

    Raises:
        UserError: embeddings that are empty, zero or not finite.
    """
    search = Search.prepare(
        vectors, groups, bands, seed=seed, keys=keys, block=block, prefilter=prefilter, device=device
    )
    remaining = deque(search.tiles())
    total = len(remaining)

    def work() -> Found:
        torch.set_num_threads(1)  # of this thread: tiles run side by side, each on its own
        return search.run(_taken(remaining))

    num_threads = torch.get_num_threads()
    try:
        with full_precision(), ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(work) for _ in range(workers)]
            try:
                while True:
                    finished, running = wait(futures, PROGRESS_S, FIRST_EXCEPTION)
                    if on_progress is not None:
                        on_progress(total - len(remaining), total)
                    if not running or any(future.exception() for future in finished):
                        break
            finally:
                remaining.clear()  # after an error or Ctrl-C, threads end with the tile that they have
            found, *others = (future.result() for future in futures)
    finally:
        torch.set_num_threads(num_threads)
    for other in others:
        found.merge(other)
    return search.picks(found)


def _taken(tiles: deque[Tile]) -> Iterator[Tile]:
    """Tiles, taken from what several threads share."""
    while True:
        try:
            yield tiles.popleft()
        except IndexError:
            return


def _mixed(values: np.ndarray) -> np.ndarray:
    """A number of 64 bits that looks random, for each ``uint64``, different for different ones (splitmix64's last step)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
