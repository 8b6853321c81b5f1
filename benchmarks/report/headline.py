"""Several reports of peers as one table, and that table in pages written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from seq2edge.runtime.bundle.atomic_write import output_file
from seq2edge.runtime.errors import InputError

from .ranking import ANY, Standing, behind, standings
from .schema import Entry, Report
from .table import digits_of
from .verdict import main_measurement

#: What stands between them in a page is written by the run.
BEGIN, END = "<!-- bench: written by make bench -->", "<!-- /bench -->"


def headline(reports: Mapping[str, Report], folder: str = "") -> str:
    """A Markdown table, a row a task: the fastest of ours beside the fastest other library.

    ``reports``: by the task's name, of kind ``peers``. ``folder``: where their pages are, seen from
    the page with the table, and a slash.
    """
    rows = [
        "| task | seq2edge, ms | fastest other library, ms | its time x | in float32 x |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for task, report in reports.items():
        found = {one.precision: one for one in standings(report) if one.measure == "time"}
        if ANY not in found:
            continue
        first = found[ANY]
        cells = [
            f"[{task}]({folder}{task}.md)",
            *(_time(entry, report) for entry in (first.ours, first.other)),
        ]
        cells += [_ratio(first), _ratio(found.get("float32"))]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def not_first(reports: Mapping[str, Report]) -> str:
    """A Markdown list: everything in which another library is first, by how much."""
    lines = [f"- {task}: {one}" for task, report in reports.items() for one in behind(report)]
    return "\n".join(lines) or "- nothing"


def conditions(reports: Mapping[str, Report]) -> str:
    """The machine and versions of all, in a sentence; empty: there are none."""
    if not reports:
        return ""
    versions: dict[str, str] = {}
    for report in reports.values():
        for entry in report.entries:
            versions.update(entry.versions)
    machine = report.machine
    features = f" ({', '.join(machine.features)})" if machine.features else ""
    known = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"{machine.board or machine.cpu}{features}, {report.settings.get('threads')} threads,"
        f" {report.after.time[:10]}; {known}."
    )


def update_page(page: Path, text: str) -> None:
    """Put ``text`` between :data:`BEGIN` and :data:`END` of a page.

    Raises:
        InputError: it cannot be read, or has not one pair of them.
        OutputError: it cannot be written.
    """
    try:
        contents = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {page}: {error}") from None
    if (contents.count(BEGIN), contents.count(END)) != (1, 1) or contents.index(END) < (
        contents.index(BEGIN)
    ):
        raise InputError(f"{page} has no lines {BEGIN} and {END} for the table to stand between")
    before, rest = contents.split(BEGIN)
    after = rest.split(END)[1]
    with output_file(page) as file:
        file.write(f"{before}{BEGIN}\n{text}\n{END}{after}".encode())


def not_measured(reports: Mapping[str, Report]) -> Iterator[str]:
    """Who was not, and why, of each task."""
    for task, report in reports.items():
        for name, reason in report.left_out.items():
            yield f"{task}: {name}: {reason}"


def _time(entry: Entry, report: Report) -> str:
    found = entry.measurements[str(main_measurement(report))]
    digits = min(1, digits_of(found.p50))
    between = f"[{found.interval.low:.{digits}f}, {found.interval.high:.{digits}f}]"
    return f"{entry.name.removeprefix('seq2edge:')} {found.p50:.{digits}f} {between}"


def _ratio(standing: Standing | None) -> str:
    if standing is None or standing.interval is None:
        return ""
    low, high = standing.interval.low, standing.interval.high
    return f"{standing.ratio:.2f} [{low:.2f}, {high:.2f}]"
