"""In which order pairs are shown: a pure function of the seed, whatever the number of processes.

Pairs that can share a batch (one size, one number of references) are a group. Each group is an endless stream, one shuffled copy of
itself after another, cut into batches of the whole run; the processes share a batch in order. So after k copies every pair was
shown k times, no pair is ever dropped, and with one group the stream is the same for any batch size and number of processes. An
epoch is one copy of every group; the batches that are filled within it are shuffled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

_SHUFFLED_BATCHES = 2**31  # a stream of random numbers apart from those of the groups


@dataclass(frozen=True)
class Place:
    """Where a batch comes from: the positions ``start .. start + batch size`` of a group's stream."""

    group: int
    start: int


class Order:
    """The order of a run.

    Args:
        groups: pairs by what they share.
        batch_size: pairs a batch, over all processes.
        seed: any number.
    """

    def __init__(self, groups: Mapping[Any, Sequence[int]], batch_size: int, seed: int) -> None:
        self._groups = [np.asarray(groups[key]) for key in sorted(groups, key=repr)]
        self._sizes = np.array([len(group) for group in self._groups])
        self._batch_size, self._seed = batch_size, seed % 2**63
        self._copy = lru_cache(maxsize=2 * len(self._groups))(self._shuffled)
        self._places = lru_cache(maxsize=2)(self._batches_of)

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch, on average, at least 1."""
        return max(1, round(int(self._sizes.sum()) / self._batch_size))

    def place(self, index: int) -> Place:
        """Where batch ``index`` of the run comes from."""
        # Each group has filled at most its share of batches after an epoch, so the search starts at or before the right one.
        epoch = index * self._batch_size // int(self._sizes.sum())
        while self._filled(epoch + 1).sum() <= index:
            epoch += 1
        before = self._filled(epoch)
        groups, numbers = self._places(epoch)
        slot = index - int(before.sum())
        return Place(int(groups[slot]), int(numbers[slot]) * self._batch_size)

    def pair(self, group: int, position: int, skip: int = 0) -> int:
        """The pair at a position of a group's stream, or the ``skip``-th after it in the same copy, which is a ring."""
        epoch, offset = divmod(position, len(self._groups[group]))
        copy = self._copy(group, epoch)
        return int(copy[(offset + skip) % len(copy)])

    def group_size(self, group: int) -> int:
        """Pairs of a group."""
        return len(self._groups[group])

    def _filled(self, epochs: int) -> np.ndarray:
        """Batches that each group has filled after some epochs."""
        return self._sizes * epochs // self._batch_size

    def _shuffled(self, group: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch, group]).permutation(self._groups[group])

    def _batches_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Group and number of each batch that is filled in an epoch, in the order in which they are shown."""
        first, last = self._filled(epoch), self._filled(epoch + 1)
        groups = np.repeat(np.arange(len(first)), last - first)
        numbers = np.concatenate([np.arange(start, stop) for start, stop in zip(first, last, strict=True)])
        if len(first) > 1:
            order = np.random.default_rng([self._seed, epoch, _SHUFFLED_BATCHES]).permutation(len(groups))
            groups, numbers = groups[order], numbers[order]
        return groups, numbers
