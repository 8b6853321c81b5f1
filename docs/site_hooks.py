"""What mkdocs does not do by itself: pages from elsewhere in the repository, and of --help.

The examples' READMEs, CONTRIBUTING.md and CHANGELOG.md are pages of the site, `cli.md` is what
``--help`` prints, and links between all of them work in the repository and on the site. A link to
a file that is no page becomes the file's path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

from seq2edge.cli.main import _COMMANDS

ROOT = Path(__file__).resolve().parents[1]

#: A page of the site: the file of the repository that it is.
PAGES = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    **{
        f"examples/{readme.parent.name}.md": f"examples/{readme.parent.name}/README.md"
        for readme in sorted(ROOT.glob("examples/*/README.md"))
    },
}
#: The other way round, for folders as well, which are linked to for their README; the repository's
#: own README is the first page.
_ON_SITE = {
    **{source: page for page, source in PAGES.items()},
    **{str(PurePosixPath(source).parent): page for page, source in PAGES.items() if "/" in source},
    "README.md": "index.md",
    "docs/results": "results/README.md",
}

_LINK = re.compile(r"\[(?P<text>[^\]\[]+)\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def on_startup(**_: Any) -> None:
    """Links of the shape in which packages are imported: there is no folder ``seq2edge``."""
    sources = ROOT / "build" / "site-sources" / "seq2edge"
    shutil.rmtree(sources, ignore_errors=True)
    sources.mkdir(parents=True)
    for package in ("runtime", "export", "quantize", "deploy", "benchmarks"):
        (sources / package).symlink_to(ROOT / package)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "cli.md", content=command_line()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are in the repository, made links of the site."""
    here = page.file.src_uri
    source = PurePosixPath(PAGES.get(here, f"docs/{here}")).parent

    def link(match: re.Match[str]) -> str:
        target = os.path.normpath(source / match["target"])
        on_site = _ON_SITE.get(target)
        if on_site is None and target.startswith("docs/"):
            on_site = target.removeprefix("docs/")
        if on_site is not None:
            relative = os.path.relpath(on_site, PurePosixPath(here).parent)
            return f"[{match['text']}]({relative}{match['anchor'] or ''})"
        if (ROOT / target).exists():
            text = match["text"]
            return text if "`" in text or text == target else f"{text} (`{target}`)"
        return match[0]  # a link to nothing: mkdocs says so, and --strict fails

    return _LINK.sub(link, markdown)


def command_line() -> str:
    """A page of all ``--help``."""
    parts = ["# Command line\n", _help()]
    for name in sorted(_COMMANDS):
        parts += [f"\n## {name}\n", _help(name)]
    return "\n".join(parts)


def _help(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "seq2edge.cli.main", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "88"},
    )
    return f"```text\n{done.stdout.rstrip()}\n```\n"
