"""A whole curation: clips in, a dataset out; stopped or killed at any moment, the same call goes on from there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, get_args

from likeness.curate.config import CurationConfig, Measuring
from likeness.curate.leak_table import leaked_clips
from likeness.curate.local import run_local
from likeness.curate.record import Current, Dataset, ShardWriter, locked, num_rows, write_table
from likeness.curate.rules import RULES, decide
from likeness.curate.supervise import Outcome, Outcomes
from likeness.curate.tables import FileState, sources_table
from likeness.curate.tradeoff import TRADEOFF, choose_tradeoff
from likeness.curate.types import ClipSource, PairKind
from likeness.curate.verdicts import CLIPS, FACES, Counts, decided_clips, dropped_unseen, table_stamps, write_faces
from likeness.curate.worker import MakeWorker, WorkerSpec
from likeness.errors import CheckpointError, UserError
from likeness.media import sha256_file
from likeness.threads import stop_signals

DEADLINE_S = 120.0
# done, total, and what became of the clips so far: "kept" or the reason why not. Ranking and pairs come after the last clip.
Progress = Callable[[int, int, Mapping[str, int]], None]


class Runner(Protocol):
    """Where workers run: :func:`~likeness.curate.local.run_local`, or Ray's."""

    def __call__(self, sources: Iterable[ClipSource], make: MakeWorker, *, workers: int, deadline_s: float) -> Outcomes:
        """Have clips measured."""
        ...


class Stopped(Exception):
    """A run was asked to stop and has kept what was measured; the message says how to go on."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run did.

    Attributes:
        folder: of the dataset.
        counts: what became of its clips.
        measured: clips that were decoded by this run.
        reused: clips that an earlier run had measured.
        pairs: of each kind, those that are used.
        left_out: trade-off pairs that are not, by reason.
    """

    folder: Path
    counts: Counts
    measured: int
    reused: int
    pairs: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


def curate(
    sources: Iterable[ClipSource],
    output: str | os.PathLike[str],
    config: CurationConfig | None = None,
    *,
    faces: str | os.PathLike[str],
    workers: int = 1,
    deadline_s: float = DEADLINE_S,
    runner: Runner = run_local,
    retry: bool = False,
    progress: Progress = lambda done, total, funnel: None,
    pairing: Callable[[int, int], None] = lambda done, total: None,
    make: MakeWorker | None = None,
) -> Summary:
    """Measure clips, decide about them and pair the faces of those that are kept.

    A clip that was measured before is not decoded again unless its file has changed since. The dataset is of these sources alone;
    what was measured for others stays in its record.

    Args:
        sources: clips; of several with one key the first counts.
        output: folder of the dataset.
        config: None for the paper's.
        faces: folder of the face models.
        workers: processes that measure.
        deadline_s: for one clip.
        runner: where they run.
        retry: measure again what failed before.
        progress: is called after every clip.
        pairing: is called with the parts of the comparison of faces that are done, and their number.
        make: how a worker is made; None for the one that looks at videos.

    Raises:
        Stopped: after SIGTERM or SIGINT; what was measured is kept.
        UserError: no clips, an output that holds something else or was measured with something else or is being written to, a full
            disk.
    """
    clips = list({source.key: source for source in reversed(list(sources))}.values())[::-1]
    if not clips:
        raise UserError("There are no clips to curate. Name a folder, a list or videos that hold some.")
    if workers < 1 or not deadline_s > 0:
        raise UserError(f"{workers} workers and a deadline of {deadline_s} s were given; both must be greater than 0.")
    config, faces = config or CurationConfig(), os.path.abspath(faces)
    models = model_hashes(Path(faces), config.measuring)
    with locked(output, make=True) as folder:
        dataset = Dataset.create(folder, config, models, faces)
        dataset.write_sources(sources_table(clips))
        current = dataset.current()
        states = {clip.key: _state(clip.path) for clip in clips}
        again = current.failed if retry else set()
        good = {key for key, state in states.items() if current.states.get(key) == state and key not in again}
        todo = [clip for clip in clips if clip.key not in good and not dropped_unseen(clip.caption, config)]
        spec = WorkerSpec(config=config.to_dict(), faces=faces, dataset=str(folder))
        run = partial(runner, make=make or spec, workers=workers, deadline_s=deadline_s)
        if todo:
            funnel = Counter({"from before": len(good), RULES[0].reason: len(clips) - len(good) - len(todo)})
            _measure(dataset, todo, states, run, funnel, progress)
            current = dataset.current()
        summary = settle(dataset, current, workers=workers, pairing=pairing, measured=len(todo), reused=len(good))
    if len(clips) != summary.counts.clips or len(clips) != sum(summary.counts.statuses.values()):
        raise AssertionError(f"{len(clips)} clips went in and {summary.counts} came out")
    return summary


