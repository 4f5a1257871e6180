"""The record of a dataset: everything that was ever measured for it, written once and never changed.

```
DATASET/run.json            what clips are measured with; another setting or model is refused
DATASET/sources.parquet     the clips that were named last, in the order of every final table
DATASET/measures/*.parquet  shards of rows in the order of their numbers; of two rows of one clip the later counts
DATASET/.lock               held by the run that writes
```

A shard is written under a temporary name, flushed and renamed, so a run that is killed loses the rows since the last one: at most
`SHARD_CLIPS` clips or `SHARD_S` seconds of work. There is one writer, so no row can be doubled.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from likeness import __version__
from likeness.curate.config import CurationConfig
from likeness.curate.supervise import Outcome
from likeness.curate.tables import SOURCE, FileState, rows_table
from likeness.errors import CheckpointError, UserError
from likeness.media import atomic_write

SHARD_CLIPS, SHARD_S = 256, 30.0
_FORMAT = 2
_SHARDS, _RUN, _LOCK, _SOURCES = "measures", "run.json", ".lock", "sources.parquet"
_REPEATED = ["status", "reason", "tradeoff", "detail"]  # columns worth a dictionary


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What clips are measured with: the same basis gives the same measures.

    Attributes:
        measuring: ``CurationConfig.measuring`` as plain values.
        models: short hashes of the model files by name.
    """

    measuring: Mapping[str, Any]
    models: Mapping[str, str]

    @property
    def stamp(self) -> str:
        """16 hex digits that every shard bears."""
        said = json.dumps([_FORMAT, dict(self.measuring), dict(self.models)], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """An open folder of a curation.

    Attributes:
        folder: where it is.
        config: what it was decided by last.
        basis: what its clips are measured with.
        faces: folder of the face models, as it was named last.
        made: of the tables of faces and pairs, what they were made from; empty while they are in the making.
    """

    folder: Path
    config: CurationConfig
    basis: Basis
    faces: str
    made: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Dataset:
        """Open a dataset that is there.

        Raises:
            UserError: there is none.
            CheckpointError: its ``run.json`` is damaged or of another version.
        """
        folder = Path(folder).absolute()
        path = folder / _RUN
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != _FORMAT:
                raise CheckpointError(f"The dataset {folder} is of another version of Likeness; curate it anew.")
            return cls(
                folder=folder,
                config=CurationConfig.from_dict(values["config"]),
                basis=Basis(measuring=values["config"]["measuring"], models=values["models"]),
                faces=values["faces"],
                made=values["made"],
            )
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"There is no curated dataset in {folder}. Make one with `likeness curate`.") from None
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error}). Move it away and run the same `likeness curate` again: what was measured is kept."
            ) from error

    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], config: CurationConfig, models: Mapping[str, str], faces: str
    ) -> Dataset:
        """Open a dataset to measure for, or make one; to be called with the folder locked.

        Raises:
            UserError: for clips that were measured with other settings or models, naming them.
        """
        folder = Path(folder).absolute()
        basis = Basis(measuring=config.to_dict()["measuring"], models=dict(models))
        if not (folder / _RUN).exists():
            dataset = cls(folder=folder, config=config, basis=basis, faces=faces)
            dataset.write_config()
            return dataset
        old = cls.open(folder)
        _check_same(folder, old.basis, basis)
        return replace(old, config=config, faces=faces)

    def write_config(self) -> None:
        """Keep the configuration that the tables were decided by."""
        values = {
            "format": _FORMAT, "likeness": __version__, "stamp": self.basis.stamp, "config": self.config.to_dict(),
            "models": dict(self.basis.models), "faces": self.faces, "made": dict(self.made),
        }  # fmt: skip
        with atomic_write(self.folder / _RUN) as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    def write_sources(self, table: pa.Table) -> None:
        """Keep the clips that the dataset is of."""
        write_table(self.folder / _SOURCES, table)

    def sources(self) -> pa.Table:
        """The clips that the dataset is of.

        Raises:
            CheckpointError: the table is lost or damaged.
        """
        return read_table(self.folder / _SOURCES, SOURCE.names)

    def current(self) -> Current:
        """Where the rows are that count.

        Raises:
            CheckpointError: for a shard that is damaged or was measured with something else.
        """
        paths = sorted(path for path in (self.folder / _SHARDS).glob("*.parquet") if path.stem.isdigit())
        return Current.of(paths, [self._keys(path) for path in paths])

    def _keys(self, path: Path) -> pa.Table:
        table = read_table(path, ["key", "size", "mtime_ns", "status"], threads=False)
        if (table.schema.metadata or {}).get(b"stamp", b"").decode() != self.basis.stamp:
            raise CheckpointError(
                f"{path} was measured with other settings or models than {self.folder / _RUN} says. Remove the one that does "
                "not belong there; what is missing then is measured again."
            )
        return table


