"""Batches of training pairs: a pure function of the seed and the number of the batch, however many processes share it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from likeness.backbones.base import Backbone
from likeness.errors import CheckpointError, UserError
from likeness.faces.pack import FacePack
from likeness.method import ReferenceKind
from likeness.train.clips import FrameRule, aspect_of, nearest_bucket
from likeness.train.objective import Batch
from likeness.train.order import Order
from likeness.train.pairs import Pair
from likeness.train.samples import Loaded, Sample, Samples
from likeness.train.store import Store

logger = logging.getLogger(__name__)

_FEW = 100  # pairs that are looked at before a share of broken ones means anything
_MOST_TRIED = 1000  # broken pairs in a row, after which there is no good one to be hoped for
_FLIPS = 2**32  # a stream of random numbers apart from those of the order


@dataclass(frozen=True)
class _Found:
    """The good pair of a position, and the broken ones that were met on the way to it: number and reason."""

    pair: int
    loaded: Loaded
    broken: tuple[tuple[int, str], ...]


class PairLoader:
    """Batches of pairs, from a store where it has them and else from the files.

    The concatenation of the processes' batches of ``world_size`` W is the batch of one process of W times the batch size. A pair
    that is broken is replaced by the next good one of its epoch, the same in every run.

    Args:
        pairs: of the run.
        backbone: encodes what the store lacks.
        store: from ``likeness precompute``, or None.
        num_frames, height, width, fps: of a video.
        buckets: further sizes (height, width); each clip goes to the one of the nearest aspect ratio.
        batch_size: of this process.
        seed: of the order.
        rank, world_size: which of how many processes this one is.
        workers: threads that read and decode ahead; 0 does it when a batch is asked for.
        max_skipped: share of broken pairs, of those seen, beyond which the run stops.
        faces: face models, which tell whether the store's faces are theirs; None leaves faces out.
        embed_references: whether batches have the references' embeddings, which the identity losses alone need.
        flipped_kinds: references that are mirrored in half of their showings, see ``Method``. Which ones is a function of the seed
            and the place in the order.

    Attributes:
        skipped: what of which pair was broken, by the pair's source.
        waited_s: seconds for which the caller of :meth:`batches` waited for reading and decoding.
        encoded_s: seconds spent in the VAE and the text encoder, for what the store lacks.

    Raises:
        UserError: for sizes that the backbone or the store does not make, or a store whose faces other models found.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        backbone: Backbone,
        *,
        store: Store | None,
        num_frames: int,
        height: int,
        width: int,
        fps: float,
        buckets: Sequence[tuple[int, int]] = (),
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        max_skipped: float = 0.05,
        faces: FacePack | None = None,
        embed_references: bool = True,
        flipped_kinds: Sequence[ReferenceKind] = (),
    ) -> None:
        sizes = tuple(dict.fromkeys([(height, width), *buckets]))
        for size in sizes:
            backbone.spec.check_size(num_frames, *size)
        rule = FrameRule(num_frames, fps)
        if store is not None:
            store.check(rule, sizes)
        self._pairs, self._rank, self._batch_size = pairs, rank, batch_size
        self._whole_batch, self._workers, self._max_skipped = batch_size * world_size, workers, max_skipped
        self._samples = Samples(backbone, rule, store=store, faces=faces, embed_references=embed_references)
        self._samples.check_faces()
        self._sizes = bucket_sizes(pairs, sizes, store)
        groups: dict[tuple[int, int, int], list[int]] = {}
        for index, (pair, size) in enumerate(zip(pairs, self._sizes, strict=True)):
            groups.setdefault((*size, len(pair.references)), []).append(index)
        self._order = Order(groups, self._whole_batch, seed)
        self._seed, self._flipped_kinds = seed % 2**63, frozenset(flipped_kinds)
        self._with_keypoints = any(pair.faces for pair in pairs) or self._samples.looks_up_faces
        self._with_masks = any(pair.mask for pair in pairs)
        self._broken: dict[int, str] = {}
        self._seen: set[int] = set()
        self.skipped: dict[str, str] = {}
        self.waited_s = self.encoded_s = 0.0

    @property
    def num_batches_per_epoch(self) -> int:
        """Batches in which every pair is shown once, on average over the epochs where they do not come out even."""
        return self._order.batches_per_epoch

    def batch(self, index: int) -> Batch:
        """This process's batch of the run's batch ``index``, on the CPU.

        Raises:
            UserError: if too many pairs are broken.
        """
        return self._batch([self._find(*position) for position in self._positions(index)])

    def batches(self, start: int) -> Iterator[Batch]:
        """The batches from ``start`` on, without end; read ahead by threads, encoded when they are asked for.

        Raises:
            UserError: if too many pairs are broken.
        """
        if not self._workers:
            while True:
                began = time.perf_counter()
                found = [self._find(*position) for position in self._positions(start)]
                self.waited_s += time.perf_counter() - began
                yield self._batch(found)
                start += 1
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="pairs")
        ahead: deque[list[Future[_Found]]] = deque()
        try:
            while True:
                # Enough that every thread has a sample in hand and one in wait, and never less than a whole batch.
                while len(ahead) < 2 + 2 * self._workers // self._batch_size:
                    ahead.append([pool.submit(self._find, *position) for position in self._positions(start)])
                    start += 1
                began = time.perf_counter()
                found = [future.result() for future in ahead.popleft()]
                self.waited_s += time.perf_counter() - began
                yield self._batch(found)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _positions(self, index: int) -> list[tuple[int, int]]:
        """Group and position in its stream, of each sample of this process."""
        place = self._order.place(index)
        first = place.start + self._rank * self._batch_size
        return [(place.group, position) for position in range(first, first + self._batch_size)]

    def _find(self, group: int, position: int) -> _Found:
        """The pair at a position, or the next good one; what that is depends on the files alone."""
        broken: list[tuple[int, str]] = []
        for skip in range(min(self._order.group_size(group), _MOST_TRIED)):
            number = self._order.pair(group, position, skip)
            reason = self._broken.get(number)
            if reason is None:
                try:
                    loaded = self._samples.load(self._pairs[number], *self._sizes[number])
                    return _Found(number, self._flipped(loaded, group, position), tuple(broken))
                except CheckpointError:
                    raise  # the store is damaged, not the pair
                except UserError as error:
                    reason = self._broken[number] = str(error)
            broken.append((number, reason))
        raise UserError(f"None of {len(broken)} pairs can be read; the first: {broken[0][1]}")

    def _flipped(self, loaded: Loaded, group: int, position: int) -> Loaded:
        """The pair with some of the references mirrored whose kinds may be (Concat-ID B.2)."""
        if self._flipped_kinds.isdisjoint(loaded.kinds):
            return loaded
        coins = np.random.default_rng([self._seed, group, position, _FLIPS]).random(len(loaded.kinds)) < 0.5
        flips = [coin and kind in self._flipped_kinds for coin, kind in zip(coins, loaded.kinds, strict=True)]
        canvases = zip(loaded.references, flips, strict=True)
        return replace(loaded, references=tuple(canvas.flip(1) if flip else canvas for canvas, flip in canvases))

    def _batch(self, found: Sequence[_Found]) -> Batch:
        for item in found:
            self._count(item)
        began = time.perf_counter()
        samples = [self._samples.encode(item.loaded) for item in found]
        self.encoded_s += time.perf_counter() - began
        return self._collated(samples)

    def _count(self, found: _Found) -> None:
        """Note the broken pairs and stop the run if they are too many."""
        self._seen.add(found.pair)
        for number, reason in found.broken:
            self._seen.add(number)
            source = self._pairs[number].source
            if source not in self.skipped:
                self.skipped[source] = reason
                logger.warning("Skipped %s: %s (%d so far)", source, reason, len(self.skipped))
        check_broken(self.skipped, len(self._seen), len(self._pairs), self._max_skipped, "data.max_skipped")

    def _collated(self, samples: Sequence[Sample]) -> Batch:
        first = samples[0]
        num_references = len(first.references)
        num_frames = self._samples.rule.num_frames
        keypoints = masks = embeddings = None
        if self._with_keypoints:
            unknown = torch.full((num_references, num_frames, 5, 2), torch.nan)
            keypoints = torch.stack([unknown if s.keypoints is None else s.keypoints for s in samples])
        if self._with_masks:
            everywhere = torch.ones(1, *first.latents.shape[1:])
            masks = torch.stack([everywhere if s.mask is None else s.mask for s in samples])
        if first.embeddings is not None:
            embeddings = torch.stack([_required(s.embeddings) for s in samples])
        return Batch(
            latents=torch.stack([s.latents for s in samples]),
            references=tuple(torch.stack([s.references[i] for s in samples]) for i in range(num_references)),
            prompt_embeds=torch.stack([s.prompt_embeds for s in samples]),
            keypoints=keypoints,
            reference_embeddings=embeddings,
            masks=masks,
        )


