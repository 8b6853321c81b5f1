"""The user's own text, from a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..errors import QuantizationError

#: A source: text, or token ids for a bundle that has no tokenizer.
Text = str | list[int]


def read_texts(path: str | os.PathLike[str]) -> list[Text]:
    """Sources to calibrate on: a line each, or an object a line in a .jsonl file.

    An object has a ``source`` (text) or ``input_ids`` (a list of token ids).

    Raises:
        QuantizationError: the file cannot be read, is not UTF-8, holds no text, or a line of
            a .jsonl file is not such an object.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise QuantizationError(
            f"cannot read the calibration text {path}: {error.strerror}"
        ) from None
    except UnicodeDecodeError as error:
        raise QuantizationError(f"the calibration text {path} is not UTF-8: {error}") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    texts: list[Text] = (
        [_source(path, number, line) for number, line in numbered]
        if path.suffix == ".jsonl"
        else [line for _, line in numbered]
    )
    if not texts:
        raise QuantizationError(f"the calibration text {path} is empty: it needs a text a line")
    return texts


def _source(path: Path, number: int, line: str) -> Text:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise QuantizationError(f"{path}, line {number}: not JSON: {error}") from None
    record = record if isinstance(record, dict) else {}
    source, ids = record.get("source"), record.get("input_ids")
    if isinstance(source, str) and source.strip():
        return source
    if isinstance(ids, list) and ids and all(type(token) is int for token in ids):
        return ids
    raise QuantizationError(
        f'{path}, line {number}: expected {{"source": "some text"}} or {{"input_ids": [5, 3]}}'
    )
