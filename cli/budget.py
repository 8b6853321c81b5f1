"""``quantize --max-drop``: how the loss is measured, and the table it was decided from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import positive
from .progress import CountProgress

if TYPE_CHECKING:
    from seq2edge.quantize import Budgeted, Request


def add_budget(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "budget", "find out which layers cost most and keep those more exact"
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


def within_budget(request: Request, options: argparse.Namespace) -> Budgeted:
    """Quantize within ``options.max_drop``, measuring on the CPU of this machine."""
    from seq2edge.benchmarks.quality.data import read_examples
    from seq2edge.benchmarks.quality.evaluate import evaluate
    from seq2edge.benchmarks.quality.metrics import load_metric
    from seq2edge.quantize import quantize_within
    from seq2edge.runtime import Seq2SeqModel

    metric = load_metric(options.metric)
    examples = read_examples(options.data, options.limit, encoding_errors=options.encoding_errors)
    stage = ""

    with CountProgress() as progress:

        def measuring(label: str, number: int) -> None:
            nonlocal stage
            stage = f"measurement {number + 1}, {label}"

        def measure(bundle: Path) -> float:
            with Seq2SeqModel.load(bundle) as model:
                found = evaluate(
                    model,
                    examples,
                    metric,
                    progress=lambda done, total: progress(stage, done, total),
                )
            return metric.loss(found.value)

        described = {
            "metric": metric.name,
            "data": options.data.name,
            "examples": len(examples),
        }
        return quantize_within(
            request, options.max_drop, measure, described=described, measuring=measuring
        )


def print_table(found: Budgeted, metric: str) -> None:
    """What each group costs alone, and what is left with the worst spared."""
    if found.effects:
        print(f"{'quantized alone':24}{'layers':>8}{f'lost {metric}':>12}")
        for effect in found.effects:
            print(f"{effect.group:24}{effect.layers:8}{effect.loss:12.3f}")
        print()
    print(f"{'more exact':24}{f'lost {metric}':>20}")
    for trial in found.trials:
        last = trial.spared[-1] if trial.spared else "nothing"
        name = f"and {last}" if len(trial.spared) > 1 else last
        print(f"{name:24}{trial.loss:20.3f}")
    print()
