"""Find a checkpoint's tokenizer: tokenizer.json, BPE files, SentencePiece, or bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from seq2edge.runtime.bundle.hf_config import model_max_length
from seq2edge.runtime.bundle.optimum import byte_tokenizer
from seq2edge.runtime.bundle.tokenizer_info import TokenizerInfo
from seq2edge.runtime.errors import Seq2EdgeError
from seq2edge.runtime.text.tokenizer import byte_tokens

from ..checkpoint import optional_json, read_json
from ..errors import CheckpointError
from . import from_transformers
from .built import Built
from .from_ctranslate2 import build_converted, check_ids, has_token, m2m100_ids
from .from_sentencepiece import build_from_pieces
from .languages import find_scheme, marian_languages, mark_languages
from .pieces import UNIGRAM, PieceModel, read_pieces
from .ready import read_ready
from .serialized import serialized
from .settings import read_settings
from .spaces import clean_up_spaces
from .word_bpe import build_word_bpe

#: Tokenizer classes of transformers by ``model_type``, for checkpoints that name none.
_CLASSES = {
    "bart": "BartTokenizer",
    "bert": "BertTokenizer",
    "blenderbot": "BlenderbotTokenizer",
    "blenderbot-small": "BlenderbotSmallTokenizer",
    "gpt2": "GPT2Tokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "mt5": "T5Tokenizer",
    "pegasus": "PegasusTokenizer",
    "plbart": "PLBartTokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
    "umt5": "T5Tokenizer",
    "whisper": "WhisperTokenizer",
}


@dataclass(frozen=True)
class TokenizerFile:
    """What goes into the bundle: the manifest's entry, the file and the vocabulary's size.

    ``target`` is the tokenizer of outputs, where it is another one; ``folder`` holds the files that
    it was made from.
    """

    info: TokenizerInfo
    data: bytes | None
    size: int
    folder: Path
    target: TokenizerFile | None = None


def find_tokenizer(
    directory: Path, config: Mapping[str, Any] | None = None
) -> TokenizerFile | None:
    """The tokenizer of a checkpoint folder, or None if there are no files of one.

    Args:
        directory: the folder.
        config: what its config.json says; None: read it there. One of CTranslate2 says nothing of
            the model, and what it was converted from is told here.

    Raises:
        CheckpointError: files that cannot be read.
    """
    settings = read_settings(directory)
    info = byte_tokenizer(directory)
    if info is not None:
        info = replace(info, **_byte_tokens(info.byte_offset, directory, settings))
        highest = max((token.id for token in info.added_tokens), default=0)
        return TokenizerFile(info, None, max(info.byte_offset + 255, highest) + 1, directory)
    try:
        config = optional_json(directory / "config.json") if config is None else config
        kind = _class(directory, settings, config)
        built = build_converted(config, directory) or _build(kind, directory, settings)
    except Seq2EdgeError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{directory}: the tokenizer cannot be read: {error}") from None
    if built is None:
        return None
    check_ids(built.tokenizer, directory)
    info = TokenizerInfo(
        kind="tokenizers",
        file="tokenizer.json",
        size=None if built.unknown is None else built.size,
        unknown=built.unknown,
        languages=built.languages,
        max_length=model_max_length(settings),
        origin=built.origin,
    )
    target = None
    if built.target is not None:
        outputs = TokenizerInfo(kind="tokenizers", file="tokenizer.json", origin=built.origin)
        clean_up_spaces(built.target, kind, settings)
        target = TokenizerFile(outputs, *_written(built.target), directory)
    clean_up_spaces(built.tokenizer, kind, settings)
    data, size = _written(built.tokenizer)
    return TokenizerFile(info, data, built.size or size, directory, target)


def vocabulary(tokenizer: TokenizerFile | None) -> dict[str, int]:
    """Tokens and their ids, added ones as well; {} without a tokenizer.json."""
    if tokenizer is None or tokenizer.data is None:
        return {}
    ids: dict[str, int] = Tokenizer.from_str(tokenizer.data.decode()).get_vocab(True)
    return ids


def _written(tokenizer: Tokenizer) -> tuple[bytes, int]:
    """The file, which neither pads nor truncates, and how many tokens it knows."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return serialized(tokenizer).encode(), tokenizer.get_vocab_size(with_added_tokens=True)


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


