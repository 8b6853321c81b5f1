"""Measure a bundle on this machine: latency, and if asked its roofline and its memory."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import (
    add_bundle,
    add_device,
    add_json,
    add_threads,
    positive,
    positive_number,
)
from .output import human_bytes, print_result
from .progress import Progress

if TYPE_CHECKING:
    from seq2edge.benchmarks.latency import LatencyReport
    from seq2edge.benchmarks.memory import MemoryReport
    from seq2edge.benchmarks.roofline import Roofline
    from seq2edge.benchmarks.workload import Workload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        "--source-length", type=positive, metavar="N", help="source tokens (default: 64)"
    )
    parser.add_argument(
        "--audio-seconds",
        type=positive_number,
        metavar="S",
        help="length of the sources of a bundle that hears speech; the encoder reads no more"
        " (default: the model's window, 30)",
    )
    parser.add_argument(
        "--audio",
        type=Path,
        metavar="FILE",
        help="a recording whose beginning is the source of speech (default: noise)",
    )
    for option, default, text in (
        ("--new-tokens", 64, "generated tokens (the end token is ignored)"),
        ("--batch-size", 1, "sources per batch"),
        ("--num-beams", 1, "beams; 1 is greedy decoding"),
        ("--runs", 20, "measured runs"),
        ("--warmup", 3, "runs before the measured ones"),
    ):
        parser.add_argument(
            option, type=positive, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    parser.add_argument(
        "--roofline",
        action="store_true",
        help="time a greedy step beside the memory bandwidth (a cache of --new-tokens slots)",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="BUNDLE",
        help="with --roofline: another bundle in the same rounds, such as the float32 one",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="resident memory of a fresh process that loads the bundle and generates once",
    )
    add_device(parser)
    add_threads(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.benchmarks.latency import measure
    from seq2edge.benchmarks.workload import Workload

    _check_device(options)
    workload = Workload(
        source_length=options.source_length,
        audio_seconds=options.audio_seconds,
        audio=None if options.audio is None else str(options.audio),
        new_tokens=options.new_tokens,
        batch_size=options.batch_size,
        num_beams=options.num_beams,
        runs=options.runs,
        warmup=options.warmup,
        threads=options.threads,
        backend=options.backend,
        device=options.device,
        strict=options.strict,
    )
    _check(options, workload)
    bundles = [options.bundle] if options.reference is None else [options.bundle, options.reference]
    report = measure(options.bundle, workload)
    rooflines = _rooflines(bundles, workload) if options.roofline else []
    memory = _memory(options.bundle, workload) if options.memory else None
    document, lines = report.to_json(), [*_latency_lines(options.bundle, report)]
    for name, bundle, roofline in zip(("roofline", "reference"), bundles, rooflines, strict=False):
        document[name] = roofline.to_json()
        lines += _roofline_lines(bundle, roofline)
    if memory is not None:
        document["memory"] = memory.to_json()
        lines += _memory_lines(memory)
    return print_result(options, document, lines)


def _check_device(options: argparse.Namespace) -> None:
    from seq2edge.runtime.errors import InputError

    elsewhere = options.backend != "onnxruntime" or options.device not in (None, "cpu")
    if elsewhere and options.memory:
        raise InputError("--memory is about the CPU's memory: leave out --backend and --device")


def _check(options: argparse.Namespace, workload: Workload) -> None:
    """Say at once what would otherwise fail after the latency was measured."""
    from seq2edge.benchmarks.memory import check_memory
    from seq2edge.benchmarks.sources import check_sources
    from seq2edge.runtime import Bundle
    from seq2edge.runtime.errors import InputError

    if options.memory:
        check_memory(Bundle.open(options.bundle), workload)
    if options.reference is None:
        return
    if not options.roofline:
        raise InputError("--reference is for --roofline: give both, or neither")
    check_sources(Bundle.open(options.reference), workload)


def _rooflines(bundles: list[Path], workload: Workload) -> list[Roofline]:
    from seq2edge.benchmarks.roofline import measure_rooflines

    with Progress() as progress:
        return measure_rooflines(
            bundles, workload, lambda done, total: progress("roofline", done, total)
        )


def _memory(bundle: Path, workload: Workload) -> MemoryReport:
    from seq2edge.benchmarks.memory import measure_memory

    return measure_memory(bundle, workload)


def _latency_lines(bundle: Path, report: LatencyReport) -> Iterator[str]:
    workload = report.workload
    source = str(workload.source_tokens)
    if report.audio_seconds is not None:
        source = f"{report.audio_seconds:g} s of {workload.audio or 'noise'}"
    yield (
        f"{bundle}: batch {workload.batch_size}, source {source},"
        f" {workload.new_tokens} new tokens, beams {workload.num_beams},"
        f" {workload.backend}{f' on {workload.device}' if workload.device else ''},"
        f" {report.threads or 'all'} threads,"
        f" {workload.runs} runs"
    )
    yield f"{'ms':14}{'p50':>10}{'p90':>10}{'p99':>10}"
    for name, spread in report.milliseconds.items():
        yield f"{name:14}{spread.p50:10.3f}{spread.p90:10.3f}{spread.p99:10.3f}"
    yield f"{'tokens/s':14}{report.tokens_per_second:10.1f}"
    if report.real_time_factor is not None:
        yield f"{'real time':14}{report.real_time_factor:10.4f}"
    yield (
        f"load {report.load_ms:.0f} ms, peak memory {human_bytes(report.peak_rss_bytes)},"
        f" {workload.backend} {report.engine_version}"
    )


def _roofline_lines(bundle: Path, roofline: Roofline) -> Iterator[str]:
    yield (
        f"\nroofline of {bundle}: a step reads {human_bytes(roofline.weight_bytes)} of weights"
        f" and {human_bytes(roofline.cache_bytes)} of cache"
        f" (batch {roofline.batch_size}, {roofline.cache_slots} slots,"
        f" {f'{roofline.threads} threads' if roofline.threads else roofline.device})"
    )
    if roofline.plan_weight_bytes is not None:
        yield f"its engine holds {human_bytes(roofline.plan_weight_bytes)} of weights"
    yield f"{'':10}{'step ms':>10}{'GB/s':>10}{'readable':>10}{'share':>10}{'bound ms':>10}"
    read = roofline.weight_bytes + roofline.cache_bytes
    highest = max(roofline.memory_bandwidth, roofline.same_size_bandwidth)
    for name, step_ms, bandwidth, share in (
        ("median", roofline.step_ms.p50, highest, roofline.share),
        ("best", roofline.best_step_ms, roofline.best_bandwidth, roofline.best_share),
    ):
        reached = read / step_ms / 1e6
        yield (
            f"{name:10}{step_ms:10.3f}{reached:10.2f}{bandwidth / 1e9:10.2f}"
            f"{100 * share:8.1f} %{share * step_ms:10.3f}"
        )
    yield (
        f"readable: {roofline.memory_bandwidth / 1e9:.2f} GB/s from memory,"
        f" {roofline.same_size_bandwidth / 1e9:.2f} GB/s from a buffer of the weights' size"
    )


def _memory_lines(memory: MemoryReport) -> Iterator[str]:
    yield f"\nmemory of a fresh process; the bundle has {human_bytes(memory.bundle_bytes)}"
    yield f"{'MB':14}{'resident':>10}{'anonymous':>11}{'file':>10}{'VmRSS':>10}{'/ bundle':>10}"
    for name, stage in memory.stages.items():
        values = (stage.total, stage.anonymous, stage.file_backed, stage.vm_rss)
        total, anonymous, file_backed, vm_rss = (value / 1e6 for value in values)
        yield (
            f"{name:14}{total:10.1f}{anonymous:11.1f}{file_backed:10.1f}{vm_rss:10.1f}"
            f"{stage.total / memory.bundle_bytes:10.2f}"
        )
    yield f"loading adds {memory.added_ratio:.2f} x the bundle; peak {human_bytes(memory.peak)}"
    parts = sorted(memory.parts.items(), key=lambda part: -part[1])
    yield f"at the end: {', '.join(f'{name} {human_bytes(size)}' for name, size in parts)}"
