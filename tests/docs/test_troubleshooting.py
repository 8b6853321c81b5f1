"""docs/troubleshooting.md quotes what the product says: a text that is gone is found."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
PACKAGES = ("runtime", "export", "quantize", "deploy", "benchmarks", "cli")


def quoted() -> list[str]:
    rows = re.findall(r"^\| (`.*?`) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [text for row in rows for text in re.findall(r"`([^`]+)`", row)]


@cache
def messages() -> tuple[str, ...]:
    """Every text of the product's code; what a value takes the place of is NUL."""
    found = []
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    found.append("".join(map(_part, node.values)))
    return tuple(found)


def _part(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else "\0"


@pytest.mark.parametrize("text", quoted())
def test_the_product_says_it(text: str) -> None:
    # A name in the quotation may be a constant in the code.
    text = text.replace("seq2edge.json", "...")
    pattern = ".*".join(re.escape(part.strip()) for part in text.split("..."))
    assert any(re.search(pattern, message, re.DOTALL) for message in messages()), text


def test_texts_are_found() -> None:
    assert len(quoted()) > 40
