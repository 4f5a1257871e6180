"""Workers that need no video: what a clip does is written in its name, as in ``/clips/17-crash``."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from likeness.curate.supervise import Outcome, Outcomes
from likeness.curate.types import ClipError, ClipSource, Measured, Measures, ReferenceFace, TrackedFace
from likeness.curate.worker import Failure, Fatal, MakeWorker, Worker, attempt
from likeness.errors import UserError
from likeness.media import atomic_write

EMBEDDING_SIZE = 16


@dataclass(frozen=True)
class Stub:
    """Measures by name. ``folder`` keeps a count of the times that each clip was begun; ``work_s`` is what a clip takes."""

    folder: str | None = None
    work_s: float = 0.0
    dies_while_starting: bool = False
    refuses: bool = False

    def __call__(self) -> Worker:
        if self.dies_while_starting:
            os._exit(7)
        if self.refuses:
            raise UserError("the pack is broken")
        return partial(measure, self)


def measure(stub: Stub, source: ClipSource) -> Measured:
    """Raise, crash, hang or return, as the name says."""
    number, _, what = Path(source.path).stem.partition("-")
    if stub.folder is not None:
        with open(Path(stub.folder) / "begun.txt", "a", encoding="utf-8") as file:
            file.write(f"{source.key} {os.getpid()}\n")
    if stub.work_s:
        time.sleep(stub.work_s)
    match what:
        case "raise":
            raise ValueError(f"clip {number} cannot be understood")
        case "broken":
            raise ClipError(f"{source.path} is empty.", "empty file")
        case "exit":
            os._exit(3)
        case "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(3600)
        case "full":
            raise OSError(28, "No space left on device")
        case "once" if stub.folder is not None and first_time(stub.folder, number):
            os._exit(4)
    return measured(source, int(number))


def run_here(sources: Iterable[ClipSource], make: MakeWorker, *, workers: int, deadline_s: float) -> Outcomes:
    """A runner without processes, for tests of what surrounds one."""
    worker = make()
    for source in sources:
        reply = attempt(worker, source)
        if isinstance(reply, Fatal):
            raise reply.error
        if isinstance(reply, Failure):
            yield Outcome(source=source, status="error", reason=reply.reason, detail=reply.detail)
        else:
            yield Outcome(source=source, status="ok", measured=reply)
        yield None


def first_time(folder: str, number: str) -> bool:
    """Whether a clip is begun for the first time, over all processes."""
    try:
        os.close(os.open(Path(folder) / f"{number}.mark", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def measured(source: ClipSource, number: int) -> Measured:
    """Plausible numbers that depend on the clip alone."""
    random = np.random.default_rng(number)
    num_tracks = 1 + number % 2
    references = []
    for track in range(num_tracks):
        for candidate in range(2):
            embedding = random.standard_normal(EMBEDDING_SIZE).astype(np.float32)
            references.append(
                ReferenceFace(
                    track=track, number=candidate, sample=candidate, time_s=candidate / 2, box=(1.0, 2.0, 30.0, 40.5),
                    keypoints=random.random((5, 2)).astype(np.float32), score=0.9, area=0.2,
                    mean_x=0.3 + 0.4 * track, embedding=embedding / np.linalg.norm(embedding),
                    crop=f"crops/{source.key[:2]}/{source.key}_{track}_{candidate}.png",
                )
            )  # fmt: skip
    people = (num_tracks,) * 4
    measures = Measures(
        width=1280, height=720, fps=30.0, duration_s=2.0, rotation=0, num_expected=4, num_delivered=4, num_corrupt=0,
        num_people=people, cosines=((0.9, 0.8, 0.95),) * num_tracks, areas=((0.2, 0.21, 0.2, 0.19),) * num_tracks,
        flow=float(random.random()), motion=float(random.random()), aesthetics=None if number % 3 else 5.0,
    )  # fmt: skip
    faces = tuple(
        TrackedFace(sample=s, track=t, box=(1.0, 2.0, 30.0, 40.5), score=0.9, area=0.2, centre_x=0.3 + 0.4 * t)
        for s in range(4) for t in range(num_tracks)
    )  # fmt: skip
    clip_id = hashlib.sha256(source.path.encode()).hexdigest()[:32]
    return Measured(
        clip_id=clip_id,
        measures=measures,
        faces=faces,
        references=tuple(references),
        thumbnail=bytes([number % 256]) * 64,
    )


def clips(num: int, **what: int) -> list[ClipSource]:
    """Sources of which every so-many-th does something else: ``clips(100, crash=10)``."""
    return list(_clips(num, what))


def _clips(num: int, what: dict[str, int]) -> Iterator[ClipSource]:
    for number in range(num):
        name = next((kind for kind, every in what.items() if number % every == every - 1), "")
        yield ClipSource(path=f"/clips/{number}{'-' if name else ''}{name}.mp4")


def begun(folder: Path) -> dict[str, int]:
    """How often each clip was begun, by key."""
    counts: dict[str, int] = {}
    for line in (folder / "begun.txt").read_text().splitlines():
        key = line.split()[0]
        counts[key] = counts.get(key, 0) + 1
    return counts


def write_files(folder: Path, num: int) -> list[ClipSource]:
    """As many small files, for what looks at size and time."""
    folder.mkdir(exist_ok=True)
    for number in range(num):
        with atomic_write(folder / f"{number}.mp4") as path:
            path.write_bytes(b"clip %d" % number)
    return [ClipSource(path=str(folder / f"{number}.mp4")) for number in range(num)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset but its lock."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}
