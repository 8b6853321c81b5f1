"""Measure a bundle's latency on this machine: encoder, first token, each further token."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .arguments import add_json, add_threads, human_bytes, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    for option, default, text in (
        ("--source-length", 64, "source tokens"),
        ("--new-tokens", 64, "generated tokens (the end token is ignored)"),
        ("--batch-size", 1, "sources at once"),
        ("--num-beams", 1, "beams; 1 is greedy decoding"),
        ("--runs", 20, "measured runs"),
        ("--warmup", 3, "runs before the first that counts"),
    ):
        parser.add_argument(
            option, type=positive, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    add_threads(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.benchmarks.latency import Workload, measure

    workload = Workload(
        source_length=options.source_length,
        new_tokens=options.new_tokens,
        batch_size=options.batch_size,
        num_beams=options.num_beams,
        runs=options.runs,
        warmup=options.warmup,
        threads=options.threads,
    )
    report = measure(options.bundle, workload)
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
        return 0
    print(
        f"{options.bundle}: batch {workload.batch_size}, source {workload.source_length},"
        f" {workload.new_tokens} new tokens, beams {workload.num_beams},"
        f" {report.threads or 'all'} threads,"
        f" {workload.runs} runs"
    )
    print(f"{'ms':14}{'p50':>10}{'p90':>10}{'p99':>10}")
    for name, spread in report.milliseconds.items():
        print(f"{name:14}{spread.p50:10.3f}{spread.p90:10.3f}{spread.p99:10.3f}")
    print(f"{'tokens/s':14}{report.tokens_per_second:10.1f}")
    print(
        f"load {report.load_ms:.0f} ms, peak memory {human_bytes(report.peak_rss_bytes)},"
        f" onnxruntime {report.engine_version}"
    )
    return 0
