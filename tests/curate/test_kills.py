from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from kill_run import SHARD_CLIPS
from stub_workers import begun, clips, contents

WORKERS = 3


class Run:
    """A curation in a process of its own, and whom it has."""

    def __init__(self, folder: Path, num: int, work_s: float) -> None:
        (folder / "pack").mkdir(parents=True, exist_ok=True)
        (folder / "pack" / "detector.onnx").write_bytes(b"a detector")
        self.folder = folder
        self.command = [sys.executable, str(Path(__file__).with_name("kill_run.py")), str(folder), str(num), str(WORKERS), str(work_s)]  # fmt: skip
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Begin, or go on."""
        self.process = subprocess.Popen(
            self.command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )

    def finish(self) -> None:
        """Let it come to its end."""
        assert self.process is not None
        error = self.process.communicate()[1].decode()
        assert self.process.returncode == 0, error

    def workers(self) -> list[int]:
        """Those of its processes that have begun a clip."""
        assert self.process is not None
        begun_by = {int(line.split()[1]) for line in _lines(self.folder / "begun.txt")}
        return [
            pid for pid in begun_by if self.process.pid in (_parent(pid), _parent(_parent(pid)))
        ]  # a fork server between

    def recorded(self) -> list[str]:
        """The keys of all rows of the record, of which there may be two of one clip."""
        paths = sorted((self.folder / "set" / "measures").glob("[0-9]*.parquet"))
        return [key for path in paths for key in pq.read_table(path).column("key").to_pylist()]


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if len(line.split()) == 2] if path.exists() else []


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return -1


def _progress(run: Run) -> Iterator[int]:
    """Clips that were begun so far, until the run ends."""
    assert run.process is not None
    while run.process.poll() is None:
        yield len(_lines(run.folder / "begun.txt"))
        time.sleep(0.01)


def _kill_now_and_then(run: Run, kills: int, seed: int) -> Counter[str]:
    """SIGKILL to the run or to one of its workers, by lot, spread over the clips that are left."""
    random_ = random.Random(seed)
    done: Counter[str] = Counter()
    run.start()
    while sum(done.values()) < kills:
        start = len(_lines(run.folder / "begun.txt"))
        pause = random_.randint(5, SHARD_CLIPS)
        for num in _progress(run):
            if num >= start + pause:
                break
        else:
            break  # it has come to its end
        workers = run.workers()
        assert run.process is not None
        if random_.random() < 0.5 or not workers:
            run.process.kill()
            run.process.communicate()
            done["run"] += 1
            run.start()
        else:
            os.kill(random_.choice(workers), signal.SIGKILL)
            done["worker"] += 1
    run.finish()
    return done


def _check(tmp_path: Path, num: int, work_s: float, kills: int) -> None:
    quiet, killed = Run(tmp_path / "quiet", num, work_s=0.0), Run(tmp_path / "killed", num, work_s)
    quiet.start()
    quiet.finish()
    done = _kill_now_and_then(killed, kills, seed=1)
    assert sum(done.values()) == kills, done
    assert done["run"] and done["worker"]

    keys = {clip.key for clip in clips(num, broken=17)}
    recorded = Counter(killed.recorded())
    assert set(recorded) == keys  # none lost
    assert max(recorded.values()) == 1  # none doubled
    same = {name: data for name, data in contents(quiet.folder / "set").items() if not name.startswith("measures")}
    after = {name: data for name, data in contents(killed.folder / "set").items() if not name.startswith("measures")}
    assert same.keys() == after.keys()
    assert [name for name in same if same[name] != after[name]] == ["run.json"]  # names its own folder of models

    # A killed run loses what is in no shard yet and what is in hand, a killed worker its clip.
    again = sum(begun(killed.folder).values()) - num
    assert again <= done["run"] * (SHARD_CLIPS + 2 * WORKERS) + done["worker"]

    before = contents(killed.folder / "set")
    killed.start()
    killed.finish()
    assert sum(begun(killed.folder).values()) == num + again  # nothing is begun once more
    assert contents(killed.folder / "set") == before


def test_a_run_that_is_killed_six_times(tmp_path: Path) -> None:
    _check(tmp_path, num=250, work_s=0.002, kills=6)


@pytest.mark.slow
def test_a_run_that_is_killed_a_hundred_times(tmp_path: Path) -> None:
    _check(tmp_path, num=2500, work_s=0.002, kills=100)


def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    run = Run(tmp_path, 1000, 0.01)
    run.start()
    next(num for num in _progress(run) if num > 20)
    workers = run.workers()
    assert workers
    assert run.process is not None
    run.process.kill()
    run.process.communicate()
    for _ in range(1000):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            break
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
