"""What Ray costs over processes of this machine on clips of 720p, for `curation.py footage`.

The clips are written first: drawn people, or videos of a folder, 1280 x 720 in H.264 with 30 frames a second. They are measured by the
real worker, with the record, by each runner in turn; the runners take turns in going first. Workers wait for one another before the
first clip, and the first clips of a run are left out: what it takes until then is told apart. CPU time is that of this process and all
below it, Ray's own servers among them, so that other programs on the machine change it little.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from decoding import FPS, write_h264

from likeness.curate import tables
from likeness.curate.config import CurationConfig
from likeness.curate.record import Dataset, ShardWriter, locked
from likeness.curate.types import ClipSource
from likeness.curate.worker import Worker, WorkerSpec
from likeness.faces import faces_folder
from likeness.world import VALIDATION_PEOPLE, clip_of, draw

HEIGHT, WIDTH, GOP = 720, 1280, 250
FILES, SECONDS = 4, 10
LEFT_OUT = 1  # clips a worker


@dataclass(frozen=True)
class Together:
    """Makes workers that are ready when all of them are; ``folder`` is empty at first."""

    make: WorkerSpec
    folder: str
    workers: int
    imports: ClassVar[tuple[str, ...]] = WorkerSpec.imports

    def __call__(self) -> Worker:
        worker = self.make()
        Path(self.folder, str(os.getpid())).touch()
        while len(os.listdir(self.folder)) < self.workers:
            time.sleep(0.01)
        return worker


def footage(
    runners: dict, num: int, workers: int, rounds: int, videos: Path | None = None, faces: Path | None = None
) -> None:
    """Wall and CPU ms a clip of each runner, and how much more than the first one the others take.

    Args:
        runners: by name.
        num: clips of a run that are timed.
        videos: a folder of videos to make clips from; None for drawn people.
        faces: folder of the face models; None for those for drawn people.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = _written(Path(folder), videos)
        # Several clips a file: with captions of their own they are others.
        places = enumerate(islice(cycle(paths), num + LEFT_OUT * workers))
        sources = [ClipSource(path=str(path), caption=f"A person, number {number}.") for number, path in places]
        spent: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
        for number in range(rounds):
            for name in list(runners)[:: -1 if number % 2 else 1]:
                dataset = Path(folder, f"{name}{number}")
                spent[name].append(_timed(runners[name], sources, workers, dataset, faces_folder(faces)))
    for name, values in spent.items():
        wall, cpu, start = (statistics.median(column) for column in zip(*values, strict=True))
        print(
            f"{name:6s} {1000 * wall:7.1f} ms wall a clip, {1000 * cpu:7.1f} ms CPU; {start:.1f} s to the first result"
        )
    first, *others = spent
    for name in others:
        for place, what in enumerate(("wall", "CPU")):
            more = [100 * (b[place] / a[place] - 1) for a, b in zip(spent[first], spent[name], strict=True)]
            low, high = min(more), max(more)
            print(
                f"{name} over {first}: {statistics.median(more):+.1f} % {what} ({low:+.1f} to {high:+.1f}, {rounds} rounds)"
            )


def _timed(runner, sources: list[ClipSource], workers: int, folder: Path, faces: Path) -> tuple[float, float, float]:
    """Wall and CPU seconds a clip, and wall seconds to the first one."""
    config = CurationConfig()
    spec = WorkerSpec(config=config.to_dict(), faces=str(faces), dataset=str(folder))
    with locked(folder, make=True), tempfile.TemporaryDirectory() as ready:
        make = Together(spec, ready, workers)
        writer = ShardWriter(Dataset.create(folder, config, {}, str(faces)))
        began, done, first, start = time.perf_counter(), 0, 0.0, (0.0, 0.0)
        end = start
        for outcome in runner(sources, make, workers=workers, deadline_s=600.0):
            if outcome is None:
                continue
            assert outcome.status == "ok", outcome
            writer.add(tables.FileState(), outcome)
            done += 1
            if done == 1:
                first = time.perf_counter() - began
            if done == LEFT_OUT * workers:
                start = time.perf_counter(), _cpu_s()
            if done == len(sources):
                end = time.perf_counter(), _cpu_s()  # before the workers are gone, and with them what they took
        writer.commit()
    timed = len(sources) - LEFT_OUT * workers
    return (end[0] - start[0]) / timed, (end[1] - start[1]) / timed, first


def _written(folder: Path, videos: Path | None) -> list[Path]:
    """Some clips of 720p, of the videos of a folder or of drawn people."""
    shown = [_filmed(path) for path in sorted(videos.glob("*.mp4"))] if videos else [_drawn(i) for i in range(FILES)]
    paths = [folder / f"{number}.mp4" for number in range(len(shown))]
    for path, pictures in zip(paths, shown, strict=True):
        write_h264(path, islice(pictures, SECONDS * FPS), GOP)
    return paths


def _drawn(person: int) -> Iterator[np.ndarray]:
    """Somebody who moves twice a second, under grain that never rests."""
    clip = clip_of((VALIDATION_PEOPLE.start + person,), 0)
    frames = draw([clip], height=HEIGHT // 5, width=WIDTH // 5, num_frames=2 * SECONDS, fps=2).pixels[0]
    noise = np.random.default_rng(person)
    for frame in frames:
        large = cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        for _ in range(FPS // 2):
            yield np.clip(large + noise.integers(-4, 5, (HEIGHT, WIDTH, 1)), 0, 255).astype(np.uint8)


def _filmed(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video over and over, as high as fits."""
    import av

    while True:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                pixels = frame.to_ndarray(format="rgb24")
                picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
                scale = min(HEIGHT / pixels.shape[0], WIDTH / pixels.shape[1])
                inside = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
                picture[: inside.shape[0], (WIDTH - inside.shape[1]) // 2 :][:, : inside.shape[1]] = inside
                yield picture


def _cpu_s() -> float:
    """CPU seconds of this process and all below it that are alive, from Linux's ``/proc``."""
    used, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            values = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        parents[int(path.parent.name)], used[int(path.parent.name)] = int(values[1]), int(values[11]) + int(values[12])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(used[pid] for pid in ours) / os.sysconf("SC_CLK_TCK")
