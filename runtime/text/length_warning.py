"""A word on texts that are longer than the tokenizer was made for."""

from __future__ import annotations

import warnings

from ..errors import SourceWarning


class LengthWarning:
    """Warns, once, of a text that is longer than the tokenizer's ``model_max_length``.

    Args:
        limit: in tokens; None: there is none.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit

    def check(self, index: int, length: int) -> None:
        """``index`` is the text's place, and it has ``length`` tokens."""
        if self._limit is not None and length > self._limit:
            warnings.warn(
                SourceWarning(
                    index,
                    f"has {length} tokens, and the model's tokenizer is for at most"
                    f" {self._limit} (model_max_length): the model may not have been trained on"
                    " texts as long; split it or shorten it",
                ),
                stacklevel=5,
            )
            self._limit = None
