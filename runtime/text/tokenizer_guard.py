"""The ``tokenizers`` library behind a guard: what it makes of a file of others is our error.

A panic of its Rust code reaches Python as pyo3's PanicException, which is no ``Exception``, so that
nothing else would catch it. The file's own steps (normalizer, decoder and so on) are held to what a
text can grow by before one is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from ..bundle.checks.json_text import MAX_TOKENIZER_BYTES
from ..errors import BundleError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Result = TypeVar("Result")

#: Steps of a tokenizer, and how many times longer its replacements may make a text.
_MOST_STEPS, _MOST_GROWTH = 1000, 1000
#: Letters of a setting; a compiled table of letters is one of 300,000.
_LONGEST_SETTING, _TABLE = 10_000, "precompiled_charsmap"
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def guarded(function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Call a function of the library.

    Raises:
        BundleError: it fails, whatever way.
    """
    try:
        return function(*arguments, **options)
    except Exception as error:  # the library raises bare Exception
        raise BundleError(f"its tokenizer fails: {error}") from None
    except BaseException as error:
        if not is_panic(error):
            raise
        raise BundleError(f"its tokenizer fails: {error}") from None


def is_panic(error: BaseException) -> bool:
    """Whether it is a panic of Rust code; pyo3 makes a class of its own in each library."""
    return type(error).__name__ == "PanicException"


def load_tokenizer_json(data: bytes) -> Tokenizer:
    """A tokenizer.json.

    Raises:
        BundleError: the library cannot read it, or its steps would make texts too long.
    """
    if len(data) > MAX_TOKENIZER_BYTES:
        raise BundleError(
            f"tokenizer.json cannot be read: it has more than {MAX_TOKENIZER_BYTES} bytes"
        )
    from tokenizers import Tokenizer  # here: not every bundle has a file for it

    try:
        tokenizer = guarded(Tokenizer.from_buffer, data)
    except BundleError as error:
        reason = str(error).removeprefix("its tokenizer fails: ")
        raise BundleError(f"tokenizer.json cannot be read: {reason}") from None
    for part in _PARTS:
        _check_steps(part, list(_steps(state_of(tokenizer, part))))
    return tokenizer


def _check_steps(part: str, steps: list[dict[str, Any]]) -> None:
    growth = 1.0
    for step in steps:
        growth = min(growth * _growth(step), 2.0 * _MOST_GROWTH)
        for key, value in step.items():
            if isinstance(value, str) and len(value) > _LONGEST_SETTING and key != _TABLE:
                raise BundleError(
                    f"tokenizer.json cannot be read: {key} of its {part} has more than"
                    f" {_LONGEST_SETTING} letters"
                )
    if len(steps) > _MOST_STEPS or growth > _MOST_GROWTH:
        raise BundleError(
            f"tokenizer.json cannot be read: the {len(steps)} steps of its {part} may make a text"
            f" more than {_MOST_GROWTH} times as long"
        )


def state_of(tokenizer: Tokenizer, part: str) -> Any:
    """The settings of a part of a tokenizer; {} if it has none.

    That is its part of the file; all of the file takes long to write and to read.
    """
    found = guarded(getattr, tokenizer, part)
    return {} if found is None else json.loads(guarded(found.__getstate__))


def _steps(state: Any) -> Iterator[dict[str, Any]]:
    """All objects of a part that have a type; the library has read them to a depth of its own."""
    waiting = [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "type" in value:
                yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _growth(step: dict[str, Any]) -> float:
    """How many times longer a step may make a text."""
    if step.get("type") == "TemplateProcessing":
        return max(_template_growth(step, name) for name in ("single", "pair"))
    inserted, pattern = step.get("content"), step.get("pattern")
    if step.get("type") != "Replace" or not isinstance(inserted, str):
        return 1
    found = pattern.get("String") if isinstance(pattern, dict) else None
    return max(1, len(inserted) / max(1, len(found) if isinstance(found, str) else 1))


def _template_growth(step: dict[str, Any], name: str) -> float:
    """How often a template writes a text; 100 tokens that it adds count as once."""
    specials = step.get("special_tokens", {})
    lengths = {token: len(known.get("ids", ())) for token, known in specials.items()}
    texts = tokens = 0
    for piece in step.get(name, ()):
        texts += "Sequence" in piece
        tokens += lengths.get(piece.get("SpecialToken", {}).get("id"), 0)
    return max(1.0, texts, tokens / 100)
