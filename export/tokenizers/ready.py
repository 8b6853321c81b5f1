"""A checkpoint's tokenizer.json, with what the settings beside it change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..errors import CheckpointError
from . import from_transformers
from .built import Built
from .serialized import serialized
from .settings import added_tokens

_FILE = "tokenizer.json"


def read_ready(kind: str, directory: Path, settings: Mapping[str, Any]) -> Built:
    """The tokenizer of ``directory``/tokenizer.json.

    transformers builds the tokenizers of its classes anew from the file's vocabulary, with the
    settings of tokenizer_config.json (``add_prefix_space``, ``do_lower_case``, other special
    tokens). What it builds is taken where it has the form of the file; where the file is of
    another form (transformers 5's mBART normalizes nothing), the file is right.

    Args:
        kind: the class of transformers that the settings name; "": none, or one that takes the file
            as it is.
        directory: the checkpoint.
        settings: special_tokens_map.json and tokenizer_config.json.

    Raises:
        CheckpointError: the file cannot be read.
        MissingDependencyError: the settings change the tokenizer, and transformers is missing.
    """
    tokenizer = Tokenizer.from_file(str(directory / _FILE))
    if kind:
        found = from_transformers.find_class(kind)
        built = None if found is None else _built_by(found, directory)
        if built is not None and _form(tokenizer) == _form(built):
            return Built(built, origin=f"{_FILE}, by transformers' {kind}")
    if _lacks(tokenizer, directory, settings):
        generic = from_transformers.find_class(from_transformers.GENERIC)
        tokenizer = from_transformers.load(generic, directory, [_FILE])
        return Built(tokenizer, origin=f"{_FILE}, with the tokens of the files beside it")
    return Built(tokenizer, origin=_FILE)


def _built_by(kind: Any, directory: Path) -> Tokenizer | None:
    """None: transformers cannot build one of that class from the file."""
    try:
        return from_transformers.load(kind, directory, [_FILE])
    except CheckpointError:
        return None


def _lacks(tokenizer: Tokenizer, directory: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the files name tokens that the tokenizer does not have, or not as special ones."""
    there = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    files = added_tokens(directory, settings)
    return any(token.content not in there for token in (*files.by_id.values(), *files.others))


def _form(tokenizer: Tokenizer) -> Any:
    """What settings do not change: the model, and the kinds of all other parts."""
    made = json.loads(serialized(tokenizer))
    model = made["model"]
    own_model = [model.get(key) for key in ("type", "merges", "unk_id", "byte_fallback")]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):  # with scores, which rounding changes
        vocabulary = [token for token, _ in vocabulary]
    return (
        vocabulary,
        own_model,
        [_kinds(made[part]) for part in ("normalizer", "pre_tokenizer", "decoder")],
    )


def _kinds(part: Any) -> Any:
    """The types that a part is made of."""
    if isinstance(part, list):
        return [_kinds(each) for each in part]
    if not isinstance(part, dict):
        return part
    inner = [part[name] for name in ("normalizers", "pretokenizers", "decoders") if name in part]
    return [part.get("type"), *map(_kinds, inner)]
