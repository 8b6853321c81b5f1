"""JSON of others, such as comes with a model: bounded in size, depth and numbers, no key twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from ...errors import BundleError

#: Bytes of a file; the largest in use are vocabularies of some 10 MB.
MAX_BYTES = 128 << 20
#: Bytes of a tokenizer.json; the largest in use (of 250,000 pieces and their merges) have 17 MB.
MAX_TOKENIZER_BYTES = 256 << 20
#: Lists and objects within each other. Configurations have five or so; what recurses over a value
#: (ours, and json's own writer) stays far from Python's limit.
MAX_DEPTH = 64
#: Digits of an integer; from 309 on no float holds it, and arithmetic with it fails.
MAX_DIGITS = 300


def read_file(path: Path, limit: int = MAX_BYTES) -> bytes:
    """A regular file of at most ``limit`` bytes.

    Raises:
        BundleError: it cannot be read, or is longer.
    """
    try:
        if not path.is_file():  # a named pipe would never end
            raise BundleError(f"cannot read {path}: it is no file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > limit:
        raise BundleError(f"cannot read {path}: it has more than {limit} bytes")
    return data


def parse_json(data: bytes | str, name: object) -> Any:
    """The value that ``data`` holds; ``name`` is what errors call it.

    Raises:
        BundleError: not JSON, nested too deeply, an integer that no float holds, or an object has
            a key twice: readers differ in which of its values they take.
    """
    try:
        value = json.loads(data, object_pairs_hook=_object, parse_int=_integer)
    except _DoubledKeyError as error:
        raise BundleError(f"{name} has the key {error} twice in one object") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise BundleError(f"{name} is not valid JSON: {reason}") from None
    if _is_deeper(value, MAX_DEPTH):
        raise BundleError(f"{name} is not valid JSON: more than {MAX_DEPTH} levels are nested")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        BundleError: unreadable, not an object, or as of :func:`parse_json`.
    """
    value = parse_json(read_file(path), path)
    if not isinstance(value, dict):
        raise BundleError(f"{path} must hold a JSON object")
    return value


class _DoubledKeyError(Exception):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        found = Counter(key for key, _ in pairs)
        key = next(key for key, times in found.items() if times > 1)
        raise _DoubledKeyError(repr(key[:80]))
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer has {len(digits)} digits")
    return int(digits)


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth + 1):
        level = [
            item
            for parent in level
            if isinstance(parent, (dict, list))
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return False
    return True
