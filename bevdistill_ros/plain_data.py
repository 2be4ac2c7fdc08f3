"""Dataclasses from plain data (YAML, JSON) and back, strictly."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, TypeVar

from bevdistill_ros.errors import UserError, brief, name_of

T = TypeVar("T")


def from_dict(kind: type[T], data: Any, where: str) -> T:
    """Build the dataclass ``kind`` from plain data, strictly: unknown, missing and ill-typed fields are named.

    Of a union of dataclasses it is the one that knows most of the fields given; of several that do, the first. None is taken where
    it is one of the union.

    Args:
        where: what the data is, for messages, e.g. "nano.yaml: model"; "" where the caller will say it.
    """
    return _convert(kind, data, where)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain data (dicts, lists, numbers, strings) of a configuration dataclass; ``from_dict`` inverts it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, Enum):
            return value.value
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))


def _error(where: str, text: str) -> UserError:
    return UserError(f"{where}: {text}" if where else text)


def _field(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _nearest(name: Any, known: Iterable[str]) -> str:
    """What may have been meant, or else everything that there is."""
    near = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) and len(name) <= 120 else []
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"


def _convert(kind: Any, data: Any, where: str) -> Any:
    if kind is Any:
        return data
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        members = [member for member in typing.get_args(kind) if member is not types.NoneType]
        if data is None and len(members) < len(typing.get_args(kind)):
            return None
        if len(members) == 1:
            return _convert(members[0], data, where)
        given = set(data) if isinstance(data, Mapping) else set()
        known = {member: {f.name for f in dataclasses.fields(member)} for member in members}
        kind = max(known, key=lambda member: len(given & known[member]))
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(kind, data, where)
    if origin is tuple:
        if not isinstance(data, (list, tuple)):
            raise _error(where, f"expected a list, found {brief(data)}")
        arguments = typing.get_args(kind)
        kinds = [arguments[0]] * len(data) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(data):
            raise _error(where, f"expected {len(kinds)} values, found {len(data)}")
        return tuple(_convert(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, data, strict=True)))
    if origin is dict:
        if not isinstance(data, Mapping):
            raise _error(where, f"expected a mapping, found {brief(data)}")
        named = {name_of(key): value for key, value in data.items()}
        return {name: _convert(typing.get_args(kind)[1], value, _field(where, name)) for name, value in named.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(data)
        except ValueError:
            known = ", ".join(str(member.value) for member in kind)
            raise _error(where, f"{brief(data)} is not one of {known}") from None
    if kind is float and isinstance(data, (int, str)) and not isinstance(data, bool):
        try:
            data = float(data)  # YAML reads 1e-3 (no dot) as text
        except (ValueError, OverflowError):
            pass
    if kind is float and isinstance(data, float) and not math.isfinite(data):
        raise _error(where, f"expected a finite number, found {data!r}")
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise _error(where, f"expected {kind.__name__}, found {brief(data)}")
    return data


def _convert_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise _error(where, f"expected a mapping, found {brief(data)}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = [key for key in data if key not in fields]
    if unknown:
        raise _error(where, f"unknown field {brief(unknown[0])}; {_nearest(unknown[0], fields)}")
    required = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in data
    ]
    if required:
        raise _error(where, f"field '{required[0]}' is missing")
    values = {name: _convert(hints[name], value, _field(where, name)) for name, value in data.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise _error(where, f"{error}") from None
