"""A folder of what pairs were encoded to: tensors by the content of the files they were made from.

```
STORE/store.json          the weights and sizes that everything in it was encoded with
STORE/shards/*.safetensors   tensors by key; a shard is written once, whole, and never changed
STORE/index.sqlite        which shard holds a key, and the hashes of files by path, size and time; made again if it is lost
```

A key is the SHA-256 of everything that decides a tensor: the bytes of the file, the frame rule, the size, the fingerprint of the
weights. So nothing in a store can be out of date, and a run that was killed goes on with what it finds.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from likeness.errors import CheckpointError, UserError
from likeness.media import atomic_write, sha256_file
from likeness.train.clips import FrameRule
from likeness.train.fingerprint import text_fingerprint, video_fingerprint

_FORMAT = 1
_OPEN_SHARDS = 1024  # maps of files, which hold no descriptor; opening one reads its whole list of keys
_HALF_S = 3600
_TABLES = """
CREATE TABLE IF NOT EXISTS shards (number INTEGER PRIMARY KEY, name TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, shard INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT, aspect REAL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class StoreInfo:
    """What everything in a store was made with.

    Attributes:
        backbone: its name, for messages.
        video, text: fingerprints of the VAE and of the text encoder.
        text_length: L of prompt embeddings, which are stored without the zeros at their end.
        num_frames, fps: of the frame rule.
        sizes: (height, width) of the buckets.
        faces: fingerprint of the face models, or None where nobody looked for faces.
    """

    backbone: str
    video: str
    text: str
    text_length: int
    num_frames: int
    fps: float
    sizes: tuple[tuple[int, int], ...]
    faces: str | None = None


@dataclass(frozen=True)
class FileRow:
    """A file as it was when it was hashed; ``aspect`` is a clip's width over height, where it was looked up."""

    path: str
    size: int
    mtime_ns: int
    sha256: str
    aspect: float | None = None


def key_of(kind: str, *parts: object) -> str:
    """The key of what these parts decide."""
    return f"{kind}-{hashlib.sha256(json.dumps([kind, *map(str, parts)]).encode()).hexdigest()}"


def halved(tensor: Tensor) -> Tensor:
    """A tensor in the 16 bits in which it is kept, on the CPU.

    float16: latents are of the order of 1, where it is 8 times as exact as bfloat16. bfloat16 where it is what the
    encoder computes in, so that nothing is lost, and for values beyond float16's range.
    """
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16 or (tensor.numel() and not tensor.abs().max() <= torch.finfo(torch.float16).max):
        return tensor.bfloat16().contiguous()
    return tensor.half().contiguous()


class Store:
    """An open store. Threads may share one; processes open their own."""

    def __init__(self, folder: Path, info: StoreInfo, *, writable: bool) -> None:
        self.folder, self.info, self.writable = folder, info, writable
        self._lock = threading.Lock()
        self._handles: OrderedDict[str, Any] = OrderedDict()
        self._unindexed: dict[str, str] = {}  # keys of shards that the index lacks, where it cannot be written
        self._hashes: dict[str, FileRow] = {}
        self._new_files: list[FileRow] = []
        self._index = _open_index(folder / "index.sqlite", writable)
        self._find_shards()

    @classmethod
    def open(cls, folder: str | os.PathLike[str], backbone: Any, *, writable: bool = False) -> Store:
        """Open a store that was made with a backbone's encoders.

        Raises:
            UserError: if there is none, or it was made with other weights.
        """
        folder = Path(folder)
        info = read_info(folder)
        for part, given in (("video", video_fingerprint(backbone)), ("text", text_fingerprint(backbone))):
            if getattr(info, part) != given:
                noun = {"video": "VAE", "text": "text encoder"}[part]
                raise UserError(
                    f"The store {folder} was made with the {noun} of another model ({info.backbone}, fingerprint "
                    f"{getattr(info, part)}; this model's is {given}). Give the model that it was made with, or make a "
                    "new store with `likeness precompute`."
                )
        return cls(folder, info, writable=writable)

    @classmethod
    def create(cls, folder: str | os.PathLike[str], backbone: Any, rule: FrameRule,
               sizes: Sequence[tuple[int, int]], faces: str | None = None) -> Store:  # fmt: skip
        """Open a store to fill, or make one.

        Raises:
            UserError: for a folder that holds something else, or a store of other weights or sizes.
        """
        folder = Path(folder)
        if not (folder / "store.json").exists():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise UserError(f"{folder} is not empty and holds no store; give a new folder.")
            with torch.no_grad():
                length = backbone.encode_text([""]).shape[1]
            info = StoreInfo(
                backbone.spec.name, video_fingerprint(backbone), text_fingerprint(backbone), length,
                rule.num_frames, rule.fps, tuple(sizes), faces,
            )  # fmt: skip
            _write_info(folder, info)
        store = cls.open(folder, backbone, writable=True)
        store.check(rule, sizes)
        if faces is not None and store.info.faces != faces:
            store._set_faces(faces)
        return store

    def check(self, rule: FrameRule, sizes: Iterable[tuple[int, int]]) -> None:
        """Refuse a frame rule or sizes that the store was not made for.

        Raises:
            UserError: naming both.
        """
        own = FrameRule(self.info.num_frames, self.info.fps)
        others = sorted(set(sizes) - set(self.info.sizes))
        if own != rule or others:
            asked = _named(sizes if others else self.info.sizes)
            raise UserError(
                f"The store {self.folder} holds {own} of {_named(self.info.sizes)}; {rule} of {asked} are asked for. Give "
                "the numbers that it was made with, or make another store."
            )

    def __contains__(self, key: str) -> bool:
        return self._shard_of(key) is not None

    def __len__(self) -> int:
        with self._lock:
            return self._index.execute("SELECT COUNT(*) FROM records").fetchone()[0] + len(self._unindexed)

    def read(self, key: str) -> Tensor | None:
        """The tensor of a key, or None.

        Raises:
            CheckpointError: for a shard that is damaged or gone.
        """
        name = self._shard_of(key)
        if name is None:
            return None
        try:
            with self._lock:
                handle = self._handles.get(name)
                if handle is None:
                    handle = self._handles[name] = safe_open(self.folder / "shards" / name, framework="pt")
                self._handles.move_to_end(name)
                if len(self._handles) > _OPEN_SHARDS:
                    self._handles.popitem(last=False)
            return handle.get_tensor(key).clone()  # off the map, and side by side with other threads
        except (SafetensorError, OSError) as error:
            raise _broken_shard(self.folder / "shards" / name, error) from error

    def add(self, tensors: Mapping[str, Tensor], files: Iterable[FileRow] = ()) -> None:
        """Write a shard and enter it into the index; the rows of files with it.

        Raises:
            UserError: if the disk is full or the folder cannot be written; what was there before is intact.
        """
        name = self.write_shard(self.folder, tensors)
        self.enter({} if name is None else {name: list(tensors)}, files)

    @staticmethod
    def write_shard(folder: Path, tensors: Mapping[str, Tensor]) -> str | None:
        """Write a shard, without the index: what processes that fill a store together do. Returns its name."""
        if not tensors:
            return None
        name = f"{secrets.token_hex(8)}.safetensors"
        with atomic_write(folder / "shards" / name) as temporary:
            temporary.write_bytes(save({key: tensor.contiguous() for key, tensor in tensors.items()}))
        return name

    def enter(self, shards: Mapping[str, Sequence[str]], files: Iterable[FileRow] = ()) -> None:
        """Enter shards, by name with their keys, and files into the index, all or nothing."""
        try:
            with self._lock, self._index:
                for name, keys in shards.items():
                    number = self._index.execute("INSERT INTO shards (name) VALUES (?)", (name,)).lastrowid
                    rows = ((key, number) for key in keys)
                    self._index.executemany("INSERT OR IGNORE INTO records VALUES (?, ?)", rows)
                self._index.executemany(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
                    ((row.path, row.size, row.mtime_ns, row.sha256, row.aspect) for row in files),
                )
        except sqlite3.OperationalError as error:
            raise UserError(
                f"The index of the store {self.folder} cannot be written: {error}. Free some space."
            ) from error

    def file(self, path: Path) -> FileRow:
        """A file's hash, from the index if neither its size nor its time has changed since; else its bytes are read.

        A file that is gone keeps the hash that it had: what was encoded of it is still good.

        Raises:
            UserError: for a file that is missing and was never seen.
        """
        name = os.path.abspath(path)
        known = self._hashes.get(name) or self._known_file(name)
        try:
            state = os.stat(name)
        except OSError as error:
            if known is not None:
                return known
            raise UserError(f"There is no file {path}.") from error
        if known is None or (known.size, known.mtime_ns) != (state.st_size, state.st_mtime_ns):
            try:
                known = FileRow(name, state.st_size, state.st_mtime_ns, sha256_file(name))
            except OSError as error:
                raise UserError(f"{path} cannot be read: {error.strerror}.") from error
            self._hashes[name] = known
            self._new_files.append(known)
        return known

    def take_new_files(self) -> list[FileRow]:
        """The files that were hashed since the last call: what the index does not know yet."""
        taken, self._new_files = self._new_files, []
        return taken

    def aspect(self, path: Path) -> float | None:
        """A clip's width over height, if it was noted and the clip has not changed since."""
        known = self._known_file(os.path.abspath(path))
        return None if known is None or self.file(path).sha256 != known.sha256 else known.aspect

    def _known_file(self, name: str) -> FileRow | None:
        with self._lock:
            row = self._index.execute("SELECT * FROM files WHERE path = ?", (name,)).fetchone()
        return None if row is None else FileRow(*row)

    def _shard_of(self, key: str) -> str | None:
        if key in self._unindexed:
            return self._unindexed[key]
        with self._lock:
            row = self._index.execute(
                "SELECT name FROM records JOIN shards ON shard = number WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else row[0]

    def _find_shards(self) -> None:
        """Bring the index in line with the shards that are there: a killed run may have left some out."""
        folder = self.folder / "shards"
        there = {path.name for path in folder.glob("*.safetensors")} if folder.is_dir() else set()
        indexed = {row[0] for row in self._index.execute("SELECT name FROM shards")}
        found = {name: _keys(folder / name) for name in sorted(there - indexed) if not name.startswith(".")}
        if not self.writable:
            self._unindexed = {key: name for name, keys in found.items() for key in keys}
        else:
            if gone := indexed - there:
                with self._index:
                    for name in gone:
                        self._index.execute(
                            "DELETE FROM records WHERE shard = (SELECT number FROM shards WHERE name = ?)", (name,)
                        )
                        self._index.execute("DELETE FROM shards WHERE name = ?", (name,))
            self.enter(found)
            _clear_halves(folder)

    def _set_faces(self, faces: str) -> None:
        self.info = StoreInfo(**{**self.info.__dict__, "faces": faces})
        _write_info(self.folder, self.info)


def read_info(folder: Path) -> StoreInfo:
    """What a store was made with.

    Raises:
        UserError: if the folder holds none.
    """
    path = folder / "store.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != _FORMAT:
            raise CheckpointError(f"The store {folder} is of another version of Likeness; make it again.")
        return StoreInfo(**{**values, "sizes": tuple(tuple(size) for size in values["sizes"])})
    except FileNotFoundError:
        raise UserError(f"There is no store in {folder}. Make one with `likeness precompute`.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise CheckpointError(f"{path} is damaged ({error}). Make the store again.") from error


def _write_info(folder: Path, info: StoreInfo) -> None:
    with atomic_write(folder / "store.json") as temporary:
        temporary.write_text(json.dumps({"format": _FORMAT, **asdict(info)}, indent=2) + "\n", encoding="utf-8")


def _open_index(path: Path, writable: bool) -> sqlite3.Connection:
    """The index; in memory where there is none to be read."""
    try:
        if writable:
            connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
            try:
                connection.executescript(_TABLES)
            except sqlite3.DatabaseError as error:
                connection.close()
                if isinstance(error, sqlite3.OperationalError):
                    raise
                path.unlink()  # not a database: it is made again from the shards
                connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
                connection.executescript(_TABLES)
            return connection
        if path.exists():
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60, check_same_thread=False
            )
            connection.execute("SELECT COUNT(*) FROM shards").fetchone()
            return connection
    except sqlite3.OperationalError as error:
        if writable:
            raise UserError(
                f"The index {path} cannot be written: {error}. Choose a folder in which you may create files."
            ) from error
    except sqlite3.DatabaseError:
        pass  # damaged, and not ours to mend while reading
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.executescript(_TABLES)
    return connection


def _clear_halves(folder: Path) -> None:
    """Remove what killed runs left half-written, once it is too old to be another run's work."""
    for path in folder.glob(".*.tmp.safetensors"):
        if time.time() - path.stat().st_mtime > _HALF_S:
            path.unlink(missing_ok=True)


def _keys(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise _broken_shard(path, error) from error


def _broken_shard(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or gone ({str(error).splitlines()[0]}). Remove it and run `likeness precompute` again, which makes "
        "what is missing."
    )


def _named(sizes: Iterable[tuple[int, int]]) -> str:
    return ", ".join(f"{height} x {width} px" for height, width in sizes)
