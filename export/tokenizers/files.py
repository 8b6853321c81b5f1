"""Find a checkpoint's tokenizer: tokenizer.json, BPE files, SentencePiece, or bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from seq2edge.runtime.manifest import TokenizerInfo

from ..checkpoint import read_json
from ..errors import CheckpointError
from .bpe import build_byte_level_bpe
from .unigram import build_unigram

_BYTE_CLASS = "ByT5Tokenizer"
_BYTE_OFFSET = 3


@dataclass(frozen=True)
class TokenizerFile:
    """What goes into the bundle: the manifest's entry, the file and the vocabulary's size."""

    info: TokenizerInfo
    data: bytes | None
    size: int


def find_tokenizer(directory: Path) -> TokenizerFile | None:
    """The tokenizer of a checkpoint folder, or None if there are no files of one.

    Raises:
        CheckpointError: files that cannot be read.
    """
    settings = _optional_json(directory / "tokenizer_config.json")
    if settings.get("tokenizer_class") == _BYTE_CLASS:
        info = TokenizerInfo(kind="byte", byte_offset=_BYTE_OFFSET)
        return TokenizerFile(info, None, _BYTE_OFFSET + 256)
    tokenizer = _load(directory, settings)
    if tokenizer is None:
        return None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    info = TokenizerInfo(kind="tokenizers", file="tokenizer.json")
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    return TokenizerFile(info, tokenizer.to_str().encode(), size)


def _load(directory: Path, settings: dict[str, Any]) -> Tokenizer | None:
    ready = directory / "tokenizer.json"
    vocabulary, merges = directory / "vocab.json", directory / "merges.txt"
    pieces = directory / "spiece.model"
    try:
        if ready.is_file():
            return Tokenizer.from_file(str(ready))
        if vocabulary.is_file() and merges.is_file():
            special = _optional_json(directory / "special_tokens_map.json")
            added = _optional_json(directory / "added_tokens.json")
            return build_byte_level_bpe(vocabulary, merges, {**special, **settings}, added)
        if pieces.is_file():
            return build_unigram(pieces.read_bytes(), int(settings.get("extra_ids", 100)))
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{directory}: the tokenizer cannot be read: {error}") from None
    return None


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
