"""Text that people write and hand over: UTF-8, with or without the mark that some editors put first, and JSON in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from likeness.errors import UserError


def read_text(path: Path, name: str | None = None) -> str:
    """What a text file holds.

    Args:
        name: what messages call the file, in place of its path.

    Raises:
        UserError: for a file that cannot be read or is not UTF-8.
    """
    name = str(path) if name is None else name
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}. Check its path and permissions.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error


def parse_json(text: str, where: str) -> Any:
    """What a JSON text says.

    Args:
        where: file and place, for messages.

    Raises:
        UserError: for another text.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); mend it there.") from error
