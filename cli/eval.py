"""Generate a text for each example of a file and score the texts against the references."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from .arguments import add_bundle, add_device, open_model
from .generation import add_languages, warn_of_languages
from .output import human_seconds, print_result
from .progress import Progress
from .quality import add_quality


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
    from dataclasses import asdict, replace

    from seq2edge.benchmarks.quality.bootstrap import CONFIDENCE, RESAMPLES
    from seq2edge.benchmarks.quality.data import read_examples
    from seq2edge.benchmarks.quality.evaluate import evaluate, one_each, predictions
    from seq2edge.benchmarks.quality.metrics import load_metric
    from seq2edge.runtime import InputError
    from seq2edge.runtime.bundle.atomic_write import check_file, output_file

    metric = load_metric(options.metric)
    examples = read_examples(options.data, options.limit, encoding_errors=options.encoding_errors)
    if options.predictions is not None:
        if options.predictions.exists() and options.predictions.samefile(options.data):
            raise InputError(f"--predictions {options.predictions} would replace --data")
        check_file(options.predictions, options.force)
    with open_model(options) as model:
        config = replace(
            one_each(
                model.generation_config,
                max_new_tokens=options.max_new_tokens,
                num_beams=options.num_beams,
            ),
            source_lang=options.source_lang,
            target_lang=options.target_lang,
        )
        warn_of_languages(config, model)
        start = time.perf_counter()
        with Progress() as progress:
            evaluation = evaluate(
                model,
                examples,
                metric,
                config=config,
                batch_size=options.batch_size,
                skip_special_tokens=not options.keep_special_tokens,
                progress=lambda done, total: progress("texts", done, total),
            )
        seconds = time.perf_counter() - start
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