def _byte_tokens(offset: int, directory: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """``added_tokens`` and ``origin`` of a tokenizer of bytes."""
    origin = "tokenizer_config.json, bytes"
    said = ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens")
    if not (
        any(settings.get(name) for name in said)
        or "extra_ids" in settings
        or (directory / "added_tokens.json").is_file()
    ):
        return {"origin": origin}
    added = from_transformers.byte_tokens(directory)
    own = sorted(byte_tokens(offset), key=lambda token: token.id)
    return {"origin": origin, "added_tokens": () if list(added) == own else added}


def _build(kind: str, directory: Path, settings: Mapping[str, Any]) -> Built | None:
    for name in _VOCABULARIES:
        optional_json(directory / name)  # what builds it takes the last of two equal tokens
    if (directory / "tokenizer.json").is_file():
        named = _without_fast(settings.get("tokenizer_class"))
        return _with_languages(kind, read_ready(named, directory, settings), settings)
    found = build_from_pieces(kind, directory, settings)
    if found is not None:
        return found
    if kind == "BlenderbotSmallTokenizer":
        if _has(directory, _BPE):
            return build_word_bpe(directory, settings)
        return None
    found_kind = _by_files(kind, directory)
    return None if found_kind is None else _convert(found_kind, directory)


def _convert(kind: Any, directory: Path) -> Built:
    """What transformers makes of vocabulary files."""
    files, model = from_transformers.files_of(kind), None
    if kind.__name__ == "T5Tokenizer":
        model = _t5_pieces(directory / files[0])
    tokenizer = from_transformers.load(kind, directory, files)
    if model is not None:
        tokenizer = from_transformers.cut_as_sentencepiece(tokenizer, model)
    return Built(tokenizer, origin=f"{' and '.join(files)}, by transformers' {kind.__name__}")


def _t5_pieces(file: Path) -> PieceModel:
    model = read_pieces(file)
    if model.kind != UNIGRAM:
        raise CheckpointError(f"{file} is not a unigram model; save a tokenizer.json instead")
    texts = {piece.text for piece in model.pieces}
    if not {"<unk>", "</s>"} <= texts:
        raise CheckpointError(f"{file} has no <unk> or no </s> piece")
    return model


_VOCABULARIES = ("tokenizer.json", "vocab.json", "target_vocab.json")
_BPE, _PIECES, _WORDS = ("vocab.json", "merges.txt"), ("spiece.model",), ("vocab.txt",)


def _has(directory: Path, names: Iterable[str]) -> bool:
    return all((directory / name).is_file() for name in names)


def _by_files(kind: str, directory: Path) -> Any:
    """The class of transformers that reads the vocabulary files at hand; None: there are none.

    It is the one that the checkpoint names, if its files are there.

    Raises:
        CheckpointError: the files are of a class that only Python can run.
    """
    if not any(_has(directory, files) for files in (_BPE, _PIECES, _WORDS)):
        return None
    named = from_transformers.find_class(kind) if kind else None
    if named is not None and _has(directory, from_transformers.files_of(named)):
        return named
    if _has(directory, _WORDS):
        name = "BertTokenizer"
    elif _has(directory, _BPE):
        known = read_json(directory / "vocab.json")
        # RoBERTa's vocabulary has both of its own.
        name = "GPT2Tokenizer" if _END in known and "<s>" not in known else "RobertaTokenizer"
    else:
        name = "T5Tokenizer"
    return from_transformers.find_class(name)


_END = "<|endoftext|>"


def _with_languages(kind: str, built: Built, settings: Mapping[str, Any]) -> Built:
    scheme = find_scheme(kind, settings)
    if scheme is not None:
        return replace(built, languages=mark_languages(built.tokenizer, scheme, settings))
    if kind == "MarianTokenizer":
        return replace(built, languages=marian_languages(built.tokenizer.get_vocab()))
    return built


def _class(directory: Path, settings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The tokenizer class of transformers, without "Fast"; "" for what has no name here."""
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    kind = _without_fast(named)
    if kind:
        return kind
    model_type = str(config.get("model_type"))
    of_m2m100 = (directory / "vocab.json").is_file() or m2m100_ids(directory) is not None
    if model_type == "m2m_100" and not of_m2m100:
        return "NllbTokenizer"
    if model_type == "mbart" and has_token(directory, "gl_ES"):  # of the 52 languages, not the 25
        return "MBart50Tokenizer"
    return _CLASSES.get(model_type, "")


def _without_fast(name: object) -> str:
    """A class as transformers 5 names it; "" for none, and for those that say nothing."""
    kind = str(name or "").removesuffix("Fast")
    return "" if kind in _GENERIC else kind


#: Classes that say nothing of the tokenizer but that it is a tokenizer.json.
_GENERIC = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")
