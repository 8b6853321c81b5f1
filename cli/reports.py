"""``--output`` of bench, compare and peers: where a report goes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2edge.benchmarks.report.schema import Report


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the report as JSON, for bench-diff"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing report")


def check_output(options: argparse.Namespace) -> None:
    """Refuse a file that may not be written, before anything is measured.

    Raises:
        OutputExistsError, OutputError: it is there, or its folder cannot be written.
    """
    from seq2edge.runtime.bundle.atomic_write import check_file

    if options.output is not None:
        check_file(options.output, options.force)


def write_output(options: argparse.Namespace, report: Report) -> None:
    """Write what was asked for.

    Raises:
        OutputError: it cannot be written.
    """
    from seq2edge.runtime.bundle.atomic_write import output_file

    if options.output is not None:
        document = json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n"
        with output_file(options.output) as file:
            file.write(document.encode())


def command_line() -> tuple[str, ...]:
    """What repeats this run."""
    return ("seq2edge", *sys.argv[1:])
