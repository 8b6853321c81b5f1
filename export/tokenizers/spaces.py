"""``clean_up_tokenization_spaces``: decoding drops spaces before English punctuation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models

#: What ``clean_up_tokenization`` of transformers replaces, in its order.
_PAIRS = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
]
#: Classes that clean up where the settings say nothing.
_BY_DEFAULT = ("PLBartTokenizer",)
#: Classes that are written in Python, and clean up whatever their model is.
_PYTHON = (*_BY_DEFAULT, "M2M100Tokenizer", "MarianTokenizer", "BlenderbotSmallTokenizer")
#: transformers leaves byte-level texts as they are unless this is set as well.
_FORCE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"


def clean_up_spaces(tokenizer: Tokenizer, kind: str, settings: Mapping[str, Any]) -> None:
    """Let a tokenizer decode as ``clean_up_tokenization_spaces`` says, as transformers 5 does it.

    Args:
        tokenizer: it is changed.
        kind: the class of transformers.
        settings: tokenizer_config.json.
    """
    if not settings.get("clean_up_tokenization_spaces", kind in _BY_DEFAULT):
        return
    python = kind in (
        *_BY_DEFAULT,
        "M2M100Tokenizer",
        "MarianTokenizer",
        "BlenderbotSmallTokenizer",
    )
    if isinstance(tokenizer.model, models.BPE) and not (python or settings.get(_FORCE)):
        return
    # Without a decoder, words are joined by spaces: a prefix that no token has does the same.
    first = tokenizer.decoder or decoders.WordPiece(prefix="\uffff", cleanup=False)
    steps = [decoders.Replace(before, after) for before, after in _PAIRS]
    tokenizer.decoder = decoders.Sequence([first, decoders.Fuse(), *steps])
