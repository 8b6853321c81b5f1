"""What README and docs show can be pasted as it stands: every block is run, in its page's order.

Blocks without a language, ``bash`` and ``python`` ones count. One that cannot be run here has a
comment on the line above it that says why, and is reported as skipped for that reason:

    <!-- not run: needs an NVIDIA GPU -->
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
SHELL, PYTHON = ("", "bash", "sh"), "python"
#: What else a block may be: shown, not run.
OTHER = ("text", "toml", "json", "dockerfile")

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """``line`` is where its code starts, ``reason`` why it is not run here."""

    page: Path
    line: int
    language: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: m.start("code")].count("\n") + 1, m["language"], m["code"], m["reason"])
        for m in _BLOCK.finditer(text)
        if m["language"] in (*SHELL, PYTHON)
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]


@dataclass
class Session:
    """A copy of the clone in which a page's blocks are run, and what its Python code defined."""

    folder: Path
    done: list[Block] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    failed: Block | None = None

    def run(self, block: Block) -> None:
        """Run it after those that are before it on its page."""
        for other in blocks(block.page):
            if other.line > block.line or other in self.done or other.reason is not None:
                continue
            if self.failed is not None:
                pytest.fail(f"{self.failed}, which comes before, has failed")
            try:
                (self._python if other.language == PYTHON else self._shell)(other)
            except BaseException:
                self.failed = other
                raise
            self.done.append(other)

    def _python(self, block: Block) -> None:
        # The line numbers of a traceback are those of the page.
        code = compile("\n" * (block.line - 1) + block.code, str(block.page), "exec")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, self.names)

    def _shell(self, block: Block) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code],
            cwd=self.folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{block.code}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def session_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Session]:
    sessions: dict[Path, Session] = {}

    def get(page: Path) -> Session:
        if page not in sessions:
            folder = tmp_path_factory.mktemp(page.stem) / "seq2edge"
            shutil.copytree(ROOT, folder, ignore=_not_of_the_clone)
            sessions[page] = Session(folder)
        return sessions[page]

    return get


def _not_of_the_clone(folder: str, names: list[str]) -> set[str]:
    """What git does not know of: environments, caches and what earlier runs left."""
    built = {".git", ".venv", "build", "dist", "tests", "shared"}
    return {
        name
        for name in names
        if (name in built and Path(folder) == ROOT)
        or name.endswith((".bundle", ".egg-info", "_cache"))
        or name in ("__pycache__", ".hypothesis")
    }


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_can_be_pasted(
    block: Block, session_of: Callable[[Path], Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    if block.reason is not None:
        pytest.skip(f"not run: {block.reason}")
    session = session_of(block.page)
    monkeypatch.chdir(session.folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    session.run(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_seen(page: Path) -> None:
    """No fence is left over, each reason stands above a block, and no language is unknown."""
    text = page.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    assert text.count("```") == 2 * len(found)
    assert text.count("<!-- not run:") == sum(match["reason"] is not None for match in found)
    assert {match["language"] for match in found} <= {*SHELL, PYTHON, *OTHER}


def test_most_blocks_are_run() -> None:
    readme = blocks(ROOT / "README.md")
    assert len([block for block in readme if block.reason is None]) >= 2
    assert len([block for block in BLOCKS if block.reason is None]) >= 10
