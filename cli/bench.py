"""Measure bundles on this machine: latency, and if asked their roofline and their memory."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import (
    add_device,
    add_json,
    add_threads,
    device_options,
    positive,
    positive_number,
)
from .output import human_bytes, print_result
from .progress import Progress
from .reports import add_output, check_output, command_line, write_output

if TYPE_CHECKING:
    from seq2edge.benchmarks.report.schema import Entry, Report
    from seq2edge.benchmarks.workload import Workload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", nargs="+", type=Path, help="bundles' folders; several take turns")
    parser.add_argument(
        "--source-length",
        nargs="+",
        type=positive,
        metavar="N",
        help="source tokens (default: 64)",
    )
    parser.add_argument(
        "--audio-seconds",
        nargs="+",
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
    ):
        parser.add_argument(
            option,
            nargs="+",
            type=positive,
            default=[default],
            metavar="N",
            help=f"{text} (default: {default})",
        )
    parser.add_argument(
        "--runs", type=positive, default=20, metavar="N", help="measured runs (default: 20)"
    )
    parser.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="fresh processes of each bundle, which share the runs (default: 3, or 1 where they do"
        " not fit into memory)",
    )
    parser.add_argument(
        "--warmup",
        type=positive,
        metavar="N",
        help="runs before the measured ones (default: until times are steady)",
    )
    parser.add_argument(
        "--roofline",
        action="store_true",
        help="time a step and the encoder beside what memory and matrix products allow (a cache of"
        " --new-tokens slots)",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="resident memory of a fresh process that loads the bundle and generates once",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="time of each kind of operator and each layer, by the profiler of ONNX Runtime or"
        " TensorRT",
    )
    parser.add_argument(
        "--load",
        action="store_true",
        help="time loading in fresh processes, with the bundle in the page cache and without",
    )
    parser.add_argument(
        "--energy",
        action="store_true",
        help="joules per token, by the processor's counters (RAPL), the GPU's (NVML) or a Jetson's"
        " rails",
    )
    add_output(parser)
    add_device(parser)
    add_threads(parser, several=True)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.benchmarks.bench import bench
    from seq2edge.benchmarks.energy import EnergyMeter
    from seq2edge.benchmarks.gpu_energy import GpuEnergy

    _check_device(options)
    check_output(options)
    with Progress() as progress:
        report = bench(
            options.bundle,
            _workloads(options),
            roofline=options.roofline,
            memory=options.memory,
            profile=options.profile,
            load=options.load,
            processes=options.processes,
            energy=EnergyMeter(gpu=GpuEnergy() if _on_gpu(options) else None)
            if options.energy
            else None,
            command=command_line(),
            progress=progress,
        )
    write_output(options, report)
    return print_result(options, report.to_json(), _lines(report))


def _workloads(options: argparse.Namespace) -> list[Workload]:
    """All combinations of the lengths, batch sizes, beams and threads."""
    from seq2edge.benchmarks.workload import Workload

    common = Workload(
        audio=None if options.audio is None else str(options.audio),
        runs=options.runs,
        warmup=options.warmup,
        **device_options(options),
    )
    names = ("source_length", "audio_seconds", "batch_size", "num_beams", "new_tokens", "threads")
    choices = [getattr(options, name) or [None] for name in names]
    return [
        replace(common, **dict(zip(names, values, strict=True)))
        for values in itertools.product(*choices)
    ]


def _on_gpu(options: argparse.Namespace) -> bool:
    return options.backend != "onnxruntime" or options.device not in (None, "cpu")


def _check_device(options: argparse.Namespace) -> None:
    from seq2edge.runtime.errors import InputError

    if _on_gpu(options) and options.memory:
        raise InputError("--memory is about the CPU's memory: leave out --backend and --device")
    if options.encoder_backend is not None and (options.memory or options.roofline):
        raise InputError(
            "--memory and --roofline are about onnxruntime alone: leave out --encoder-backend"
        )


def _lines(report: Report) -> Iterator[str]:
    from seq2edge.benchmarks.report.growth import growths

    for number, entry in enumerate(report.entries):
        yield from _latency_lines(entry, report.settings)
        if report.settings["encoder_backend"] is not None and number % 2:
            yield _encoder_line(report.entries[number - 1], entry)
        if "roofline" in entry.details:
            yield from _roofline_lines(entry.name, entry.details["roofline"])
        if "memory" in entry.details:
            yield from _memory_lines(entry.details["memory"])
        yield from _profile_lines(entry.name, entry.details.get("profile", []))
    yield from (f"{growth}" for growth in growths(report))
    if report.limit is not None:
        gemm, bandwidth = report.limit["gemm"], report.limit["memory_bandwidth"] / 1e9
        yield (
            f"\nlimit of {gemm['threads']} threads: {bandwidth:.1f} GB/s from memory; products of"
            f" matrices {gemm['float32'] / 1e9:.0f} GFLOP/s in float32,"
            f" {gemm['int8'] / 1e9:.0f} GOP/s in int8"
        )
    yield from (f"note: {note}" for note in report.notes)


def _latency_lines(entry: Entry, settings: dict[str, Any]) -> Iterator[str]:
    own, values = entry.settings, entry.values
    # That of an encoder alone stands among the versions.
    device = settings["device"] if settings["encoder_backend"] is None else None
    source = str(own.get("source_length"))
    if "audio_seconds" in values:
        source = f"{values['audio_seconds']:g} s of {settings['audio'] or 'noise'}"
    yield (
        f"{entry.name}: batch {own['batch_size']}, source {source},"
        f" {own['new_tokens']} new tokens, beams {own['num_beams']},"
        f" {' on '.join(filter(None, (settings['backend'], device)))},"
        f" {own['threads'] or 'all'} threads,"
        f" {len(entry.measurements['all'].samples)} runs after {own['warmup_rounds']}"
        f" in {own['processes']} processes"
    )
    yield f"{'ms':14}{'p50':>10}{'p90':>10}{'p99':>10}{'max':>10}   95 % of p50"
    for name, found in entry.measurements.items():
        yield (
            f"{name:14}{found.p50:10.3f}{found.p90:10.3f}{found.p99:10.3f}{found.max:10.3f}"
            f"   [{found.interval.low:.3f}, {found.interval.high:.3f}]"
        )
    yield from _position_lines(entry.details.get("positions", []))
    yield f"{'tokens/s':14}{values['tokens_per_second']:10.1f}"
    if "real_time_factor" in values:
        yield f"{'real time':14}{values['real_time_factor']:10.4f}"
    if "joules_per_token" in values:
        yield f"{'J/token':14}{values['joules_per_token']:10.4f}"
    versions = ", ".join(f"{name} {version}" for name, version in entry.versions.items())
    yield (
        f"load {values['load_ms']:.0f} ms, peak memory {human_bytes(values.get('peak_bytes'))},"
        f" {versions}"
    )
    yield from (f"note: {note}" for note in entry.notes)


def _position_lines(positions: list[dict[str, Any]]) -> Iterator[str]:
    from seq2edge.benchmarks.report.positions import slope_of

    slope = slope_of(positions)
    if slope is None:
        return
    found = "  ".join(f"{one['position']}: {one['ms']['p50']:.3f}" for one in positions)
    yield f"ms by position  {found}  ({slope.us_per_position:+.3g} µs a position)"


def _encoder_line(other: Entry, plain: Entry) -> str:
    """Whether it pays to run the encoder in another library."""
    library = next(
        f"{name.partition(' ')[0]} {version}"
        for name, version in other.versions.items()
        if name.endswith("(encoder)")
    )
    encoder, whole = (
        other.measurements[part].p50 / plain.measurements[part].p50 for part in ("encoder", "all")
    )
    return f"encoder on {library}: {encoder:.2f} x onnxruntime's time here, all {whole:.2f} x"


def _roofline_lines(name: str, found: dict[str, Any]) -> Iterator[str]:
    roofline = argparse.Namespace(**found)
    beams = f", {roofline.num_beams} beams" if roofline.num_beams > 1 else ""
    yield (
        f"\nroofline of {name}: a step reads {human_bytes(roofline.weight_bytes)} of weights"
        f" and {human_bytes(roofline.cache_bytes)} of cache"
        f" (batch {roofline.batch_size}{beams}, {roofline.cache_slots} slots,"
        f" {f'{roofline.threads} threads' if roofline.threads else roofline.device})"
    )
    if roofline.plan_weight_bytes is not None:
        yield f"its engine holds {human_bytes(roofline.plan_weight_bytes)} of weights"
    yield f"{'':10}{'step ms':>10}{'GB/s':>10}{'readable':>10}{'share':>10}{'bound ms':>10}"
    read = roofline.weight_bytes + roofline.cache_bytes
    highest = max(roofline.memory_bandwidth, roofline.same_size_bandwidth)
    for title, step_ms, bandwidth, share in (
        ("median", roofline.step_ms["p50"], highest, roofline.share),
        ("best", roofline.best_step_ms, roofline.best_bandwidth, roofline.best_share),
    ):
        reached = read / step_ms / 1e6
        yield (
            f"{title:10}{step_ms:10.3f}{reached:10.2f}{bandwidth / 1e9:10.2f}"
            f"{100 * share:8.1f} %{share * step_ms:10.3f}"
        )
    yield (
        f"readable: {roofline.memory_bandwidth / 1e9:.2f} GB/s from memory,"
        f" {roofline.same_size_bandwidth / 1e9:.2f} GB/s from a buffer of the weights' size"
    )
    if roofline.operations:
        yield f"a step computes {_operations(roofline.operations)}; bound by {roofline.bound_by}"
    if roofline.not_counted:
        names = ", ".join(f"{count} {name}" for name, count in roofline.not_counted.items())
        yield f"note: operations that are not counted: {names}"
    if roofline.encoder is not None:
        encoder = argparse.Namespace(**roofline.encoder)
        yield (
            f"the encoder takes {encoder.ms['p50']:.3f} ms, moves {human_bytes(encoder.bytes)} and"
            f" computes {_operations(encoder.operations)}: {100 * encoder.share:.1f} % of what"
            f" {encoder.bound_by} allows ({encoder.bound_ms:.3f} ms)"
        )


def _operations(counted: dict[str, int]) -> str:
    return " and ".join(
        f"{count / 1e6:.4g} million operations in {name}" for name, count in counted.items()
    )


def _memory_lines(memory: dict[str, Any]) -> Iterator[str]:
    size = memory["bundle_bytes"]
    yield f"\nmemory of a fresh process; the bundle has {human_bytes(size)}"
    yield f"{'MB':14}{'resident':>10}{'anonymous':>11}{'file':>10}{'VmRSS':>10}{'/ bundle':>10}"
    for name, stage in memory["stages"].items():
        columns = ("total", "anonymous", "file_backed", "vm_rss")
        total, anonymous, file_backed, vm_rss = (stage[column] / 1e6 for column in columns)
        yield (
            f"{name:14}{total:10.1f}{anonymous:11.1f}{file_backed:10.1f}{vm_rss:10.1f}"
            f"{stage['total'] / size:10.2f}"
        )
    added, peak = memory["added_ratio"], human_bytes(memory["peak"])
    yield f"loading adds {added:.2f} x the bundle; peak {peak}"
    parts = sorted(memory["parts"].items(), key=lambda part: -part[1])
    yield f"at the end: {', '.join(f'{name} {human_bytes(count)}' for name, count in parts)}"


def _profile_lines(name: str, graphs: list[dict[str, Any]]) -> Iterator[str]:
    for graph in graphs:
        yield f"\nprofile of {name}: {graph['graph']}, {graph['ms']:.3f} ms per generation in nodes"
        yield f"{'':28}{'calls':>10}{'ms':>10}{'share':>9}"
        for share in (*graph["kinds"], *graph["layers"]):
            yield (
                f"{share['name']:28}{share['calls']:10.0f}{share['ms']:10.3f}"
                f"{100 * share['share']:7.1f} %"
            )
