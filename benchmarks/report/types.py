"""Whether values that JSON gave have the types of the dataclass that holds them."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints


def check_types(value: Any, where: str) -> None:
    """Compare the fields of a dataclass, and what they hold, with their annotations.

    A float may be a whole number, or None: that is how a report has one that is not finite.

    Args:
        value: the dataclass.
        where: what errors call it.

    Raises:
        TypeError: the first that is of another type.
    """
    for name, hint in get_type_hints(type(value)).items():
        _check(getattr(value, name), hint, f"{where}.{name}")


def _check(value: Any, hint: Any, where: str) -> None:
    if not _is_of(value, hint):
        raise TypeError(f"{where} is {str(value)[:40]!r}")
    if is_dataclass(value):
        check_types(value, where)
    arguments = get_args(hint)
    if isinstance(value, Mapping) and len(arguments) == 2:
        for key, item in value.items():
            _check(item, arguments[1], f"{where}.{key}")
    elif isinstance(value, (list, tuple)) and get_origin(hint) in (list, tuple):
        for number, item in enumerate(value):
            at = number if len(arguments) > number and arguments[-1] is not Ellipsis else 0
            _check(item, arguments[at], f"{where}[{number}]")


def _is_of(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_of(value, one) for one in get_args(hint))
    if hint is float:
        return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)
