"""Texts without case and punctuation, for metrics of what was said rather than how it is written.

By jiwer's transformations: dashes and slashes become spaces, letters become lower case, what
Unicode calls punctuation goes (apostrophes too: "don't" is "dont"), several spaces become one.
Numbers and abbreviations stay as they are written. Papers on Whisper use a normalizer that does
more, and their word error rates are lower.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace

from seq2edge.runtime.errors import InputError

from .data import Example
from .libraries import library

Normalizer = Callable[[str], str]

#: For a metric's definition.
DESCRIPTION = "in lower case and without punctuation"
#: Signs that stand between words.
_BETWEEN_WORDS = r"[\u2010-\u2015/\-]"


def load_normalizer() -> Normalizer:
    """A function that normalizes one text.

    Raises:
        MissingDependencyError: jiwer is not installed.
    """
    jiwer = library("jiwer", "normalizing texts")
    steps = jiwer.Compose(
        [
            jiwer.SubstituteRegexes({_BETWEEN_WORDS: " "}),
            jiwer.ToLowerCase(),
            jiwer.RemovePunctuation(),
            jiwer.RemoveMultipleSpaces(),
            jiwer.Strip(),
        ]
    )

    def normalize(text: str) -> str:
        # Letters with marks, in one form; and jiwer knows no spaces but blanks.
        result: str = steps(" ".join(unicodedata.normalize("NFKC", text).split()))
        return result

    return normalize


def normalized_examples(examples: Sequence[Example], normalize: Normalizer) -> list[Example]:
    """``examples`` with normalized targets.

    Raises:
        InputError: a target of which nothing is left.
    """
    found = []
    for number, example in enumerate(examples, start=1):
        targets = tuple(normalize(target) for target in example.targets)
        if not all(targets):
            raise InputError(
                f"a target of example {number} is nothing but punctuation, which is left out"
                " before texts are compared; --no-normalize compares them as they are"
            )
        found.append(replace(example, targets=targets))
    return found
