"""SentencePiece files of the BART line: from a checkpoint's files to tokenizers of its ids.

Sources: the tokenizers of transformers, whose ids and templates these have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from ..checkpoint import optional_json
from ..errors import CheckpointError
from .built import Built
from .languages import find_scheme, marian_languages, mark_languages
from .protobuf import PieceModel, read_pieces
from .sentencepiece import (
    Vocabulary,
    build_decoder,
    build_pieces,
    clean_up_spaces,
    fairseq_ids,
    shows_all,
)
from .settings import text_of

_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
#: Pegasus' pretraining tokens, which come before the pieces.
_PEGASUS_OFFSET = 103


def build_from_pieces(kind: str, directory: Path, settings: Mapping[str, Any]) -> Built | None:
    """The tokenizer of a tokenizer class of transformers; None where its files are missing.

    Raises:
        CheckpointError: files that cannot be read or do not fit each other.
    """
    if kind not in _BUILDERS:
        return None
    files, build = _BUILDERS[kind]
    if not all((directory / name).is_file() for name in files):
        return None
    return build(kind, directory, settings)


def _fairseq(kind: str, directory: Path, settings: Mapping[str, Any]) -> Built:
    model, scheme = read_pieces(directory / "sentencepiece.bpe.model"), find_scheme(kind, settings)
    languages = [] if scheme is None else scheme.tokens(settings)
    last = () if settings.get("language_codes") == "multi" else ("<mask>",)
    ids = fairseq_ids(model, languages, last)
    mask = AddedToken("<mask>", lstrip=True, normalized=False)
    special: list[str | AddedToken] = [*_FAIRSEQ, *languages, mask]
    vocabulary = _with_added(Vocabulary(ids, "<unk>", special), directory, settings)
    built = _built(kind, model, vocabulary, settings)
    if kind == "PLBartTokenizer" and settings.get("clean_up_tokenization_spaces", True):
        clean_up_spaces(built.tokenizer)
    return built


def _m2m100(kind: str, directory: Path, settings: Mapping[str, Any]) -> Built:
    model, scheme = read_pieces(directory / "sentencepiece.bpe.model"), find_scheme(kind, settings)
    languages = [] if scheme is None else scheme.tokens(settings)
    ids = _read_ids(directory / "vocab.json")
    first = len(ids)
    ids |= {token: first + number for number, token in enumerate(languages)}
    vocabulary = Vocabulary(ids, "<unk>", [*_FAIRSEQ, *languages])
    return _built(kind, model, _with_added(vocabulary, directory, settings), settings)


def _pegasus(kind: str, directory: Path, settings: Mapping[str, Any]) -> Built:
    model = read_pieces(directory / "spiece.model")
    offset = int(settings.get("offset", _PEGASUS_OFFSET))
    masks = ["<mask_1>", "<mask_2>"] if offset else []
    unused = [f"<unk_{number}>" for number in range(2, offset)]
    before = ["<pad>", "</s>", *masks, *unused]
    pieces = [piece.text for piece in model.pieces[2:]]
    ids = {token: number for number, token in reversed(list(enumerate([*before, *pieces])))}
    vocabulary = Vocabulary(ids, "<unk>", [*before, "<unk>"])
    return _built(kind, model, _with_added(vocabulary, directory, settings), settings)


def _marian(_kind: str, directory: Path, settings: Mapping[str, Any]) -> Built:
    """Two models and a vocabulary of both, or one each.

    A first token ``>>code<<`` names the target language, where there are several.
    """
    separate = bool(settings.get("separate_vocabs"))
    source = read_pieces(directory / "source.spm")
    target = read_pieces(directory / "target.spm")
    ids = _read_ids(directory / "vocab.json")
    target_ids = _read_ids(directory / "target_vocab.json") if separate else ids
    languages = None if separate else marian_languages(ids)
    named = [f">>{code}<<" for code in languages.codes] if languages is not None else []
    special = [text_of(settings.get(f"{name}_token", default)) for name, default in _MARIAN]
    unknown = special[0]
    vocabulary = _with_added(Vocabulary(ids, unknown, special, named), directory, settings)
    outputs = Vocabulary(target_ids, unknown, special, named) if separate else vocabulary
    template = ["$A", special[1]]
    return Built(
        tokenizer=build_pieces(source, vocabulary, template),
        target=build_decoder(target, outputs, template),
        size=vocabulary.size,
        unknown=vocabulary.ids[unknown],
        languages=languages,
    )


_MARIAN = (("unk", "<unk>"), ("eos", "</s>"), ("pad", "<pad>"))


def _built(
    kind: str, model: PieceModel, vocabulary: Vocabulary, settings: Mapping[str, Any]
) -> Built:
    template = ["$A", "</s>"]
    tokenizer = build_pieces(model, vocabulary, template)
    size = vocabulary.size
    scheme = find_scheme(kind, settings)
    return Built(
        tokenizer=tokenizer,
        target=None if shows_all(model, vocabulary) else build_decoder(model, vocabulary, template),
        size=size,
        unknown=vocabulary.ids["<unk>"] if tokenizer.get_vocab_size() > size else None,
        languages=None if scheme is None else mark_languages(tokenizer, scheme, settings),
    )


def _with_added(vocabulary: Vocabulary, directory: Path, settings: Mapping[str, Any]) -> Vocabulary:
    """With the tokens of added_tokens.json and of ``added_tokens_decoder`` that are new."""
    ids, named, special = dict(vocabulary.ids), list(vocabulary.named), list(vocabulary.special)
    file = directory / "added_tokens.json"
    added = {token: (number, False) for token, number in _read_ids(file).items()}
    listed = settings.get("added_tokens_decoder")
    for number, token in listed.items() if isinstance(listed, Mapping) else ():
        is_special = isinstance(token, dict) and token.get("special") is True
        added[text_of(token)] = (int(number), is_special)
    for token, (number, is_special) in added.items():
        if token not in ids:
            ids[token] = number
            (special if is_special else named).append(token)
    return Vocabulary(ids, vocabulary.unknown, special, named)


def _read_ids(file: Path) -> dict[str, int]:
    """Token to id; {} if there is no such file.

    Raises:
        CheckpointError: something else is in it.
    """
    found = optional_json(file)
    if not all(isinstance(number, int) and number >= 0 for number in found.values()):
        raise CheckpointError(f"{file} does not map tokens to ids")
    return found


Builder = Callable[[str, Path, Mapping[str, Any]], Built]
_FAIRSEQ_FILES = ("sentencepiece.bpe.model",)
#: By tokenizer class: the files that it needs, and how to build it.
_BUILDERS: dict[str, tuple[tuple[str, ...], Builder]] = {
    "MarianTokenizer": (("source.spm", "target.spm", "vocab.json"), _marian),
    "M2M100Tokenizer": (("sentencepiece.bpe.model", "vocab.json"), _m2m100),
    "MBartTokenizer": (_FAIRSEQ_FILES, _fairseq),
    "MBart50Tokenizer": (_FAIRSEQ_FILES, _fairseq),
    "NllbTokenizer": (_FAIRSEQ_FILES, _fairseq),
    "PLBartTokenizer": (_FAIRSEQ_FILES, _fairseq),
    "PegasusTokenizer": (("spiece.model",), _pegasus),
}
