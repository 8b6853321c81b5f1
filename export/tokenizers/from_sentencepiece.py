"""SentencePiece files of the BART line: from a checkpoint's files to tokenizers of its ids.

Sources: the tokenizers of transformers, whose ids and templates these have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from .built import Built
from .from_ctranslate2 import m2m100_ids
from .languages import find_scheme, is_marian_language, marian_languages, mark_languages
from .pieces import PieceModel, read_pieces
from .sentencepiece import (
    build_decoder,
    build_pieces,
    fairseq_ids,
    shows_all,
)
from .settings import read_ids, text_of
from .vocabulary import Vocabulary, read_vocabulary

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
    if kind == "M2M100Tokenizer" and m2m100_ids(directory) is not None:
        files = _FAIRSEQ_FILES  # CTranslate2's list of tokens is what vocab.json would be
    if not all((directory / name).is_file() for name in files):
        return None
    return build(kind, directory, settings)


def _fairseq(kind: str, directory: Path, settings: Mapping[str, Any]) -> Built:
    model, scheme = read_pieces(directory / "sentencepiece.bpe.model"), find_scheme(kind, settings)
    languages = [] if scheme is None else scheme.tokens(settings)
    last = () if settings.get("language_codes") == "multi" else ("<mask>",)
    ids = fairseq_ids(model, languages, last)
    special = {"<mask>": AddedToken("<mask>", lstrip=True, normalized=False, special=True)}
    special = special if last else {}
    vocabulary = read_vocabulary(ids, [*_FAIRSEQ, *languages], special, directory, settings)
    return _built(kind, model, vocabulary, settings)


def _m2m100(kind: str, directory: Path, settings: Mapping[str, Any]) -> Built:
    model, scheme = read_pieces(directory / "sentencepiece.bpe.model"), find_scheme(kind, settings)
    converted = m2m100_ids(directory)
    if converted is not None and not (directory / "vocab.json").is_file():
        ids, languages = converted
    else:
        ids = read_ids(directory / "vocab.json")
        languages = [] if scheme is None else scheme.tokens(settings)
    first = len(ids)
    ids |= {token: first + number for number, token in enumerate(languages)}
    vocabulary = read_vocabulary(ids, [*_FAIRSEQ, *languages], {}, directory, settings)
    return _built(kind, model, vocabulary, settings)


def _pegasus(kind: str, directory: Path, settings: Mapping[str, Any]) -> Built:
    model = read_pieces(directory / "spiece.model")
    offset = int(settings.get("offset", _PEGASUS_OFFSET))
    masks = ["<mask_1>", "<mask_2>"] if offset else []
    unused = [f"<unk_{number}>" for number in range(2, offset)]
    before = ["<pad>", "</s>", *masks, *unused]
    pieces = [piece.text for piece in model.pieces[2:]]
    ids = {token: number for number, token in reversed(list(enumerate([*before, *pieces])))}
    vocabulary = read_vocabulary(ids, [*before, "<unk>"], {}, directory, settings)
    return _built(kind, model, vocabulary, settings)


def _marian(_kind: str, directory: Path, settings: Mapping[str, Any]) -> Built:
    """Two models and a vocabulary of both, or one each.

    A first token ``>>code<<`` names the target language, where there are several.
    """
    separate = bool(settings.get("separate_vocabs"))
    source = read_pieces(directory / "source.spm")
    target = read_pieces(directory / "target.spm")
    special = [text_of(settings.get(f"{name}_token", default)) for name, default in _MARIAN]
    unknown = special[0]

    def vocabulary(name: str) -> Vocabulary:
        ids = read_ids(directory / name)
        named = [AddedToken(token, normalized=False) for token in ids if is_marian_language(token)]
        flagged = {token.content: token for token in named}  # decoding keeps them
        return read_vocabulary(ids, special, flagged, directory, settings, unknown)

    sources = vocabulary("vocab.json")
    outputs = vocabulary("target_vocab.json") if separate else sources
    template = ["$A", special[1]]
    return Built(
        tokenizer=build_pieces(source, sources, template),
        target=build_decoder(target, outputs, template),
        size=sources.size,
        unknown=sources.ids[unknown],
        languages=marian_languages(sources.ids),
        origin=_ORIGIN.format("source.spm, target.spm and vocab.json"),
    )


_MARIAN = (("unk", "<unk>"), ("eos", "</s>"), ("pad", "<pad>"))
#: How a manifest says where a tokenizer is from.
_ORIGIN = "{}, as SentencePiece cuts texts"


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
        origin=_ORIGIN.format(" and ".join(_BUILDERS[kind][0])),
    )


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
