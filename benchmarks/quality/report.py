"""A comparison as a table, a Markdown page, a picture and JSON."""

from __future__ import annotations

import json
from pathlib import Path

from seq2edge.runtime.bundle.atomic_write import OutputFolder

from ..report.page import html_page
from ..report.plots import plots_of, svg
from ..report.table import csv_table, legend, markdown_table, text_table
from .compare import Comparison

#: The files of a report; the first one tells a report from any other folder.
REPORT_KIND = "a report"
REPORT_FILES = ("report.json", "report.html", "report.md", "report.csv", "report.svg")


def table(comparison: Comparison) -> str:
    """Aligned columns for a terminal, with a line above that says what was measured."""
    return "\n".join([_headline(comparison), text_table(comparison.report()), *comparison.notes])


def markdown(comparison: Comparison) -> str:
    """A page with the table, what its columns mean, the picture and the machine."""
    report = comparison.report()
    return "\n".join(
        [
            f"# {report.title}",
            "",
            f"{_headline(comparison)}.",
            f"The metric counts {comparison.definition}.",
            "",
            markdown_table(report),
            "",
            f"![size and speed against {comparison.metric}](report.svg)",
            "",
            *(f"- {name}: {meaning}" for name, meaning in legend(report)),
            *(f"- {note}" for note in comparison.notes),
            "",
            _circumstances(comparison),
            "",
        ]
    )


def write_report(comparison: Comparison, folder: Path, overwrite: bool) -> None:
    """Write :data:`REPORT_FILES` into ``folder``, all of them or nothing.

    Raises:
        OutputExistsError, OutputError: ``folder`` may not or cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    document = json.dumps(comparison.to_json(), indent=2, allow_nan=False) + "\n"
    report = comparison.report()
    page, table = html_page(report), csv_table(report)
    contents = (document, page, markdown(comparison), table, picture(comparison))
    files = dict(zip(REPORT_FILES, contents, strict=True))
    with OutputFolder(folder, overwrite=overwrite, marker=REPORT_FILES[0], kind=REPORT_KIND) as out:
        for name, data in files.items():
            (out.directory / name).write_bytes(data.encode())
        out.publish()


def picture(comparison: Comparison) -> str:
    """Quality beside size and time, as SVG. Equal comparisons give equal ones.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    (plot,) = (plot for plot in plots_of(comparison.report()) if plot.name == "quality")
    return svg(plot, in_page=False)


def _headline(comparison: Comparison) -> str:
    better = "lower" if comparison.lower_is_better else "higher"
    data = comparison.settings.data
    examples = "examples" if comparison.sources == "texts" else comparison.sources
    return (
        f"{comparison.examples} {examples}{data and f' of {data}'}, {comparison.metric}"
        f" ({better} is better) with 95 % intervals"
    )


def _circumstances(comparison: Comparison) -> str:
    threads = {variant.threads or "all" for variant in comparison.variants}
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    return (
        f"KL over {comparison.divergence_examples} examples, times over"
        f" {comparison.speed_texts} {comparison.sources}, variants in turns; threads:"
        f" {', '.join(map(str, sorted(threads, key=str)))}; {comparison.machine.cpu}; {versions}."
    )
