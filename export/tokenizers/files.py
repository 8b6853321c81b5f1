"""Find a checkpoint's tokenizer: tokenizer.json, BPE files, SentencePiece, or bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from seq2edge.runtime.bundle.hf_config import model_max_length
from seq2edge.runtime.bundle.optimum import byte_tokenizer
from seq2edge.runtime.bundle.tokenizer_info import TokenizerInfo

from ..checkpoint import optional_json
from ..errors import CheckpointError
from .bpe import build_blenderbot_bpe, build_byte_level_bpe
from .built import Built
from .languages import SCHEMES, find_scheme, marian_languages, mark_languages
from .piece_files import build_from_pieces
from .unigram import build_unigram
from .word_bpe import build_word_bpe
from .words import build_from_words

#: Tokenizer classes of transformers by ``model_type``, for checkpoints that name none.
_CLASSES = {
    "blenderbot": "BlenderbotTokenizer",
    "blenderbot-small": "BlenderbotSmallTokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "pegasus": "PegasusTokenizer",
    "plbart": "PLBartTokenizer",
}


@dataclass(frozen=True)
class TokenizerFile:
    """What goes into the bundle: the manifest's entry, the file and the vocabulary's size.

    ``target`` is the tokenizer of outputs, where it is another one.
    """

    info: TokenizerInfo
    data: bytes | None
    size: int
    target: TokenizerFile | None = None


def find_tokenizer(directory: Path) -> TokenizerFile | None:
    """The tokenizer of a checkpoint folder, or None if there are no files of one.

    Raises:
        CheckpointError: files that cannot be read.
    """
    settings = {
        **optional_json(directory / "special_tokens_map.json"),
        **optional_json(directory / "tokenizer_config.json"),
    }
    info = byte_tokenizer(directory)
    if info is not None:
        return TokenizerFile(info, None, info.byte_offset + 256)
    try:
        built = _build(directory, settings)
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{directory}: the tokenizer cannot be read: {error}") from None
    if built is None:
        return None
    info = TokenizerInfo(
        kind="tokenizers",
        file="tokenizer.json",
        size=None if built.unknown is None else built.size,
        unknown=built.unknown,
        languages=built.languages,
        max_length=model_max_length(settings),
    )
    target = None
    if built.target is not None:
        target = _file(built.target, TokenizerInfo(kind="tokenizers", file="tokenizer.json"))
    return _file(built.tokenizer, info, built.size, target)


def _file(
    tokenizer: Tokenizer,
    info: TokenizerInfo,
    size: int | None = None,
    target: TokenizerFile | None = None,
) -> TokenizerFile:
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if size is None:
        size = tokenizer.get_vocab_size(with_added_tokens=True)
    return TokenizerFile(info, tokenizer.to_str().encode(), size, target)


def tokenizer_at(path: Path) -> TokenizerFile:
    """The tokenizer of a tokenizer.json, or of a folder.

    Raises:
        CheckpointError: it is neither, or cannot be read.
    """
    folder = path.parent if path.name == "tokenizer.json" else path
    found = find_tokenizer(folder) if folder.is_dir() else None
    if found is None or not path.exists():
        raise CheckpointError(f"{path} is neither a tokenizer.json nor a folder with one")
    return found


def _build(directory: Path, settings: Mapping[str, Any]) -> Built | None:
    kind = _class(directory, settings)
    ready = directory / "tokenizer.json"
    vocabulary, merges = directory / "vocab.json", directory / "merges.txt"
    if ready.is_file():
        return _built(kind, Tokenizer.from_file(str(ready)), settings)
    found = build_from_pieces(kind, directory, settings)
    if found is not None:
        return found
    words = build_from_words(directory, settings)
    if words is not None:
        return Built(words)
    if vocabulary.is_file() and merges.is_file():
        if kind == "BlenderbotSmallTokenizer":
            return build_word_bpe(vocabulary, merges, settings)
        added = optional_json(directory / "added_tokens.json")
        build = build_blenderbot_bpe if kind == "BlenderbotTokenizer" else build_byte_level_bpe
        return Built(build(vocabulary, merges, settings, added))
    pieces = directory / "spiece.model"
    if pieces.is_file():
        return Built(build_unigram(pieces, int(settings.get("extra_ids", 100))))
    return None


def _built(kind: str, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> Built:
    """A tokenizer.json, which is taken as it is but for the default language."""
    languages = None
    if kind == "MarianTokenizer":
        languages = marian_languages(tokenizer.get_vocab())
    scheme = find_scheme(kind, settings)
    if scheme is not None:
        languages = mark_languages(tokenizer, scheme, settings)
    return Built(tokenizer, languages=languages)


def _class(directory: Path, settings: Mapping[str, Any]) -> str:
    """The tokenizer class of transformers, without "Fast"; "" for what has no name here."""
    config = optional_json(directory / "config.json")
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    kind = str(named or "").removesuffix("Fast")
    if kind in {*_CLASSES.values(), *SCHEMES}:
        return kind
    model_type = str(config.get("model_type"))
    if model_type == "m2m_100" and not (directory / "vocab.json").is_file():
        return "NllbTokenizer"
    return "" if kind and kind not in _GENERIC else _CLASSES.get(model_type, "")


#: Classes that say nothing of the tokenizer but that it is a tokenizer.json.
_GENERIC = ("PreTrainedTokenizer", "TokenizersBackend")
