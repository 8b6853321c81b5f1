"""Vocabularies of CTranslate2: a list of tokens, whose places are their ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq2edge.runtime.bundle.checks.json_text import (
    MAX_TOKENIZER_BYTES,
    parse_json,
    read_file,
)
from seq2edge.runtime.errors import BundleError

from ...errors import CheckpointError


def read_vocabulary(folder: Path, name: str, unknown: str | None = None) -> list[str] | None:
    """The tokens of ``name``.json or ``name``.txt; None: there is no such file.

    Args:
        folder: the model's.
        name: ``shared_vocabulary``, ``source_vocabulary``, ``target_vocabulary`` or, of Whisper,
            ``vocabulary``.
        unknown: a token that CTranslate2 appends where the file does not have it.

    Raises:
        CheckpointError: the file cannot be read, or is no list of tokens.
    """
    path = next((p for p in (folder / f"{name}.json", folder / f"{name}.txt") if p.is_file()), None)
    if path is None:
        return None
    try:
        # Tokens may be or hold any character, so lines end at line feeds and nothing else.
        text = read_file(path, MAX_TOKENIZER_BYTES).decode("utf-8")
        tokens: Any = parse_json(text, path) if path.suffix == ".json" else _lines(text)
    except BundleError as error:
        raise CheckpointError(str(error)) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise CheckpointError(f"{path} is no list of tokens")
    return tokens if unknown is None or unknown in tokens else [*tokens, unknown]


def read_vocabularies(folder: Path, unknown: str) -> tuple[list[str], list[str]] | None:
    """The tokens of sources and of outputs, often the same; None: one of them has no file.

    Raises:
        CheckpointError: as :func:`read_vocabulary`.
    """
    shared = read_vocabulary(folder, "shared_vocabulary", unknown)
    source = shared or read_vocabulary(folder, "source_vocabulary", unknown)
    target = shared or read_vocabulary(folder, "target_vocabulary", unknown)
    return None if source is None or target is None else (source, target)


def _lines(text: str) -> list[str]:
    lines = text.removesuffix("\n").split("\n")
    # Where every line ends in a carriage return, it is the file's and no token's.
    return [line[:-1] for line in lines] if all(line.endswith("\r") for line in lines) else lines


def ids_of(tokens: list[str]) -> Mapping[str, int]:
    """Token to id; of tokens that are there twice, the first."""
    found: dict[str, int] = {}
    for number, token in enumerate(tokens):
        found.setdefault(token, number)
    return found
