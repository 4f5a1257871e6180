"""Disks with too little space: seen before writing where the size is known, and told in one line where it was not."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from likeness.errors import UserError

_SLACK = 1.02  # headers, configurations, the file system's own
_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_room(folder: Path, size: int, way_out: str = "name a folder on another disk") -> None:
    """Raise a UserError where ``size`` bytes do not fit on the disk that ``folder`` is on, or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    needed, free = int(_SLACK * size), shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"The model takes {_told(needed)}, but the disk of {folder} has {_told(free)} free. Free "
            f"{_told(needed - free)}, or {way_out}."
        )


def _told(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


@contextmanager
def full_disk_told(output: Path) -> Iterator[None]:
    """While ``output`` is written, a disk that fills up becomes a UserError that names it.

    The writer of safetensors has an error of its own, which has the system's as text only; a copy names the file that
    it reads.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) in _FULL or any(f"(os error {number})" in str(error) for number in _FULL):
            raise UserError(
                f"The disk filled up while {output} was being written. Free some space, or name a folder on "
                "another disk."
            ) from error
        if isinstance(error, SafetensorError):
            raise UserError(f"{output} cannot be written: {str(error).splitlines()[0]}.") from error
        raise
