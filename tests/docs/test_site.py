"""The documentation site builds strictly: every link resolves, every page is in its menu."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(built)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return built


class _Page(HTMLParser):
    """Targets of links, what is loaded, and what can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(html.unescape(values["href"]))
        if tag in ("script", "img"):
            self.loaded.append(values.get("src", ""))
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(values["href"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, _Page]:
    return {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def _local(page: Path, links: list[str]) -> Iterator[tuple[Path, str]]:
    for link in links:
        target, _, anchor = link.partition("#")
        if not re.match(r"[a-z]+:", target):
            yield ((page.parent / target).resolve() if target else page), anchor


def test_every_link_resolves(pages: dict[Path, _Page]) -> None:
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links are for the root of a server
            continue
        for target, anchor in _local(path, page.links):
            known = pages.get(target)
            if not target.exists() or (known and anchor and anchor not in known.anchors):
                broken.append(f"{path.name}: {target.name}#{anchor}")
    assert not broken


def test_no_page_loads_anything_from_a_network(pages: dict[Path, _Page]) -> None:
    loaded = {url for page in pages.values() for url in page.loaded}
    assert not [url for url in loaded if re.match(r"(https?:)?//", url)]


def test_the_reference_has_signatures_and_no_markup_of_docstrings(site: Path) -> None:
    text = (site / "api" / "runtime.html").read_text(encoding="utf-8")
    plain = html.unescape(re.sub(r"<[^>]+>", "", text))
    assert "Seq2SeqModel" in plain and "num_threads" in plain
    for page in (site / "api").glob("*.html"):
        shown = html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))
        assert not re.search(r":(class|meth|func|attr|mod):", shown), page.name


def test_every_command_is_in_the_reference(site: Path) -> None:
    from seq2edge.cli.main import _COMMANDS

    text = (site / "cli.html").read_text(encoding="utf-8")
    assert all(f'<h2 id="{name}">' in text for name in _COMMANDS)


def test_what_is_no_page_of_the_folder_is_one_of_the_site(site: Path) -> None:
    for name in ("contributing.html", "changelog.html", "examples/whisper.html"):
        assert (site / name).is_file()
    assert (site / "search" / "search_index.json").is_file()