@dataclass(frozen=True, kw_only=True, eq=False)
class Current:
    """The newest row of each clip in a record.

    Attributes:
        paths: of the shards.
        rows: for each shard the numbers of its rows that count, int64, ascending.
        keys: for each shard the keys of these.
        states: what the file was like, by the key of the clip.
        failed: keys of clips that could not be measured.
    """

    paths: list[Path]
    rows: list[np.ndarray]
    keys: list[list[str]]
    states: dict[str, FileState]
    failed: set[str]

    @classmethod
    def of(cls, paths: list[Path], columns: Sequence[pa.Table]) -> Current:
        """From the columns key, size, mtime_ns and status of each shard."""
        rows, names, states, failed = [], [], {}, set()
        for table in reversed(columns):
            kept, named = [], []
            values = (table.column(name).to_pylist() for name in ("key", "size", "mtime_ns", "status"))
            for number, (key, size, mtime_ns, status) in enumerate(zip(*values, strict=True)):
                if key not in states:
                    states[key] = FileState(size, mtime_ns)
                    kept.append(number)
                    named.append(key)
                    if status != "ok":
                        failed.add(key)
            rows.append(np.array(kept, np.int64))
            names.append(named)
        return cls(paths=paths, rows=rows[::-1], keys=names[::-1], states=states, failed=failed)

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows that count, a shard at a time."""
        for path, rows in zip(self.paths, self.rows, strict=True):
            if len(rows):
                yield read_shard(path, columns, rows)


class ShardWriter:
    """Collects rows and writes them as shards.

    Attributes:
        written: rows in shards that are complete.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.written = 0
        self._folder, self._stamp = dataset.folder / _SHARDS, dataset.basis.stamp
        numbers = [int(path.stem) for path in self._folder.glob("*.parquet") if path.stem.isdigit()]
        self._next = max(numbers, default=-1) + 1
        self._rows: list[tuple[FileState, Outcome]] = []
        self._since = 0.0

    def add(self, state: FileState, outcome: Outcome) -> None:
        """Take a row; writes a shard when there are enough or the first has waited long enough."""
        if not self._rows:
            self._since = time.monotonic()
        self._rows.append((state, outcome))
        self.tick()

    def tick(self) -> None:
        """Write a shard if it is time."""
        if len(self._rows) >= SHARD_CLIPS or (self._rows and time.monotonic() - self._since > SHARD_S):
            self.commit()

    def commit(self) -> None:
        """Write what is there.

        Raises:
            UserError: the disk is full or the folder cannot be written; the shards before are intact.
        """
        if self._rows:
            table = rows_table(self._rows, self._stamp)
            write_table(self._folder / f"{self._next:08d}.parquet", table, compression="lz4")
            self._next += 1
            self.written += len(self._rows)
            self._rows = []


@contextmanager
def locked(folder: str | os.PathLike[str], *, make: bool = False) -> Iterator[Path]:
    """Hold a dataset's folder against other runs; the system lets go of it when the process ends, however it does.

    Args:
        make: make the folder if it is not there.

    Raises:
        UserError: another run holds it, it is a file, or it holds something else than a dataset.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"The output {folder} is a file; a folder is needed. Give another name.")
    others = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []
    if others and _RUN not in others and _SHARDS not in others:
        raise UserError(
            f"{folder} is not empty and holds no curated dataset (there is {sorted(others)[0]}). Give a new folder."
        )
    if not others and not make:
        raise UserError(f"There is no curated dataset in {folder}. Make one with `likeness curate`.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / _LOCK, "a+", encoding="utf-8")  # noqa: SIM115  (closed below; closing unlocks)
    except OSError as error:
        raise UserError(f"The output {folder} cannot be written: {error.strerror}. Choose another folder.") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            raise UserError(
                f"Another run ({handle.read().strip() or 'just started'}) is writing to {folder}. Wait for it, stop it, or give "
                "another folder."
            ) from None
        handle.seek(0)
        if handle.read():  # a run that came to its end would have taken its name away
            _clear_halves(folder)
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {os.uname().nodename}")
        handle.flush()
        yield folder
        handle.truncate(0)


def _clear_halves(folder: Path) -> None:
    """Remove what a run that was killed left half written."""
    for where in (".", _SHARDS, "pairs", "crops/*"):
        for half in folder.glob(f"{where}/.*.tmp*"):
            half.unlink(missing_ok=True)


def write_table(path: Path, table: pa.Table, *, compression: str = "zstd") -> None:
    """Write a Parquet file, whole or not at all.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    repeated: Any = [name for name in _REPEATED if name in table.schema.names]
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression=compression, use_dictionary=repeated)


def read_shard(path: Path, columns: Sequence[str], rows: np.ndarray) -> pa.Table:
    """Some rows of a shard, whose numbers ascend.

    Raises:
        CheckpointError: it is lost or damaged.
    """
    table = read_table(path, columns, threads=False)
    return table if len(rows) == len(table) else table.take(pa.array(rows))


def read_table(path: Path, columns: Sequence[str] | None = None, *, threads: bool = True) -> pa.Table:
    """Read columns of a Parquet file of a dataset.

    Args:
        threads: to share columns over; for a shard they cost more than they save.

    Raises:
        CheckpointError: it is lost or damaged.
    """
    # Not pq.read_table, which would take a folder named "a=1" for a column.
    with _damage_told(path), pq.ParquetFile(path) as file:
        return file.read(columns=None if columns is None else list(columns), use_threads=threads)


def num_rows(path: Path) -> int:
    """The length of a Parquet file of a dataset.

    Raises:
        CheckpointError: it is lost or damaged.
    """
    with _damage_told(path):
        return pq.read_metadata(path).num_rows


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise CheckpointError(
            f"{path} is lost or damaged ({str(error).splitlines()[0]}). Remove it if it is there and run the same `likeness curate` "
            "again, which makes what is missing."
        ) from error


def _check_same(folder: Path, old: Basis, new: Basis) -> None:
    for name, value in new.measuring.items():
        if old.measuring.get(name) != value:
            raise UserError(
                f"The clips of {folder} were measured with measuring.{name}={json.dumps(old.measuring.get(name))}, and "
                f"{json.dumps(value)} is asked for. Give the value they were measured with, or another folder, where all clips are "
                "measured again."
            )
    for name in sorted(set(old.models) | set(new.models)):
        if old.models.get(name) != new.models.get(name):
            change = "is gone" if name not in new.models else "is new" if name not in old.models else "has changed"
            raise UserError(
                f"The clips of {folder} were measured with other models: {name} {change}. Give the models they were measured with "
                "(--faces), or another folder, where all clips are measured again."
            )
