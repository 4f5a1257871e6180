"""Configurations as values: frozen dataclasses to plain JSON and back, strictly, and ``key=value`` from a command line.

A configuration is a frozen dataclass of numbers, texts, tuples, literals, other such dataclasses, and None. A part with
``to_dict`` and ``from_dict`` of its own is written and read by these.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from likeness.errors import UserError


def to_plain(config: Any) -> dict[str, Any]:
    """Plain numbers, strings, lists and dicts, as JSON keeps them."""
    return {item.name: _plain(getattr(config, item.name)) for item in fields(config)}


def from_plain(cls: Any, values: Any, where: str = "") -> Any:
    """A dataclass ``cls`` from plain values: the inverse of :func:`to_plain`, checked against the types of its fields.

    Args:
        where: path of the value within the whole configuration, for messages.

    Raises:
        UserError: for keys that are unknown or missing and for values of another type.
    """
    if not isinstance(values, Mapping):
        raise UserError(
            f"{where or 'A configuration'} was given as {values!r}; it is a table of {cls.__name__}'s fields."
        )
    hints = get_type_hints(cls)
    if unknown := sorted(set(values) - set(hints)):
        raise UserError(f"{where or 'The configuration'} has the unknown key(s) {', '.join(unknown)}. {_known(hints)}")
    built = {key: _value(hints[key], value, f"{where}.{key}".lstrip(".")) for key, value in values.items()}
    try:
        return cls(**built)
    except TypeError as error:
        raise UserError(f"{where or 'The configuration'} is not complete: {error}.") from None


def overridden(values: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Plain values of a configuration with some replaced, in place.

    Args:
        settings: ``key=value`` each, the key a path such as ``optimization.learning_rate``; values are JSON, or a string where
            they are not.

    Raises:
        UserError: for an unknown key or a setting of another form. Types are checked by :func:`from_plain`.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set was given {setting!r}; it takes key=value, e.g. optimization.learning_rate=2e-5.")
        *path, last = key.strip().split(".")
        table: Any = values
        for part in path:
            if not isinstance(table.get(part), dict):
                raise UserError(f"--set names {key!r}: there is no {part!r} to set a part of. {_known(table)}")
            table = table[part]
        if last not in table:
            raise UserError(f"--set names {key!r}: there is no {last!r}. {_known(table)}")
        try:
            table[last] = json.loads(text)
        except (ValueError, RecursionError):
            table[last] = text
    return values


def read_json(path: Path, hint: str = "") -> Any:
    """What a JSON file with a configuration holds.

    Args:
        hint: what to do where it cannot be read.

    Raises:
        UserError: for a file that is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. {hint}".strip()) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}.") from error


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise a UserError unless ``value`` is one of a ``Literal``'s."""
    if value not in get_args(choices):
        raise UserError(f"{name} was given as {value!r}; it must be one of {', '.join(map(repr, get_args(choices)))}.")


def _known(table: Mapping[str, Any]) -> str:
    return f"Known here: {', '.join(table)}."


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        own = getattr(value, "to_dict", None)
        return own() if own else to_plain(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(item for item in arguments if item is not type(None)), value, where)
    if origin is Literal:
        check_choice(where, value, hint)
        return value
    if is_dataclass(hint):
        own = getattr(hint, "from_dict", None)
        return own(value) if own else from_plain(hint, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where} was given as {value!r}; it is a list.")
        items = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(items) != len(value):
            raise UserError(f"{where} was given as {value!r}; it has {len(items)} entries.")
        return tuple(_value(item, entry, where) for item, entry in zip(items, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{where} was given as {value!r}; it is a {hint.__name__}.")
    return value
