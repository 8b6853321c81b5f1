"""The tables of docs/families.md, from what the families say of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple

from . import FAMILIES, REFUSED

_HEADER = (
    "`model_type`",
    "class of transformers",
    "positions",
    "norms",
    "tokenizer, without a `tokenizer.json`",
    "languages",
    "what a call says",
)


def families_table() -> str:
    """Markdown: a row for each model type that describes itself (:class:`.base.FamilyDoc`)."""
    rows = [
        (f"`{kind}`", *(cell or "-" for cell in astuple(doc)))
        for family in FAMILIES
        for kind, doc in family.doc.items()
    ]
    return _markdown(_HEADER, rows)


def readme_table() -> str:
    """Markdown: what the README says of each model type."""
    rows = [
        (f"`{kind}`", doc.model or "-", doc.tokenizer or "-")
        for family in FAMILIES
        for kind, doc in family.doc.items()
    ]
    return _markdown(_HEADER[:2] + _HEADER[4:5], rows)


def refused_table() -> str:
    """Markdown: model types that are known, and why they are not exported."""
    return _markdown(
        ("`model_type`", "why not"), [(f"`{kind}`", why) for kind, why in REFUSED.items()]
    )


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
