"""Commands that the pages show are commands: each has the options of the command line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from seq2edge.cli.main import _COMMANDS, _parser

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    {
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/*/README.md"),
        *ROOT.glob("benchmarks/**/README.md"),
    }
)

_PROGRAM = rf"(seq2edge (?:{'|'.join(_COMMANDS)})|run\.sh)"
#: A command at the start of a line, by its name or its path, until a comment or the next command.
_SHOWN = re.compile(rf"^ *(?:sudo )?(?:/\S*/)?{_PROGRAM}( [^#&|\n]*)", re.MULTILINE)
#: The same within a line, with something to work on: ``seq2edge build`` alone is only a name.
_NAMED = re.compile(rf"`{_PROGRAM}( [^-`][^`]*)`")
#: What the command line takes after ``install.sh --``.
_BUILD_OPTIONS = re.compile(r"`-- (--[^`]+)`")


def commands(page: Path) -> list[list[str]]:
    """The arguments of ``seq2edge`` in each command of a page."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for program, rest in (*_SHOWN.findall(text), *_NAMED.findall(text)):
        start = ["run", "bundle"] if program == "run.sh" else program.split()[1:]
        found.append([*start, *shlex.split(rest)])
    options = _BUILD_OPTIONS.findall(text)
    return [*found, *(["build", "bundle", *shlex.split(rest)] for rest in options)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_have_the_options_of_the_command_line(page: Path) -> None:
    for words in commands(page):
        _parser().parse_args(words)


@pytest.mark.parametrize(
    ("name", "least"),
    [("README.md", 12), ("docs/families.md", 21), ("docs/jetson.md", 14), ("docs/triton.md", 4)],
)
def test_commands_are_found(name: str, least: int) -> None:
    assert len(commands(ROOT / name)) >= least
