"""Examples to evaluate on: JSON lines with a source and what it should become."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seq2edge.runtime.bundle.checks.json_text import parse_json
from seq2edge.runtime.errors import BundleError, InputError
from seq2edge.runtime.text.lines import read_lines

_EXPECTED = 'expected {"source": "...", "target": "..."} or a list of strings as target'


@dataclass(frozen=True)
class Example:
    """A source text and the targets that are right for it, one at least; none is blank."""

    source: str
    targets: tuple[str, ...]


def read_examples(
    path: str | os.PathLike[str], limit: int | None = None, *, encoding_errors: str = "strict"
) -> list[Example]:
    """The examples of a file of JSON lines, UTF-8, in the order of its lines.

    Example ``n`` of the result is line ``n`` of the file: blank lines are allowed only at its
    end. Fields other than ``source`` and ``target`` are ignored.

    Args:
        path: the file.
        limit: only the first so many lines; what follows them is not looked at.
        encoding_errors: see :func:`.read_lines`.

    Raises:
        InputError: the file cannot be read or holds nothing, ``limit`` is below 1, or a line is
            not what is expected; file, line and what is expected are named.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, not {limit}")
    file = Path(path)
    examples = []
    blank: int | None = None
    try:
        with file.open("rb") as stream:
            lines = read_lines(stream, os.fspath(file), encoding_errors=encoding_errors)
            for number, line in enumerate(itertools.islice(lines, limit), start=1):
                if not line.strip():
                    blank = blank or number
                    continue
                if blank is not None:
                    raise InputError(f"{file}, line {blank} is blank; {_EXPECTED}")
                examples.append(_example(line, f"{file}, line {number}"))
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    if not examples:
        raise InputError(f"{file} holds no examples; {_EXPECTED}, one per line")
    return examples


def sample(count: int, size: int) -> list[int]:
    """Places of ``size`` examples among ``count``, evenly spaced; all if there are no more.

    The first ones would do only in a file that is in no order (by length, by topic).
    """
    if size >= count:
        return list(range(count))
    return [index * count // size for index in range(size)]


def _example(line: str, where: str) -> Example:
    try:
        value = parse_json(line, where)
    except BundleError as error:
        raise InputError(f"{error}; {_EXPECTED}") from None
    if not isinstance(value, dict):
        raise InputError(f"{where} holds no JSON object; {_EXPECTED}")
    for name in ("source", "target"):
        if name not in value:
            raise InputError(f"{where} has no {name!r}; {_EXPECTED}")
    targets = value["target"] if isinstance(value["target"], list) else [value["target"]]
    if not targets:
        raise InputError(f"{where}: the list of targets is empty")
    return Example(
        source=_text(value["source"], "source", where),
        targets=tuple(_text(target, "target", where) for target in targets),
    )


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        allowed = "a string" if name == "source" else "a string or a list of strings"
        raise InputError(f"{where}: {name} must be {allowed}, not {json.dumps(value)[:40]}")
    if not value.strip():
        raise InputError(f"{where}: {name} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
        raise InputError(f"{where}: {name} holds half of a surrogate pair") from None
    return value
