"""Docstrings as Sphinx writes them, made Markdown: roles become code, doctests become blocks."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|meth|func|attr|mod|data|exc):`~?\.?(?P<name>[^`]+)`")
_DOCTEST = re.compile(r"(?:^[ \t]*>>>.*\n(?:^[ \t]*(?:>>>|\.\.\.).*\n?)*)", re.MULTILINE)


class Roles(griffe.Extension):
    """Applied to every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    text = _ROLE.sub(lambda match: f"`{match['name'].removeprefix('.')}`", docstring)
    return _DOCTEST.sub(lambda match: f"```python\n{match[0].rstrip()}\n```\n", text + "\n")
