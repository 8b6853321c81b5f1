"""Compare bundles with a reference: size, quality, agreement, divergence and speed."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import positive
from .output import print_result
from .progress import Progress
from .quality import add_quality, data_of, metric_of, settings_of
from .reports import add_pages, check_output, command_line, write_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", type=Path, help="the bundle that others are compared with")
    parser.add_argument("bundle", nargs="+", type=Path, help="variants of the same model")
    add_quality(parser)
    for option, name, default, text in (
        (
            "--kl-examples",
            "divergence_examples",
            200,
            "examples that KL divergence is averaged over, at most",
        ),
        ("--speed-texts", "speed_texts", 20, "texts (or recordings) that are timed, at most"),
    ):
        parser.add_argument(
            option,
            dest=name,
            type=positive,
            default=default,
            metavar="N",
            help=f"{text} (default: {default})",
        )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write report.json, .html, .md, .csv and .svg into this folder",
    )
    add_pages(parser)


def run(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from seq2edge.benchmarks.quality.compare import compare
    from seq2edge.benchmarks.quality.report import REPORT_FILES, REPORT_KIND, table, write_report
    from seq2edge.benchmarks.report.plots import check_plots
    from seq2edge.runtime import Bundle
    from seq2edge.runtime.bundle.atomic_write import check_folder, check_parent

    reference = Bundle.open(options.reference)
    metric = metric_of(options, reference)
    if options.output is not None:
        check_folder(options.output, options.force, REPORT_FILES[0], REPORT_KIND)
        check_parent(options.output)
        check_plots("--output")
    check_output(options)
    settings = settings_of(options)
    settings.check(reference)
    examples = data_of(options, reference)
    with Progress() as progress:
        comparison = compare(
            [options.reference, *options.bundle], examples, metric, settings, progress
        )
    comparison = replace(comparison, command=command_line())
    if options.output is not None:
        write_report(comparison, options.output, options.force)
    write_output(options, comparison.report())
    files = [] if options.output is None else [f"{options.output}: {', '.join(REPORT_FILES)}"]
    return print_result(options, comparison.to_json(), [table(comparison), *files])
