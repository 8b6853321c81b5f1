"""Constrained output: the whole text is one of a few, or matches an expression or a schema.

A constraint says which tokens may follow those that are there, the end token included once
the text is complete. A text that ``max_new_tokens`` cuts short (``finish_reason`` is then
``length``) is only the beginning of an allowed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choices:
    """The text is one of these."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Regex:
    """The text matches the pattern from start to end (Rust's regex syntax).

    Needs llguidance: ``pip install llguidance``.
    """

    pattern: str


@dataclass(frozen=True)
class JsonSchema:
    """The text is JSON that the schema allows (json-schema.org). Needs llguidance."""

    schema: Mapping[str, Any]


Constraint = Choices | Regex | JsonSchema
