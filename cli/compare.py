"""Compare bundles with a reference: size, quality, agreement, divergence and speed."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import positive
from .output import print_result
from .progress import Progress
from .quality import add_quality


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", type=Path, help="the bundle that others are compared with")
    parser.add_argument("bundle", nargs="+", type=Path, help="variants of the same model")
    add_quality(parser)
    for option, default, text in (
        ("--kl-examples", 200, "examples that KL divergence is averaged over, at most"),
        ("--speed-texts", 20, "texts that are timed, at most"),
    ):
        parser.add_argument(
            option, type=positive, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write report.json, report.md and report.svg into this folder",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing report")


def run(options: argparse.Namespace) -> int:
    from seq2edge.benchmarks.quality.compare import Settings, compare
    from seq2edge.benchmarks.quality.data import read_examples
    from seq2edge.benchmarks.quality.metrics import load_metric
    from seq2edge.benchmarks.quality.picture import check_picture
    from seq2edge.benchmarks.quality.report import REPORT_FILES, REPORT_KIND, table, write_report
    from seq2edge.runtime.bundle.atomic_write import check_folder, check_parent

    metric = load_metric(options.metric)
    if options.output is not None:
        check_folder(options.output, options.force, REPORT_FILES[0], REPORT_KIND)
        check_parent(options.output)
        check_picture()
    settings = Settings(
        data=options.data.name,
        max_new_tokens=options.max_new_tokens,
        num_beams=options.num_beams,
        batch_size=options.batch_size,
        skip_special_tokens=not options.keep_special_tokens,
        threads=options.threads,
        divergence_examples=options.kl_examples,
        speed_texts=options.speed_texts,
    )
    examples = read_examples(options.data, options.limit, encoding_errors=options.encoding_errors)
    with Progress() as progress:
        comparison = compare(
            [options.reference, *options.bundle], examples, metric, settings, progress
        )
    if options.output is not None:
        write_report(comparison, options.output, options.force)
    files = [] if options.output is None else [f"{options.output}: {', '.join(REPORT_FILES)}"]
    return print_result(options, comparison.to_json(), [table(comparison), *files])
