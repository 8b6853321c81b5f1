"""Generate a text for each example of a file and score the texts against the references."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from .arguments import add_bundle, add_device, device_options
from .generation import add_languages, warn_of_languages
from .output import human_seconds, print_result
from .progress import Progress
from .quality import add_quality, data_of, metric_of, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    add_quality(parser)
    add_languages(parser)
    add_device(parser)
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="write JSON lines of source, target and prediction",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace an existing file of predictions"
    )


def run(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from seq2edge.benchmarks.quality.evaluate import predictions, score
    from seq2edge.benchmarks.quality.subjects import TextSubject, open_subject
    from seq2edge.benchmarks.report.statistics import CONFIDENCE, RESAMPLES
    from seq2edge.runtime import Bundle, InputError
    from seq2edge.runtime.bundle.atomic_write import check_file, output_file

    bundle = Bundle.open(options.bundle)
    metric, settings = metric_of(options, bundle), settings_of(options)
    settings.check(bundle)
    examples = data_of(options, bundle)
    metric.check(examples)
    if options.predictions is not None:
        if options.predictions.exists() and options.predictions.samefile(options.data):
            raise InputError(f"--predictions {options.predictions} would replace --data")
        check_file(options.predictions, options.force)
    with open_subject(bundle, settings, **device_options(options)) as subject:
        if isinstance(subject, TextSubject):
            warn_of_languages(subject.config, subject.model)
        start = time.perf_counter()
        sources = "texts" if bundle.manifest.speech is None else "recordings"
        with Progress() as progress:
            outputs = subject.answer(examples, lambda done, total: progress(sources, done, total))
        seconds = time.perf_counter() - start
    evaluation = score(outputs, examples, metric)
    if options.predictions is not None:
        data = predictions(examples, evaluation.texts).encode()
        with output_file(options.predictions) as file:
            file.write(data)
    low, high = evaluation.interval.low, evaluation.interval.high
    report = {
        "bundle": str(options.bundle),
        "data": str(options.data),
        "examples": len(examples),
        "metric": metric.name,
        "definition": metric.definition,
        "unit": metric.unit,
        "lower_is_better": metric.lower_is_better,
        "value": evaluation.value,
        "interval": asdict(evaluation.interval),
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "seconds": seconds,
    }
    line = (
        f"{options.bundle}: {metric.name} {evaluation.value:.2f} {metric.unit}"
        f" (95 % interval {low:.2f} to {high:.2f}), {len(examples)} examples,"
        f" {human_seconds(seconds)}"
    )
    return print_result(options, report, [line])
