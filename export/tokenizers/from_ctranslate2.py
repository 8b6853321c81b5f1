"""Tokenizers of CTranslate2's folders: its list of tokens, and the SentencePiece files beside it.

The list is what gives tokens their ids, and stands in for a ``vocab.json`` that was not copied.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from ..checkpoint.ctranslate2 import (
    PACKAGE,
    TOLD,
    find_model,
    ids_of,
    read_vocabularies,
    read_vocabulary,
)
from ..errors import CheckpointError
from .built import Built
from .languages import is_marian_language, marian_languages
from .pieces import read_pieces
from .sentencepiece import build_decoder, build_pieces, shows_all
from .vocabulary import Vocabulary

_PADDING = ("<pad>", "<blank>")


def build_converted(config: Mapping[str, Any], directory: Path) -> Built | None:
    """The tokenizer of a Marian or OpenNMT model of CTranslate2; None: there are no files of one.

    Args:
        config: what config.json of transformers would say, with what CTranslate2 was told.
        directory: the model's folder. A package of Argos Translate has its SentencePiece model in
            the folder above.

    Raises:
        CheckpointError: files that cannot be read or do not fit each other.
    """
    kind, told = config.get("model_type"), config.get(TOLD)
    if told is None or kind not in ("marian", "opennmt"):
        return None
    unknown, end = str(told.get("unk_token", "<unk>")), str(told.get("eos_token", "</s>"))
    lists, files = read_vocabularies(directory, unknown), _piece_files(directory)
    if lists is None or files is None:
        return None
    start = str(told.get("bos_token", "<s>"))
    template = [
        *([start] if told.get("add_source_bos") else []),
        "$A",
        *([end] if told.get("add_source_eos") or kind == "marian" else []),
    ]
    special = [unknown, start, end, *_PADDING]
    special += [str(told["target_prefix"])] if told.get("target_prefix") else []
    models = [read_pieces(file) for file in files]
    sources, outputs = (
        _vocabulary(_with_pad(tokens, config, name), special, unknown)
        for tokens, name in zip(lists, ("pad_token_id", "decoder_start_token_id"), strict=True)
    )
    same = files[0] == files[1] and lists[0] == lists[1] and shows_all(models[0], sources)
    return Built(
        tokenizer=build_pieces(models[0], sources, template),
        target=None if same else build_decoder(models[1], outputs, template),
        size=sources.size,
        unknown=sources.ids[unknown],
        languages=marian_languages(sources.ids),
        origin=_origin(files),
    )


def m2m100_ids(directory: Path) -> tuple[dict[str, int], list[str]] | None:
    """The pieces of M2M100 with their ids, and its language tokens after them.

    Returns:
        None: there is no list of CTranslate2 in the folder, or one without such tokens (NLLB).

    Raises:
        CheckpointError: the list cannot be read.
    """
    tokens = read_vocabulary(directory, "shared_vocabulary")
    languages = [t for t in tokens or [] if t.startswith("__") and t.endswith("__") and len(t) > 4]
    if not tokens or not languages:
        return None
    return dict(ids_of(tokens[: tokens.index(languages[0])])), languages


def has_token(directory: Path, token: str) -> bool:
    """Whether CTranslate2's list of tokens in the folder has one; False where there is no list."""
    return token in (read_vocabulary(directory, "shared_vocabulary") or [])


def check_ids(tokenizer: Tokenizer, directory: Path) -> None:
    """Refuse a tokenizer that numbers tokens otherwise than a model of CTranslate2 beside it.

    Raises:
        CheckpointError: with the first such token.
    """
    if find_model(directory) is None:
        return
    tokens = read_vocabulary(directory, "vocabulary")
    lists = read_vocabularies(directory, "<unk>") if tokens is None else (tokens, tokens)
    if lists is None:
        return
    for token, number in ids_of(lists[0]).items():
        found = tokenizer.token_to_id(token)
        if found is not None and found != number:
            raise CheckpointError(
                f"{directory}: {token!r} is token {number} of the model's vocabulary and token"
                f" {found} of the tokenizer; put the tokenizer's files there that the model was"
                " trained with"
            )


def _piece_files(directory: Path) -> tuple[Path, Path] | None:
    own = directory / "source.spm", directory / "target.spm"
    if all(file.is_file() for file in own):
        return own
    packed = (directory.parent / PACKAGE).is_file()
    for place in [directory, *([directory.parent] if packed else [])]:
        if (place / "sentencepiece.model").is_file():
            return (place / "sentencepiece.model",) * 2
        if (place / "bpe.model").is_file():
            warnings.warn(
                f"{place / 'bpe.model'} needs the scripts of Moses, which a device does not have",
                stacklevel=3,
            )
    return None


def _with_pad(tokens: list[str], config: Mapping[str, Any], name: str) -> list[str]:
    """With the row that stands for a start of zeros, which CTranslate2 does not list."""
    return [*tokens, "<pad>"] if config.get(name) == len(tokens) else tokens


def _vocabulary(tokens: list[str], special: Sequence[str], unknown: str) -> Vocabulary:
    ids = ids_of(tokens)
    added = [AddedToken(t, normalized=False, special=True) for t in special if t in ids]
    added += [AddedToken(t, normalized=False) for t in ids if is_marian_language(t)]
    return Vocabulary(ids, unknown, list({token.content: token for token in added}.values()))


def _origin(files: tuple[Path, Path]) -> str:
    names = " and ".join(dict.fromkeys(file.name for file in files))
    return f"{names} and CTranslate2's vocabulary, as SentencePiece cuts texts"
