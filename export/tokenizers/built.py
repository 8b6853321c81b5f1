"""What a checkpoint's tokenizer files become."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer

from seq2edge.runtime.bundle.tokenizer_info import Languages


@dataclass(frozen=True)
class Built:
    """A checkpoint's tokenizer.

    Attributes:
        tokenizer: of sources, and of outputs where ``target`` is None.
        target: of outputs.
        size: the number of the model's tokens; ids from there on stand for ``unknown``.
        unknown: the token of what has none; None: ids are those of the model.
        languages: None: a call names none.
        origin: the files that it was made from, and what read them.
    """

    tokenizer: Tokenizer
    target: Tokenizer | None = None
    size: int | None = None
    unknown: int | None = None
    languages: Languages | None = None
    origin: str = ""
