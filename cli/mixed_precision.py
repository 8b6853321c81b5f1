"""``quantize --max-drop``: how the loss is measured, and the table it was decided from."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import positive
from .output import print_result
from .progress import Progress
from .quality import data_of, metric_of

if TYPE_CHECKING:
    from seq2edge.quantize import MixedPrecision, MixedPrecisionError, Request
    from seq2edge.quantize.mixed_precision import Sensitivity, Trial


def add_max_drop(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "mixed precision", "find out which layers cost most and keep those more exact"
    )
    group.add_argument(
        "--max-drop",
        type=float,
        metavar="X",
        help="the largest loss allowed, in points of the metric",
    )
    group.add_argument(
        "--data", type=Path, metavar="FILE", help="examples to measure on (see seq2edge eval)"
    )
    group.add_argument("--metric", metavar="NAME", help="what to measure (see seq2edge eval)")
    group.add_argument(
        "--limit", type=positive, metavar="N", help="only the first N examples of the data"
    )


def quantize_within_max_drop(request: Request, options: argparse.Namespace) -> MixedPrecision:
    """Quantize within ``options.max_drop``, measuring on the CPU of this machine."""
    from seq2edge.benchmarks.quality.evaluate import score
    from seq2edge.benchmarks.quality.settings import Settings
    from seq2edge.benchmarks.quality.subjects import open_subject
    from seq2edge.benchmarks.report.schema import finite
    from seq2edge.quantize import Loss, MixedPrecisionError, quantize_mixed_precision
    from seq2edge.runtime import Bundle

    source = Bundle.open(request.bundle)
    metric = metric_of(options, source)
    examples = data_of(options, source)
    metric.check(examples)
    stage = ""

    with Progress() as progress:

        def measuring(label: str, number: int) -> None:
            nonlocal stage
            stage = f"measurement {number + 1}, {label}"

        def measure(bundle: Path) -> Loss:
            with open_subject(Bundle.open(bundle), Settings()) as subject:
                outputs = subject.answer(examples, lambda done, total: progress(stage, done, total))
            evaluation = score(outputs, examples, metric)
            sign = 1 if metric.lower_is_better else -1
            return Loss(metric.loss(evaluation.value), sign * evaluation.resampled)

        described = {
            "metric": metric.name,
            "data": options.data.name,
            "examples": len(examples),
        }
        try:
            return quantize_mixed_precision(
                request, options.max_drop, measure, described=described, measuring=measuring
            )
        except MixedPrecisionError as error:
            report = {
                "error": str(error),
                "max_drop": options.max_drop,
                "sensitivities": [asdict(sensitivity) for sensitivity in error.sensitivities],
                "trials": [asdict(trial) for trial in error.trials],
            }
            print_result(options, finite(report), table(error, options))
            raise


def table(
    search: MixedPrecision | MixedPrecisionError, options: argparse.Namespace
) -> Iterator[str]:
    """The loss of each group on its own, then of all but the worst; whether the data resolve it."""
    lost = f"lost {options.metric}"
    if search.sensitivities:
        yield f"{'quantized alone':24}{'layers':>8}{'MB':>10}{lost:>12}{'95 % interval':>20}"
        for sensitivity in search.sensitivities:
            yield f"{sensitivity.group:24}{sensitivity.layers:8}{_measured(sensitivity)}"
        yield ""
    yield f"{'more exact':32}{'MB':>10}{lost:>12}{'95 % interval':>20}"
    for trial in search.trials:
        last = trial.fallback[-1] if trial.fallback else "nothing"
        name = f"and {last}" if len(trial.fallback) > 1 else last
        yield f"{name:32}{_measured(trial)}"
    yield ""
    yield from _unresolved(search.trials[-1], options)


def _measured(row: Sensitivity | Trial) -> str:
    low, high = row.interval or (math.nan, math.nan)
    interval = f"[{low:+.3f}, {high:+.3f}]"
    return f"{row.bytes / 1e6:10.3f}{row.loss:12.3f}{interval:>20}"


def _unresolved(trial: Trial, options: argparse.Namespace) -> Iterator[str]:
    """That the examples are too few to say whether the bound is kept."""
    if trial.interval is None or trial.resolves(options.max_drop):
        return
    low, high = trial.interval
    more = ""
    if options.max_drop:
        # The width of an interval falls with the square root of the number of examples.
        times = ((high - low) / abs(options.max_drop)) ** 2
        more = f"; about {times:.1f} times as many examples would"
    yield (
        f"the data cannot resolve --max-drop {options.max_drop:g}: the loss is {trial.loss:.3f}"
        f" with a 95 % interval from {low:.3f} to {high:.3f}, wider than the bound{more}"
    )
    yield ""
