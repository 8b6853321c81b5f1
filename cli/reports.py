"""Where the report of bench, compare and peers goes: JSON, HTML, Markdown, CSV."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2edge.benchmarks.report.schema import Report


def add_pages(parser: argparse.ArgumentParser) -> None:
    """Files for people and spreadsheets."""
    for option, text in (
        ("--html", "write a page with verdict, table and plots, which needs no network"),
        ("--markdown", "write the table as Markdown"),
        ("--csv", "write all quantities as CSV"),
    ):
        parser.add_argument(option, type=Path, metavar="FILE", help=text)
    parser.add_argument("--force", action="store_true", help="replace existing reports")


def add_output(parser: argparse.ArgumentParser) -> None:
    """The same and ``--output``."""
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the report as JSON, for bench-diff"
    )
    add_pages(parser)


def check_output(options: argparse.Namespace) -> None:
    """Refuse files that may not be written, before anything is measured.

    Raises:
        OutputExistsError, OutputError: one is there, or its folder cannot be written.
        InputError: one file for two things.
        MissingDependencyError: a page's plots cannot be drawn.
    """
    from seq2edge.benchmarks.report.plots import check_plots
    from seq2edge.runtime.bundle.atomic_write import check_file
    from seq2edge.runtime.errors import InputError

    files = [path.resolve() for _, path in _files(options)]
    twice = next((path for path in files if files.count(path) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} is named twice; name a file for each form of the report")
    for _, path in _files(options):
        check_file(path, options.force)
    if options.html is not None:
        check_plots("--html")


def write_output(options: argparse.Namespace, report: Report) -> None:
    """Write what was asked for.

    Raises:
        OutputError: it cannot be written.
    """
    from seq2edge.benchmarks.report.page import html_page, markdown_page
    from seq2edge.benchmarks.report.table import csv_table
    from seq2edge.runtime.bundle.atomic_write import output_file

    forms: dict[str, Callable[[Report], str]] = {
        "output": lambda report: json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n",
        "html": html_page,
        "markdown": markdown_page,
        "csv": csv_table,
    }
    contents = [(path, forms[name](report).encode()) for name, path in _files(options)]
    for path, data in contents:
        with output_file(path) as file:
            file.write(data)


def command_line() -> tuple[str, ...]:
    """What repeats this run."""
    return ("seq2edge", *sys.argv[1:])


def _files(options: argparse.Namespace) -> list[tuple[str, Path]]:
    named = [(name, getattr(options, name)) for name in ("html", "markdown", "csv")]
    if not hasattr(options, "reference"):  # of compare it is a folder, and compare's own business
        named.insert(0, ("output", options.output))
    return [(name, path) for name, path in named if path is not None]
