"""Texts that are hard to stream, a tokenizer of them, and where pieces may end."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import accumulate

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SCRIPTS = [
    "plain words, with a stop.",
    "Grüße aus Köln 👍🏽 und 👩\u200d👩\u200d👧 !",
    "日本語とEnglish混在 です。",
    "  two  spaces\nand\ta tab ",
    "word",
    "e\u0301 combining, \u3042\u3099 too",
]


def byte_level_bpe() -> Tokenizer:
    """Of a few merges within and across characters of several bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SCRIPTS * 3, trainer)
    return tokenizer


def ends_well(before: str, after: str) -> bool:
    """Whether a text may be cut between ``before`` and ``after``, neither of them empty."""
    last = before[-1]
    alone = unicodedata.category(last) == "Lo" and unicodedata.east_asian_width(last) in "WF"
    return after[0].isspace() or alone


def assert_cut_well(pieces: Sequence[str]) -> None:
    assert all(pieces)  # none is empty
    text = "".join(pieces)
    for end in list(accumulate(map(len, pieces)))[:-1]:
        assert ends_well(text[:end], text[end:]), (text[:end], text[end:])