def check_broken(broken: Mapping[str, str], seen: int, total: int, share: float, setting: str) -> None:
    """Stop a run that meets too many broken pairs.

    Args:
        broken: source -> reason.
        seen, total: pairs looked at so far, and in all.
        share: of those seen that may be broken, 0..1; of the first hundred, as many as of a hundred.
        setting: what the share is called.

    Raises:
        UserError: naming the first broken pair.
    """
    if len(broken) > share * max(seen, min(_FEW, total)):
        source, reason = next(iter(broken.items()))
        raise UserError(
            f"{len(broken)} of {seen} training pairs cannot be read, more than {setting} = {share:g} allows. {source}: {reason}"
        )


def bucket_sizes(
    pairs: Sequence[Pair], sizes: Sequence[tuple[int, int]], store: Store | None, workers: int = 8
) -> list[tuple[int, int]]:
    """The bucket (height, width) of each pair: that of the nearest aspect ratio. The aspect comes from the store, or from the clip's
    header; a clip that cannot be read gets the first bucket, and is found broken when its turn comes.
    """
    if len(sizes) == 1:
        return [sizes[0]] * len(pairs)

    def size_of(pair: Pair) -> tuple[int, int]:
        known = None if store is None else store.aspect(pair.video)
        try:
            return nearest_bucket(aspect_of(pair.video) if known is None else known, sizes)
        except UserError:
            return sizes[0]

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(size_of, pairs))


def _required(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
