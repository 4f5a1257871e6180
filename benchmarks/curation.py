"""What supervision costs: `python benchmarks/curation.py [overhead] [poison] [footage] [decide] [--ray]`.

overhead  ms a clip of handing clips to processes and keeping what comes back, beside calling the worker here, alternately.
poison    the same clips with and without one in a hundred that raises, crashes or hangs.
footage   clips of 720p by the real worker, here and, with --ray, on actors; not unless it is asked for (`footage.py`).
decide    a changed threshold over a million measured clips, from the record to the tables; nothing is decoded.

But for footage the workers make up their measures, so that nothing but the machinery is measured: rows with ten reference faces of 512
numbers and a thumbnail, as of a clip of two people.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import resource
import signal
import statistics
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from likeness.curate import tables
from likeness.curate.config import CurationConfig
from likeness.curate.local import run_local
from likeness.curate.record import Dataset, ShardWriter, locked
from likeness.curate.run import decide_again
from likeness.curate.supervise import Outcome
from likeness.curate.types import ClipSource, Measured, Measures, ReferenceFace, TrackedFace
from likeness.curate.verdicts import CLIPS
from likeness.curate.worker import Worker
from likeness.media import sha256_file

CAPTION = "A young woman with long brown hair speaks in front of a white wall; she smiles and looks at the camera, then at her hands."


@dataclasses.dataclass(frozen=True)
class MadeUp:
    """Makes workers that sleep as long as a clip would take, and then invent its measures."""

    work_s: float = 0.0
    # All that this file needs.
    imports: ClassVar[tuple[str, ...]] = (
        "argparse", "resource", "statistics", "likeness.curate.face_table", "likeness.curate.run",
    )  # fmt: skip

    def __call__(self) -> Worker:
        return partial(_measure, self.work_s)


def _measure(work_s: float, source: ClipSource) -> Measured:
    number, _, what = Path(source.path).stem.partition("-")
    if work_s:
        time.sleep(work_s)
    match what:
        case "raise":
            raise ValueError("made up")
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(3600)
    return made_up(int(number), _REFERENCES)


def made_up(number: int, references: tuple[ReferenceFace, ...] = ()) -> Measured:
    """Measures of a clip of 10 s, most often of one person."""
    random = np.random.default_rng(number)
    people = 2 if number % 10 == 0 else 1
    measures = Measures(
        width=1280, height=720, fps=30.0, duration_s=10.0, rotation=0, num_expected=20, num_delivered=20, num_corrupt=0,
        num_people=(people,) * 20,
        cosines=tuple(tuple((0.45 + 0.55 * random.random(19)).tolist()) for _ in range(people)),
        areas=tuple(tuple((0.02 + 0.2 * random.random(20)).tolist()) for _ in range(people)),
        flow=float(random.random()), motion=float(random.random()), aesthetics=5.0,
    )  # fmt: skip
    face = TrackedFace(sample=0, track=0, box=(10.0, 20.0, 300.0, 400.0), score=0.9, area=0.2, centre_x=0.5)
    faces = (face,) * 20 if references else ()
    thumbnail = bytes(8000) if references else b""
    return Measured(
        clip_id=f"{number:032x}", measures=measures, faces=faces, references=references, thumbnail=thumbnail
    )


_REFERENCES = tuple(
    ReferenceFace(
        track=i // 5, number=i % 5, sample=i, time_s=i / 2, box=(10.0, 20.0, 300.0, 400.0), score=0.9, area=0.2, mean_x=0.5,
        keypoints=np.zeros((5, 2), np.float32), embedding=np.full(512, 512**-0.5, np.float32), crop=f"crops/ab/{i}.png",
    )
    for i in range(10)
)  # fmt: skip


def overhead(runners: dict, num: int, rounds: int) -> None:
    """CPU and wall ms a clip: the worker alone, and each runner with the record."""
    sources = [ClipSource(path=f"/clips/{i}.mp4") for i in range(num)]
    cost: dict[str, list[tuple[float, float]]] = {name: [] for name in ("worker alone", *runners)}
    for _ in range(rounds):
        worker = MadeUp()()
        began = (time.process_time(), time.perf_counter())
        for source in sources:
            worker(source)
        cost["worker alone"].append((time.process_time() - began[0], time.perf_counter() - began[1]))
        for name, runner in runners.items():
            cost[name].append(_timed(runner, sources))
    for name, values in cost.items():
        cpu, wall = (1000 * statistics.median(value[i] for value in values) / num for i in range(2))
        print(f"{name:16s} {cpu:7.3f} ms CPU of this process a clip, {wall:7.3f} ms wall")


def _timed(runner, sources: list[ClipSource]) -> tuple[float, float]:
    """From the first result on, so that the start of processes is left out."""
    with tempfile.TemporaryDirectory() as folder, locked(folder, make=True):
        writer = ShardWriter(Dataset.create(folder, CurationConfig(), {}, ""))
        outcomes = (outcome for outcome in runner(sources, MadeUp(), workers=1, deadline_s=600.0) if outcome)
        writer.add(tables.FileState(), next(outcomes))
        began = (time.process_time(), time.perf_counter())
        for outcome in outcomes:
            writer.add(tables.FileState(), outcome)
        writer.commit()
        return time.process_time() - began[0], time.perf_counter() - began[1]


def poison(runner, name: str, num: int, work_s: float, workers: int, deadline_s: float, rounds: int) -> None:
    """Seconds with and without poison, alternately, less the deadlines that had to pass."""
    clean = [ClipSource(path=f"/clips/{i}.mp4") for i in range(num)]
    # None in the last tenth, where a deadline passes with nothing else to do and is no longer shared.
    poisoned = {i: _POISON[i // 90 % 3] for i in range(89, num * 9 // 10, 90)}
    mixed = [ClipSource(path=f"/clips/{i}-{poisoned[i]}.mp4") if i in poisoned else clean[i] for i in range(num)]
    passed = 2 * list(poisoned.values()).count("hang") * deadline_s / workers
    expected = Counter(_STATUS.get(poisoned.get(i, ""), "ok") for i in range(num))
    run = partial(runner, make=MadeUp(work_s), workers=workers, deadline_s=deadline_s)
    list(run(clean[:workers]))  # what is started once for all runs
    more = []
    for number in range(rounds):
        seconds = {}
        for label, sources in (("clean", clean), ("poisoned", mixed))[:: -1 if number % 2 else 1]:
            before, began = time.process_time(), time.perf_counter()
            counts = Counter(outcome.status for outcome in run(sources) if outcome)
            seconds[label] = time.perf_counter() - began
            assert counts == (expected if label == "poisoned" else Counter(ok=num)), counts
            print(
                f"{name}, {label:8s} {seconds[label]:7.1f} s wall, {time.process_time() - before:5.1f} s CPU of this process: {dict(counts)}"
            )
        more.append(100 * ((seconds["poisoned"] - passed) / seconds["clean"] - 1))
    print(
        f"{name}: {statistics.median(more):+.1f} % ({', '.join(f'{value:+.1f}' for value in sorted(more))}) beyond {passed:.1f} s of "
        f"deadlines that {workers} workers share"
    )


_POISON = ("raise", "crash", "hang")
_STATUS = {"raise": "error", "crash": "crash", "hang": "timeout"}


def _used_s() -> float:
    """CPU time of this process and of those that it has ended."""
    return sum(
        value.ru_utime + value.ru_stime
        for value in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def decide(num: int, workers: int) -> None:
    """Seconds to decide again about so many clips, by one process and by several, which must agree to the byte."""
    with tempfile.TemporaryDirectory() as folder:
        sources = []
        with locked(folder, make=True):
            dataset = Dataset.create(folder, CurationConfig(), {}, "")
            writer = ShardWriter(dataset)
            some = [made_up(number) for number in range(4096)]
            for number in range(num):
                sources.append(ClipSource(path=f"/clips/{number}.mp4", caption=CAPTION))
                writer.add(
                    tables.FileState(), Outcome(source=sources[-1], status="ok", measured=some[number % len(some)])
                )
            writer.commit()
            dataset.write_sources(tables.sources_table(sources))
        some_kept = ["thresholds.quality_of=all clips", "thresholds.min_area=0.1", "ranking.top=50000"]
        for settings in (["thresholds.max_breaks=0.1"], some_kept):
            digests = set()
            for processes in sorted({1, workers}):
                before, began = _used_s(), time.perf_counter()
                summary = decide_again(folder, settings, workers=processes)
                used, wall = _used_s() - before, time.perf_counter() - began
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
                print(
                    f"{num:,} clips, {settings}, workers={processes}: {used:.1f} s CPU of all, {wall:.1f} s wall, peak of the first "
                    f"process {peak:.1f} GB; {summary.counts.statuses}"
                )
                digests.add(sha256_file(Path(folder) / CLIPS))
            assert len(digests) == 1


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", nargs="*", default=["overhead", "poison", "decide"])
    parser.add_argument("--ray", action="store_true", help="beside processes of this machine, Ray's actors")
    parser.add_argument(
        "--clips", type=int, help="default: 2000 for overhead, 10,000 for poison, 24 for footage, a million for decide"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--work-s", type=float, default=0.02, help="what a clip takes in the poisoned run")
    parser.add_argument("--deadline-s", type=float, default=2.0)
    parser.add_argument("--videos", type=Path, help="for footage: a folder of videos instead of drawn people")
    parser.add_argument("--faces", type=Path, help="for footage: a folder of face models")
    arguments = parser.parse_args()
    runners = {"local": run_local}
    if arguments.ray:
        import ray

        from likeness.curate.ray_runner import run_ray

        here = {"PYTHONPATH": str(Path(__file__).parent)}
        # Ray's workers give way to all else on the machine, which slows them alone where others compute.
        os.environ.setdefault("RAY_worker_niceness", "0")
        began = time.perf_counter()
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", num_cpus=arguments.workers,
                 runtime_env={"env_vars": here})  # fmt: skip
        runners["Ray"] = run_ray
        print(f"Ray starts in {time.perf_counter() - began:.1f} s")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}")
    if "overhead" in arguments.what:
        overhead(runners, arguments.clips or 2000, arguments.rounds)
    if "poison" in arguments.what:
        for name, runner in runners.items():
            poison(
                runner, name, arguments.clips or 10_000, arguments.work_s, arguments.workers, arguments.deadline_s, arguments.rounds
            )  # fmt: skip
    if "footage" in arguments.what:
        from footage import footage  # with what draws and decodes

        footage(runners, arguments.clips or 24, arguments.workers, arguments.rounds, arguments.videos, arguments.faces)
    if "decide" in arguments.what:
        decide(arguments.clips or 1_000_000, arguments.workers)


if __name__ == "__main__":
    main()
