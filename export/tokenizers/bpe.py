"""Byte-level BPE from ``vocab.json`` and ``merges.txt`` (BART, CodeT5: RoBERTa's scheme)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from ..errors import CheckpointError
from .settings import listed_tokens, text_of

#: Names of the special tokens in special_tokens_map.json, with RoBERTa's defaults.
_DEFAULTS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}


def build_byte_level_bpe(
    vocabulary: Path, merges: Path, settings: Mapping[str, Any], added: Mapping[str, int]
) -> Tokenizer:
    """A tokenizer that puts ``<s>`` before and ``</s>`` after the text.

    Args:
        vocabulary, merges: the two files.
        settings: special_tokens_map.json and tokenizer_config.json together.
        added: added_tokens.json, token to id.

    Raises:
        CheckpointError: the vocabulary lacks the begin or the end token.
    """
    model = models.BPE.from_file(str(vocabulary), str(merges), fuse_unk=False)
    tokenizer = Tokenizer(model)
    prefix = bool(settings.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    known = set(json.loads(vocabulary.read_text(encoding="utf-8")))
    special = {name: text_of(settings.get(name, default)) for name, default in _DEFAULTS.items()}
    # RoBERTa's mask token takes the space before it.
    named = {t: AddedToken(t, lstrip=name == "mask_token") for name, t in special.items()}
    extra = listed_tokens(settings)
    tokenizer.add_special_tokens([token for text, token in named.items() if text in known])
    # Tokens that are not in the vocabulary get the next free ids: add them in that order.
    for text, _ in sorted(added.items(), key=lambda item: item[1]):
        if text in named or text in extra:
            tokenizer.add_special_tokens([named.get(text, text)])
        else:
            tokenizer.add_tokens([text])
    tokenizer.add_special_tokens(extra)
    begin, end = special["cls_token"], special["sep_token"]
    begin_id, end_id = tokenizer.token_to_id(begin), tokenizer.token_to_id(end)
    if begin_id is None or end_id is None:
        raise CheckpointError(f"{vocabulary} lacks {begin} or {end}")
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, end_id), (begin, begin_id), trim_offsets=True, add_prefix_space=prefix
    )
    return tokenizer


def build_blenderbot_bpe(
    vocabulary: Path, merges: Path, settings: Mapping[str, Any], added: Mapping[str, int]
) -> Tokenizer:
    """The same with a space before the text and nothing but ``</s>`` around it."""
    spaced = {"add_prefix_space": True, **settings}
    tokenizer = build_byte_level_bpe(vocabulary, merges, spaced, added)
    end = text_of(settings.get("eos_token", _DEFAULTS["eos_token"]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", end], special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return tokenizer
