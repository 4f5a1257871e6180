"""The HTML pages of an evaluation, as files beside this one: each is whole but for places named `{{...}}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def page(name: str, parts: Mapping[str, str]) -> str:
    """The page `name`.html with its places filled, each once. The parts are HTML already: what users wrote is escaped in them.

    Raises:
        KeyError: a place without a part.
    """
    text = resources.files(__name__).joinpath(f"{name}.html").read_text(encoding="utf-8")
    return _PLACE.sub(lambda place: parts[place[1]], text)
