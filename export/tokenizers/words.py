"""Tokenizers of BERT's and GPT-2's line without a tokenizer.json: WordPiece, and BPE as it is.

Sources: Devlin et al. 2019, section 3 (WordPiece); Radford et al. 2019, section 2.2 (bytes).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ..errors import CheckpointError
from .settings import listed_tokens, text_of

_BERT = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_END = "<|endoftext|>"


def build_from_words(directory: Path, settings: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a ``vocab.txt``, or GPT-2's of ``vocab.json`` and ``merges.txt``.

    Args:
        directory: the folder.
        settings: special_tokens_map.json and tokenizer_config.json together.

    Returns:
        None: there are no such files, or they are of another scheme.

    Raises:
        CheckpointError: the vocabulary lacks a token that the scheme needs.
    """
    words, vocabulary = directory / "vocab.txt", directory / "vocab.json"
    merges = directory / "merges.txt"
    if words.is_file():
        return _wordpiece(words, settings)
    if vocabulary.is_file() and merges.is_file():
        known = json.loads(vocabulary.read_text(encoding="utf-8"))
        if _is_gpt2(known, settings):
            return _gpt2(vocabulary, merges, known, settings)
    return None


def _wordpiece(words: Path, settings: Mapping[str, Any]) -> Tokenizer:
    special = {name: text_of(settings.get(name) or text) for name, text in _BERT.items()}
    model = models.WordPiece.from_file(str(words), unk_token=special["unk_token"])
    tokenizer = Tokenizer(model)
    lower = bool(settings.get("do_lower_case", True))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
        strip_accents=settings.get("strip_accents"),
        lowercase=lower,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    known = tokenizer.get_vocab()
    _add_special(tokenizer, list(special.values()), settings, known)
    begin, end = special["cls_token"], special["sep_token"]
    missing = [token for token in (begin, end, special["unk_token"]) if token not in known]
    if missing:
        raise CheckpointError(f"{words} lacks {', '.join(missing)}")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[begin, "$A", end], special_tokens=[(begin, known[begin]), (end, known[end])]
    )
    return tokenizer


def _is_gpt2(known: Mapping[str, int], settings: Mapping[str, Any]) -> bool:
    named = settings.get("tokenizer_class")
    if named:
        return str(named).removesuffix("Fast") == "GPT2Tokenizer"
    return _END in known and "<s>" not in known  # RoBERTa's has both of its own


def _gpt2(
    vocabulary: Path, merges: Path, known: Mapping[str, int], settings: Mapping[str, Any]
) -> Tokenizer:
    """Nothing is put before or after the text."""
    tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges), fuse_unk=False))
    prefix = bool(settings.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    special = [text_of(settings.get(name) or _END) for name in names]
    _add_special(tokenizer, special, settings, known)
    if settings.get("add_bos_token"):
        begin = special[0]
        number = tokenizer.token_to_id(begin)
        if number is None:
            raise CheckpointError(f"{vocabulary} lacks {begin}")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[begin, "$A"], special_tokens=[(begin, number)]
        )
    return tokenizer


def _add_special(
    tokenizer: Tokenizer, named: list[str], settings: Mapping[str, Any], known: Mapping[str, int]
) -> None:
    """The named tokens that the vocabulary has, and all that the checkpoint adds."""
    extra = listed_tokens(settings)
    tokenizer.add_special_tokens([token for token in dict.fromkeys(named) if token in known])
    tokenizer.add_special_tokens(extra)
