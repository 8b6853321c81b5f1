"""A report as one HTML file that needs no network, and as Markdown."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict

from .growth import growths
from .plots import plots_of, svg
from .ranking import Standing, behind
from .schema import Report
from .table import columns, legend, markdown_table
from .verdict import verdict

#: Above the list of what others do better.
_BEHIND = "Another library is first in:"
_STYLE = """
:root{color-scheme:light dark;--ink:#24292f;--soft:#57606a;--line:#d0d7de;--back:#fff;
--card:#f6f8fa;--good:#2b8a3e;--bad:#b00020}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9da7b1;--line:#30363d;--back:#0d1117;
--card:#161b22;--good:#56d364;--bad:#ff7b72}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2rem;max-width:82rem;background:var(--back);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:.2rem 0}h2{font-size:1.15rem;margin:1.8rem 0 .5rem}
.about,figcaption,dt{color:var(--soft)}
.verdict{border-left:4px solid var(--good);background:var(--card);padding:.6rem 1rem;margin:1rem 0}
.verdict p{margin:.25rem 0}.verdict p:first-child{font-weight:600;font-size:1.1rem}
.wrong{color:var(--bad);font-weight:600}
.scroll{overflow-x:auto;border:1px solid var(--line)}
table{border-collapse:collapse;font-size:.87rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.35rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{background:var(--card);vertical-align:bottom}.left{text-align:left}
tr.best td{background:var(--card);font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,32rem),1fr));gap:1rem}
figure{margin:0;padding:.8rem;border:1px solid var(--line);min-width:0}
figure h3{font-size:1rem;margin:0 0 .4rem}figure svg{width:100%;height:auto;display:block}
figcaption{font-size:.85rem;margin-top:.4rem}
pre{background:var(--card);padding:.8rem;overflow-x:auto;white-space:pre-wrap;
overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;font-size:.9rem}dd{margin:0;
overflow-wrap:anywhere}
"""


def html_page(report: Report) -> str:
    """One file: verdict, table, plots, how to repeat it, and the JSON itself.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    return "\n".join(_page(report)) + "\n"


def markdown_page(report: Report) -> str:
    """The same without plots."""
    lines = [f"# {report.title}", "", *(f"- {sentence}" for sentence in verdict(report)), ""]
    lines += [markdown_table(report), ""]
    lines += [f"- {name}: {meaning}" for name, meaning in legend(report)]
    slower = _behind(report)
    if slower:
        lines += ["", _BEHIND, "", *(f"- {standing}" for standing in slower)]
    found = growths(report)
    lines += ["", *(f"- {growth}" for growth in found)] if found else []
    lines += ["", "Repeat it:", "", f"    {shlex.join(report.command)}", ""]
    lines += [f"- {name}: {value}" for name, value in _circumstances(report)]
    return "\n".join(lines) + "\n"


def _page(report: Report) -> Iterator[str]:
    title = _text(f"seq2edge {report.kind}: {report.title}")
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    # Without it a browser asks the server for an icon.
    yield f'<title>{title}</title><link rel="icon" href="data:,"><style>{_STYLE}</style></head>'
    yield f'<body><h1>{title}</h1><p class="about">{_text(_about(report))}</p>'
    yield '<section class="verdict">'
    for sentence in verdict(report):
        kind = ' class="wrong"' if " WRONG" in sentence else ""
        yield f"<p{kind}>{_text(sentence)}</p>"
    yield '</section><h2>Results</h2><div class="scroll">'
    yield from _table(report)
    yield "</div><dl>"
    for name, meaning in legend(report):
        yield f"<dt>{_text(name)}</dt><dd>{_text(meaning)}</dd>"
    yield "</dl>"
    slower = _behind(report)
    if slower:
        items = "".join(f"<li>{_text(str(standing))}</li>" for standing in slower)
        yield f'<p class="about">{_BEHIND}</p><ul class="behind">{items}</ul>'
    plots = plots_of(report)
    if plots:
        yield '<h2>Plots</h2><div class="plots">'
        for plot in plots:
            yield f'<figure id="{plot.name}"><h3>{_text(plot.title)}</h3>'
            yield svg(plot, in_page=True)
            yield f"<figcaption>{_text(plot.caption)}</figcaption></figure>"
        yield "</div>"
    yield f"<h2>Repeat it</h2><pre>{_text(shlex.join(report.command))}</pre><dl>"
    for name, value in _circumstances(report):
        yield f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>"
    yield "</dl>"
    # "</script>" in a name would end it.
    document = json.dumps(report.to_json(), allow_nan=False).replace("</", "<\\/")
    yield f'<script type="application/json" id="report">{document}</script></body></html>'


def _behind(report: Report) -> list[Standing]:
    return behind(report) if report.kind == "peers" else []


def _table(report: Report) -> Iterator[str]:
    shown = columns(report)
    classes = [' class="left"' if column.left else "" for column in shown]
    yield "<table><thead><tr><th>#</th>"
    for column, kind in zip(shown, classes, strict=True):
        yield f"<th{kind}>{_text(column.title)}</th>"
    yield "</tr></thead><tbody>"
    for number, entry in enumerate(report.entries, 1):
        yield f'<tr data-entry="{_text(entry.name)}"><td>{number}</td>'
        for column, kind in zip(shown, classes, strict=True):
            cell = column.cell(entry)
            wrong = ' class="left wrong"' if cell.startswith("WRONG") else kind
            yield f'<td{wrong} data-column="{_text(column.title)}">{_text(cell)}</td>'
        yield "</tr>"
    yield "</tbody></table>"


def _about(report: Report) -> str:
    machine = report.machine
    cores = f"{machine.usable_cores} cores" if machine.usable_cores else "cores unknown"
    return f"{machine.board or machine.cpu}, {cores}; {report.before.time[:10]}"


def _circumstances(report: Report) -> Iterator[tuple[str, str]]:
    machine = report.machine
    parts = (
        machine.board,
        machine.cpu,
        ", ".join(machine.features) or machine.architecture,
        machine.physical_cores and f"{machine.physical_cores} cores",
        machine.usable_cores and f"{machine.usable_cores} of them usable",
        machine.memory_bytes and f"{machine.memory_bytes / 1e9:.1f} GB",
        machine.system,
        f"Python {machine.python}",
    )
    yield "machine", "; ".join(str(part) for part in parts if part)
    work = {name: value for name, value in report.settings.items() if value not in (None, [], ())}
    yield "work", ", ".join(f"{name} {value}" for name, value in work.items())
    for name, found in (("before", report.before), ("after", report.after)):
        known = {key: value for key, value in asdict(found).items() if value is not None}
        yield name, ", ".join(f"{key} {_shown(value)}" for key, value in known.items())
    yield "revision", report.revision or "not a git checkout"
    for entry in report.entries:
        versions = ", ".join(f"{name} {version}" for name, version in entry.versions.items())
        bundle = f"; bundle {entry.sha256[:16]}" if entry.sha256 else ""
        yield entry.name, "; ".join([f"{versions}{bundle}", *entry.notes])


def _shown(value: float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else value


def _text(text: str) -> str:
    return html.escape(str(text))