def decide_again(
    dataset: str | os.PathLike[str],
    settings: Sequence[str] = (),
    *,
    workers: int = 1,
    pairing: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Decide about the clips of a dataset with other thresholds, from what was measured; nothing is decoded.

    Args:
        settings: ``key=value`` each, as for :meth:`CurationConfig.override`; without any, only what is missing is made.
        workers: processes that decide, where there are many clips, and threads that compare faces.
        pairing: as of :func:`curate`.

    Raises:
        UserError: for settings of another kind, or clips that were not measured.
    """
    with locked(dataset) as folder:
        old = Dataset.open(folder)
        new = Dataset.create(folder, old.config.override(settings), old.basis.models, old.faces)
        return settle(new, new.current(), workers=workers, pairing=pairing)


def model_hashes(faces: Path, measuring: Measuring) -> dict[str, str]:
    """Short hashes of every model file that measuring reads, by name.

    Raises:
        CheckpointError: for a folder or file that is not there.
    """
    found: dict[str, str] = {}
    given = {"faces": faces, "measuring.clip": measuring.clip, "measuring.aesthetics": measuring.aesthetics}
    for name, path in ((name, Path(path)) for name, path in given.items() if path is not None):
        if not path.exists():
            raise CheckpointError(f"There is no {path}, which was given as {name}. Check the path.")
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in _MODEL_SUFFIXES)
        for file in files:
            label = f"{name}/{file.name if file == path else file.relative_to(path)}"
            found[label] = sha256_file(file)[:16]
    return found


_MODEL_SUFFIXES = (".onnx", ".safetensors", ".json")


def _state(path: str) -> FileState:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null byte in the name
        return FileState()
    return FileState(status.st_size, status.st_mtime_ns)


def _measure(
    dataset: Dataset, todo: list[ClipSource], states: Mapping[str, FileState],
    run: Callable[[list[ClipSource]], Outcomes], funnel: Counter[str], progress: Progress,
) -> None:  # fmt: skip
    """Measure clips and keep what comes of them, in shards. ``funnel`` counts the clips that need no measuring."""
    funnel = +funnel  # without zeros
    done = before = funnel.total()
    total = before + len(todo)
    writer = ShardWriter(dataset)
    progress(done, total, funnel)
    with stop_signals() as asked, closing(run(todo)) as outcomes:
        try:
            for outcome in outcomes:
                if outcome is None:
                    writer.tick()
                else:
                    writer.add(states[outcome.source.key], outcome)
                    done += 1
                    funnel[_fate(outcome, dataset.config)] += 1
                    progress(done, total, funnel)
                if asked:
                    break
        finally:
            writer.commit()
    if asked:
        raise Stopped(
            f"stopped with {before + writer.written} of {total} clips measured; the same command goes on from there"
        )


def _fate(outcome: Outcome, config: CurationConfig) -> str:
    if outcome.measured is None:
        return outcome.reason if outcome.status == "error" else outcome.status
    return decide(outcome.measured.measures, config, outcome.source.caption).reason or "kept"


def settle(
    dataset: Dataset,
    current: Current,
    *,
    workers: int = 1,
    pairing: Callable[[int, int], None] = lambda done, total: None,
    measured: int = 0,
    reused: int = 0,
) -> Summary:
    """Make the final tables of a dataset whose folder is locked; faces and pairs only if other clips are kept or other pairs asked for than when they were made."""
    clips, counts = decided_clips(dataset, current, leaked=leaked_clips(dataset.folder), workers=workers)
    folder, made = dataset.folder, table_stamps(dataset, clips)
    tables = {"faces": [folder / FACES], "pairs": [folder / "pairs" / f"{kind}.parquet" for kind in get_args(PairKind)]}
    stale = {
        name for name, paths in tables.items()
        if dataset.made.get(name) != made[name] or not all(path.exists() for path in paths)
    }  # fmt: skip
    if stale:
        replace(dataset, made={}).write_config()
        for path in (path for name in stale for path in tables[name]):
            path.unlink(missing_ok=True)
    write_table(folder / CLIPS, clips)
    if "faces" in stale:
        write_faces(dataset, current, clips)
    if "pairs" in stale:
        from likeness.curate.pairs import pair_dataset  # with torch, which takes seconds

        pair_dataset(folder, dataset.config.pairing, workers=workers, on_progress=pairing)
    chosen = choose_tradeoff(dataset, clips)
    replace(dataset, made=made).write_config()
    rows = {path.stem: num_rows(path) for paths in tables.values() for path in paths}
    counts = replace(counts, faces=rows.pop("faces"))
    pairs, left_out = rows | {TRADEOFF: chosen.pop("", 0)}, dict(chosen)
    return Summary(folder=folder, counts=counts, measured=measured, reused=reused, pairs=pairs, left_out=left_out)
