"""The JSON file beside every video: what made it, enough to make it again, and how to tell that it is already made.

A sidecar holds no clock times and no absolute paths, so making a video again gives the same bytes here as well, and a folder of results
can be moved as a whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from likeness.errors import CheckpointError, UserError
from likeness.media import atomic_write, sha256_file

FORMAT = 1
PROVENANCE = "AI-generated: this video was made by Likeness from a photograph and a prompt; it is not a recording."
SAMPLED_ABOVE_BYTES = 256 * 2**20
_SAMPLE_BYTES = 2**20
_NUM_SAMPLES = 16
_PACKAGES = ("likeness", "torch", "diffusers", "transformers", "onnxruntime", "numpy", "pillow", "av")
_UNHASHED = frozenset((".md", ".png", ".gif", ".jpg", ".mp4"))  # a model card's words do not change a video


def software_versions() -> dict[str, str]:
    """Versions of everything that has a say in the bytes of a video."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def folder_hashes(folder: Path) -> dict[str, str]:
    """Fingerprint of each file of a model folder, by its path in the folder, sorted; documentation is left out.

    Files up to `SAMPLED_ABOVE_BYTES` are hashed whole. Of larger ones the size and evenly spaced samples are hashed, marked "sampled",
    since reading tens of gigabytes before every video would take longer than some of the videos.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() not in _UNHASHED)
    hashes = {}
    for path in files:
        name = path.relative_to(folder)
        if any(part.startswith((".", "__pycache__")) for part in name.parts):
            continue
        try:
            status = path.stat()
            hashes[name.as_posix()] = _file_fingerprint(path, status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise CheckpointError(
                f"cannot read {path} of the model ({error.strerror}); check its permissions or fetch it again"
            ) from None
    return hashes


@lru_cache(maxsize=4096)
def _file_fingerprint(path: Path, size: int, mtime_ns: int) -> str:
    if size <= SAMPLED_ABOVE_BYTES:
        return sha256_file(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(_NUM_SAMPLES):
            file.seek(i * (size - _SAMPLE_BYTES) // (_NUM_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return "sampled:" + digest.hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sidecar_path(video: Path) -> Path:
    """Where the sidecar of a video lies: beside it, with the suffix .json."""
    return video.with_suffix(".json")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_sidecar(path: Path) -> dict[str, Any]:
    """A sidecar, checked far enough that the fields every reader needs are there.

    Raises:
        UserError: a file that is missing, not JSON, or not a sidecar of this format.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no sidecar {path}; it lies beside the video, with the suffix .json") from None
    except OSError as error:
        raise UserError(
            f"cannot read the sidecar {path} ({error.strerror}); give the .json file beside a video"
        ) from None
    except ValueError:
        raise UserError(f"{path} is not JSON; give the .json file that was written beside a video") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT or not isinstance(record.get("settings"), dict):
        raise UserError(
            f"{path} is not a sidecar of a generated video (format {FORMAT}); give the .json file beside a video"
        )
    return record


def is_finished(video: Path, job: str, sheet: Path | None) -> bool:
    """Whether `video` and its sheet are there and `video` is, to the byte, what the job with this digest made."""
    if not video.is_file() or not sidecar_path(video).is_file() or (sheet is not None and not sheet.is_file()):
        return False
    try:
        record = read_sidecar(sidecar_path(video))
    except UserError:
        return False
    return record.get("job") == job and record.get("sha256") == sha256_file(video)


def changes(record: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    """What around a job is not as it was when a sidecar was written, in words; such changes may change the bytes."""
    changed = [name for name in ("model", "faces", "method", "device", "dtype") if record.get(name) != recipe[name]]
    before = record.get("software", {})
    return changed + [
        f"{name} {before.get(name, 'unknown')} (now {now})"
        for name, now in recipe["software"].items()
        if before.get(name) != now
    ]


def portable_path(path: Path, beside: Path) -> str:
    """`path` as seen from the folder of the file `beside`, with forward slashes; absolute only where no relative path exists."""
    try:
        return Path(os.path.relpath(path.resolve(), beside.resolve().parent)).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()
