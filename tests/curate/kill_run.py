"""A curation in a process of its own, for tests that kill it: ``python kill_run.py FOLDER NUM WORKERS WORK_S``."""

from __future__ import annotations

import sys
from pathlib import Path

SHARD_CLIPS = 20


def main() -> None:
    """Curate so many clips by stub workers, in small shards."""
    # Here, since each worker imports this file anew.
    from stub_workers import Stub, clips

    from likeness.curate import record
    from likeness.curate.run import curate

    folder, num, workers, work_s = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    record.SHARD_CLIPS = SHARD_CLIPS
    curate(
        clips(num, broken=17), folder / "set", faces=folder / "pack", workers=workers, deadline_s=60.0,
        make=Stub(str(folder), work_s=work_s),
    )  # fmt: skip


if __name__ == "__main__":
    main()
