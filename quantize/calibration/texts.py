"""The user's own text, from a file."""

from __future__ import annotations

import io
import os
from pathlib import Path

from seq2edge.runtime.bundle.checks.json_text import parse_json
from seq2edge.runtime.errors import BundleError, InputError
from seq2edge.runtime.text.lines import read_lines

from ..errors import QuantizationError

#: A source: text, or token ids for a bundle that has no tokenizer.
Text = str | list[int]


def parse_texts(path: Path, data: bytes, encoding_errors: str = "strict") -> list[Text]:
    """Sources to calibrate on: one per line, or an object per line in a .jsonl file.

    An object has a ``source`` (text) or ``input_ids`` (a list of token ids). Blank lines are
    left out.

    Args:
        path: the file's name, which tells .jsonl from text.
        data: what it holds.
        encoding_errors: see :func:`.read_lines`.

    Raises:
        QuantizationError: not UTF-8, no text, or a line of a .jsonl file that is not such an
            object.
    """
    lines = read_lines(io.BytesIO(data), os.fspath(path), encoding_errors=encoding_errors)
    try:
        numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    except InputError as error:
        raise QuantizationError(f"calibration text: {error}") from None
    texts: list[Text] = (
        [_source(path, number, line) for number, line in numbered]
        if path.suffix.lower() == ".jsonl"
        else [line for _, line in numbered]
    )
    if not texts:
        raise QuantizationError(f"the calibration text {path} is empty: it needs a text per line")
    return texts


def read_texts(path: str | os.PathLike[str]) -> list[Text]:
    """:func:`parse_texts` of a file.

    Raises:
        QuantizationError: it cannot be read, or :func:`parse_texts` raises.
    """
    return parse_texts(Path(path), read_bytes(path))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """A whole file.

    Raises:
        QuantizationError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise QuantizationError(f"cannot read {path}: {error.strerror}") from None


def _source(path: Path, number: int, line: str) -> Text:
    try:
        record = parse_json(line, f"{path}, line {number}")
    except BundleError as error:
        raise QuantizationError(str(error)) from None
    record = record if isinstance(record, dict) else {}
    source, ids = record.get("source"), record.get("input_ids")
    if isinstance(source, str) and source.strip():
        return source
    if isinstance(ids, list) and ids and all(_is_token(token) for token in ids):
        return ids
    raise QuantizationError(
        f'{path}, line {number}: expected {{"source": "some text"}} or {{"input_ids": [5, 3]}}'
    )


def _is_token(value: object) -> bool:
    """Whether the model's vocabulary can hold it; the runtime checks whether it does."""
    return type(value) is int and 0 <= value < 2**31
