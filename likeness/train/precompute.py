"""Filling a store: everything of some pairs that a model encodes, once.

A store is filled shard by shard, so a run that is killed loses one shard a process and the next one goes on. A pair that cannot be
read is left out and named in the store's ``skipped.jsonl``.
"""

from __future__ import annotations

import inspect
import json
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields, replace
from itertools import groupby
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from likeness.backbones.base import Backbone
from likeness.backbones.load import folders_of, load_backbone, read_index, resolve_model
from likeness.errors import CheckpointError, UserError
from likeness.faces.pack import FacePack
from likeness.media import atomic_write
from likeness.pipeline import LikenessPipeline
from likeness.threads import end_with_parent
from likeness.train.clips import FrameRule, aspect_of
from likeness.train.fingerprint import faces_fingerprint
from likeness.train.keypoints import embedding_size
from likeness.train.loader import bucket_sizes, check_broken
from likeness.train.pairs import Pair
from likeness.train.samples import Loaded, Samples
from likeness.train.store import FileRow, Store

_SHARD_PAIRS = 32  # what a killed run loses at most, a process
_AHEAD = 8  # clips that are decoded while others are encoded


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is encoded, and with what.

    Attributes:
        model: name or folder.
        output: the store's folder.
        rule: frames of a clip.
        sizes: (height, width) of the buckets.
        faces: folder of face models: embeds references and looks for them in clips that come without keypoints; None does not.
        device: of the encoders.
        processes: that share the work, each on one CPU thread; 1 encodes here.
        max_skipped: share of broken pairs beyond which the run stops.
    """

    model: str
    output: Path
    rule: FrameRule
    sizes: tuple[tuple[int, int], ...]
    faces: Path | None = None
    device: str = "cpu"
    processes: int = 1
    max_skipped: float = 0.05


@dataclass(frozen=True)
class Report:
    """How far a run has come.

    Attributes:
        done, total: pairs.
        encoded: pairs that were not in the store before.
        skipped: broken pairs.
        faceless: of those encoded, pairs with a reference whose face was not found in it or nowhere in the clip.
    """

    done: int
    total: int
    encoded: int
    skipped: int
    faceless: int


@dataclass(frozen=True)
class _Shard:
    """What became of some pairs. ``broken`` are the numbers of those that cannot be read, with the reasons."""

    name: str | None
    keys: tuple[str, ...]
    files: tuple[FileRow, ...]
    encoded: int
    faceless: int
    broken: tuple[tuple[int, str], ...]


_Job = list[tuple[int, Pair, tuple[int, int]]]  # number, pair, bucket


class _Encoder:
    """Encodes pairs with a model of its own; one a process."""

    def __init__(self, settings: Settings, backbone: Backbone, store: Store) -> None:
        self.settings, self.store = settings, store
        is_alone = settings.processes == 1
        pack = None if settings.faces is None else FacePack.load(settings.faces, threads=None if is_alone else 1)
        self.samples = Samples(backbone, settings.rule, store=store, faces=pack, find_faces=pack is not None, made={})
        self.threads = min(_AHEAD, os.cpu_count() or 1) if is_alone else 1

    def shard(self, job: _Job, advance: Callable[[], None] = lambda: None) -> _Shard:
        """Encode what the store lacks of some pairs and write it."""
        samples = self.samples
        assert samples.made is not None
        samples.made.clear()
        broken: list[tuple[int, str]] = []
        encoded = faceless = 0
        for number, loaded in self._loaded(job):
            if isinstance(loaded, str):
                broken.append((number, loaded))
            elif loaded is not None:
                samples.encode(loaded)
                encoded += 1
                faceless += _is_faceless(loaded)
            advance()
        files = [self._with_aspect(row, job) for row in self.store.take_new_files()]
        name = Store.write_shard(self.store.folder, samples.made)
        return _Shard(name, tuple(samples.made), tuple(files), encoded, faceless, tuple(broken))

    def _loaded(self, job: _Job) -> Iterator[tuple[int, Loaded | str | None]]:
        """Number of each pair, with what is to be encoded, None where nothing is, or why it cannot be."""

        def load(pair: Pair, size: tuple[int, int]) -> Loaded | str | None:
            try:
                if all(key in self.store for key in self.samples.keys(pair, *size).all()):
                    return None
                return self.samples.load(pair, *size)
            except CheckpointError:
                raise  # the store is damaged, not the pair
            except UserError as error:
                return str(error)

        with ThreadPoolExecutor(self.threads) as pool:
            ahead: deque[tuple[_Job, Future]] = deque()  # pairs of one clip, and what the first of them becomes

            def take() -> Iterator[tuple[int, Loaded | str | None]]:
                ((number, _, _), *others), first = ahead.popleft()
                yield number, first.result()
                # The clip has been encoded by now: the other pairs find it made and do not decode it again.
                futures = [pool.submit(load, pair, size) for _, pair, size in others]
                for (number, _, _), future in zip(others, futures, strict=True):
                    yield number, future.result()

            for _, rows in groupby(job, key=lambda row: row[1].video):
                same = list(rows)
                _, pair, size = same[0]
                ahead.append((same, pool.submit(load, pair, size)))
                if len(ahead) > self.threads:
                    yield from take()
            while ahead:
                yield from take()

    def _with_aspect(self, row: FileRow, job: _Job) -> FileRow:
        """With several buckets a clip's aspect is kept, so that training need not open a million files to begin."""
        if len(self.settings.sizes) == 1 or row.path not in {os.path.abspath(pair.video) for _, pair, _ in job}:
            return row
        try:
            return replace(row, aspect=aspect_of(Path(row.path)))
        except UserError:
            return row


