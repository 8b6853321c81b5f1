"""Typed fields of a JSON object, with a list of all that is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Numbers beyond are no sizes, and JSON of other languages does not hold them exactly.
_LARGEST = 1 << 53


class FieldReader:
    """Fetches typed fields and keeps a list of all that is wrong.

    A field that is wrong reads as an empty value of its type; ``where`` is put before its name
    in ``problems``.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []

    def text(self, raw: Mapping[str, Any], key: str, where: str) -> str:
        value = raw.get(key)
        if isinstance(value, str):
            return value
        self.problems.append(f"{where}{key} must be a string")
        return ""

    def number(self, raw: Mapping[str, Any], key: str, where: str) -> int:
        value = raw.get(key)
        if isinstance(value, int) and _is_number(value):
            return value
        self.problems.append(f"{where}{key} must be a non-negative integer")
        return 0

    def limit(self, raw: Mapping[str, Any], key: str, where: str) -> int | None:
        return None if raw.get(key) is None else self.number(raw, key, where)

    def table(self, raw: Mapping[str, Any], key: str, where: str = "") -> dict[str, Any]:
        value = raw.get(key)
        if isinstance(value, dict):
            return value
        self.problems.append(f"{where}{key} must be an object")
        return {}

    def items(self, raw: Mapping[str, Any], key: str, where: str) -> list[Any]:
        value = raw.get(key)
        if isinstance(value, list):
            return value
        self.problems.append(f"{where}{key} must be a list")
        return []

    def integers(self, raw: Mapping[str, Any], key: str, where: str) -> tuple[int, ...]:
        values = self.items(raw, key, where)
        if all(map(_is_number, values)):
            return tuple(values)
        self.problems.append(f"{where}{key} must hold non-negative integers")
        return ()


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST
