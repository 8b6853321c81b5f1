"""Say whether two reports of bench, compare or peers differ; exit code 3: they do."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_json, positive_number
from .output import print_result

if TYPE_CHECKING:
    from seq2edge.benchmarks.report.diff import Diff

#: Both runs were read, and they differ.
DIFFERENT = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", type=Path, help="a report that --output or --json wrote")
    parser.add_argument("after", type=Path, help="another one, of the same work")
    parser.add_argument(
        "--threshold",
        type=positive_number,
        default=5.0,
        metavar="PERCENT",
        help="smallest difference of medians that counts (default: 5)",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.benchmarks.report.diff import diff_reports
    from seq2edge.benchmarks.report.schema import read_report

    found = diff_reports(
        read_report(options.before), read_report(options.after), options.threshold / 100
    )
    print_result(options, found.to_json(), _lines(found))
    return DIFFERENT if found.differs else 0


def _lines(found: Diff) -> Iterator[str]:
    names = [f"{change.entry}: {change.measurement}" for change in found.changes]
    width = max(map(len, names))
    yield f"{'':{width}}{'before':>11}{'after':>11}{'ratio':>8}   95 %              p"
    for name, change in zip(names, found.changes, strict=True):
        said = "DIFFERS" if change.differs else ""
        interval = f"[{change.interval.low:.3f}, {change.interval.high:.3f}]"
        yield (
            f"{name:{width}}{change.before:11.3f}{change.after:11.3f}{change.ratio:8.3f}"
            f"   {interval:16}  {change.p_value:<8.2g}  {said}".rstrip()
        )
    for name in found.tokens:
        yield f"{name}: the tokens are not the same: DIFFERS"
    yield from (f"note: {remark}" for remark in found.remarks)
    count = sum(change.differs for change in found.changes) + len(found.tokens)
    beyond = f"by more than {100 * found.threshold:g} % (p < 0.01)"
    yield f"{count} of {len(found.changes)} differ {beyond}" if count else f"no difference {beyond}"