@dataclass(frozen=True)
class DefaultSize:
    """The size that a model's weights were made for: frames, px, px, frames a second."""

    num_frames: int
    height: int
    width: int
    fps: float


def default_size(model: str) -> DefaultSize:
    """The size of a model's videos, without its weights.

    Raises:
        UserError: for an unknown model.
    """
    own = inspect.signature(LikenessPipeline).parameters
    index = read_index(folders_of(resolve_model(model)))
    values = {
        field.name: index.get(f"default_{field.name}", own[f"default_{field.name}"].default)
        for field in fields(DefaultSize)
    }
    return DefaultSize(**values)


def pick_device(name: str | None, processes: int) -> str:
    """The device of a name, or the best there is; several processes share the CPU.

    Raises:
        UserError: for a device that is not there, or several processes on one that is no CPU.
    """
    if name is None:
        return "cuda" if processes == 1 and torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise UserError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error
    if processes > 1 and name != "cpu":
        raise UserError(f"--processes {processes} share the CPU; on {name} leave it at 1.")
    return name


def precompute(
    pairs: Sequence[Pair], settings: Settings, progress: Callable[[Report], None] = lambda report: None
) -> Report:
    """Fill a store with what it lacks of some pairs.

    Raises:
        UserError: for settings that do not fit the model or the store, too many broken pairs, or a full disk. What was
            encoded before stays.
    """
    backbone = _backbone(settings)
    for size in settings.sizes:
        backbone.spec.check_size(settings.rule.num_frames, *size)
    faces = None
    if settings.faces is not None:
        pack = FacePack.load(settings.faces)
        embedding_size(pack)
        faces = faces_fingerprint(pack)
    store = Store.create(settings.output, backbone, settings.rule, settings.sizes, faces)
    jobs = _jobs(pairs, bucket_sizes(pairs, settings.sizes, store), settings.processes)
    done = encoded = faceless = 0
    skipped: dict[int, str] = {}

    def advance() -> None:
        nonlocal done
        done += 1
        progress(Report(done, len(pairs), encoded, len(skipped), faceless))

    _write_skipped(settings.output, pairs, skipped)
    shards = _here(settings, backbone, store, jobs, advance) if settings.processes == 1 else _spread(settings, jobs)
    for job, shard in shards:
        store.enter({} if shard.name is None else {shard.name: shard.keys}, shard.files)
        encoded += shard.encoded
        faceless += shard.faceless
        if settings.processes > 1:
            done += len(job)
        if shard.broken:
            skipped |= dict(shard.broken)
            _write_skipped(settings.output, pairs, skipped)
        progress(Report(done, len(pairs), encoded, len(skipped), faceless))
        check_broken({pairs[number].source: reason for number, reason in skipped.items()}, done, len(pairs),
                     settings.max_skipped, "--max-skipped")  # fmt: skip
    return Report(done, len(pairs), encoded, len(skipped), faceless)


def _is_faceless(loaded: Loaded) -> bool:
    """Whether a reference of the kind "face" is without one, or is seen nowhere in the clip; False where nobody looked."""
    if loaded.embeddings is None or loaded.keypoints is None:
        return False
    absent = loaded.embeddings.isnan().all(1) | loaded.keypoints.isnan().flatten(1).all(1)  # [M]
    return any(bool(gone) and kind == "face" for gone, kind in zip(absent, loaded.kinds, strict=True))


def _jobs(pairs: Sequence[Pair], sizes: Sequence[tuple[int, int]], processes: int) -> list[_Job]:
    """The pairs in parts, those of one clip side by side, so that it is decoded once."""
    rows = sorted(((i, pair, size) for i, (pair, size) in enumerate(zip(pairs, sizes, strict=True))),
                  key=lambda row: (str(row[1].video), row[0]))  # fmt: skip
    length = max(1, min(_SHARD_PAIRS, -(-len(rows) // (2 * processes))))
    return [rows[start : start + length] for start in range(0, len(rows), length)]


def _here(
    settings: Settings, backbone: Backbone, store: Store, jobs: Sequence[_Job], advance: Callable[[], None]
) -> Iterator[tuple[_Job, _Shard]]:
    encoder = _Encoder(settings, backbone, store)
    for job in jobs:
        yield job, encoder.shard(job, advance)


def _spread(settings: Settings, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, _Shard]]:
    """The shards of several processes, as they are ready."""
    pool = ProcessPoolExecutor(
        settings.processes, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(settings,)
    )
    try:
        futures = {pool.submit(_shard, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"One of {settings.processes} processes died, most likely of too little memory. Lower --processes; what was "
            "encoded stays."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_encoder: _Encoder  # of a process of the pool


def _begin(settings: Settings) -> None:
    global _encoder
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal sends Ctrl-C to all; the parent lets shards in hand be finished
    torch.set_num_threads(1)
    disable_progress_bar()
    end_with_parent()
    backbone = _backbone(settings)
    _encoder = _Encoder(settings, backbone, Store.open(settings.output, backbone))


def _shard(job: _Job) -> _Shard:
    return _encoder.shard(job)


def _backbone(settings: Settings) -> Backbone:
    # Text encoders are large and were published in bfloat16; on a CPU that would be slower, not smaller.
    dtype = torch.float32 if settings.device == "cpu" else torch.bfloat16
    return load_backbone(settings.model, settings.device, dtype, encoders_only=True)


def _write_skipped(folder: Path, pairs: Sequence[Pair], skipped: dict[int, str]) -> None:
    path = folder / "skipped.jsonl"
    if not skipped:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as temporary:
        lines = (
            json.dumps({"source": pairs[number].source, "video": str(pairs[number].video), "reason": skipped[number]})
            for number in sorted(skipped)
        )
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
