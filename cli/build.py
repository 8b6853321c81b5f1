"""Build a bundle's TensorRT engines, and report the precision of each layer."""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from .arguments import add_bundle, add_json, positive
from .output import human_bytes, human_seconds, print_result
from .progress import Progress

if TYPE_CHECKING:
    from seq2edge.runtime.backends.tensorrt import EngineSet, GraphReport

_MOST_NAMES = 8

#: What a decoder's optimization profiles are for, in their order.
_STEPS = ("steps of one token:", "prompts, beams and drafts:")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        "--backend", metavar="NAME", help="tensorrt-rtx or tensorrt (default: what is installed)"
    )
    parser.add_argument(
        "--compute-capability",
        action="extend",
        nargs="+",
        default=[],
        metavar="X.Y",
        help="GPUs to build for, such as 8.6 8.9; tensorrt-rtx only, needs no GPU (default: the"
        " GPU of this machine)",
    )
    for option, text in (
        ("--max-batch", "sources per batch (default: 1)"),
        (
            "--max-source-length",
            "source tokens, or positions of 20 ms of sound (default: 512, or the model's most; for"
            " speech the model's most)",
        ),
        (
            "--max-target-length",
            "cache slots: one per token for greedy decoding, up to one per token and beam for beam"
            " search (default: 256, or the model's most; for speech the model's most)",
        ),
        ("--max-num-tokens", "tokens per step: beams, samples, prompt or draft (default: 8)"),
    ):
        parser.add_argument(option, type=positive, metavar="N", help=text)
    parser.add_argument(
        "--workspace",
        type=positive,
        metavar="MB",
        help="device memory that kernels may use while they run, in MB (default: any)",
    )
    parser.add_argument(
        "--allow-fallback",
        action="store_true",
        help="build even where TensorRT computes a layer in another precision than the bundle"
        " asks for",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder to write (default: engines are cached next to the bundle, one folder per key"
        " in BUNDLE.engines, and not built again)",
    )
    parser.add_argument("--force", action="store_true", help="build again, replace engines")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.runtime import Bundle
    from seq2edge.runtime.backends.tensorrt import Limits, Options, build_engines, ensure_engines
    from seq2edge.runtime.backends.tensorrt.execution.device_memory import plan_memory

    start = time.perf_counter()
    bundle = Bundle.open(options.bundle)
    limits = Limits.of(
        bundle.manifest.dimensions,
        max_batch=options.max_batch,
        max_source_length=options.max_source_length,
        max_target_length=options.max_target_length,
        max_num_tokens=options.max_num_tokens,
        speech=bundle.manifest.speech is not None,
    )
    build_options = Options(
        engine=options.backend,
        limits=limits,
        compute_capabilities=tuple(options.compute_capability),
        workspace_bytes=None if options.workspace is None else options.workspace << 20,
        allow_fallback=options.allow_fallback,
    )
    output, built = options.output, True
    with _own_stderr() as terminal, Progress(stream=terminal) as progress:
        if output is None:
            output, engines, built = ensure_engines(
                bundle, build_options, overwrite=options.force, progress=progress
            )
        else:
            engines = build_engines(
                bundle, output, build_options, overwrite=options.force, progress=progress
            )
    seconds = time.perf_counter() - start
    memory = plan_memory(bundle.manifest, engines)
    document = {
        "path": str(output),
        "built": built,
        "seconds": seconds,
        **engines.to_json(),
        "device_memory_bytes": asdict(memory),
    }
    how = f"built in {human_seconds(seconds)}" if built else "there already"
    lines = (*_lines(engines, output, how), f"device memory of the largest call: {memory}")
    return print_result(options, document, lines)


@contextmanager
def _own_stderr() -> Iterator[TextIO]:
    """Keep what TensorRT's C++ code prints on stderr off it; gives a stream to the real one.

    TensorRT logs the same text, and an error quotes it.
    """
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError):  # closed, or an object that is no file
        yield sys.stderr or io.StringIO()
        return
    sys.stderr.flush()
    with (
        os.fdopen(os.dup(descriptor), "w", errors="backslashreplace") as real,
        tempfile.TemporaryFile() as sink,
    ):
        python, sys.stderr = sys.stderr, real
        os.dup2(sink.fileno(), descriptor)
        try:
            yield real
        finally:
            real.flush()
            os.dup2(real.fileno(), descriptor)
            sys.stderr = python


def _lines(engines: EngineSet, output: Path, how: str) -> Iterator[str]:
    key = engines.key
    gpus = key.gpu or f"compute capability {', '.join(key.compute_capabilities)}"
    yield f"{output}: {key.engine} {key.version} for {gpus}, {how}"
    limits = key.limits
    yield (
        f"at most: batch {limits.max_batch}, source {limits.max_source_length},"
        f" slots {limits.max_target_length}, queries {limits.max_num_tokens}"
    )
    for name, engine in engines.engines.items():
        yield from _report_lines(name, engine.report)


def _report_lines(name: str, report: GraphReport) -> Iterator[str]:
    sizes = [human_bytes(report.plan_bytes)]
    if report.weight_bytes is not None:
        sizes.append(f"{human_bytes(report.weight_bytes)} of weights")
    if report.activation_bytes is not None:
        sizes.append(f"{human_bytes(report.activation_bytes)} of activations")
    yield f"{name}: {', '.join(sizes)}"
    for (requested, built, kept), count in report.outcomes().items():
        if built is None:
            outcome = "what was built is not known"
        elif built == requested:
            outcome = "as the graph asks"
        elif kept:
            outcome = f"as the graph asks, fused with what reads {built.inputs}"
        else:
            outcome = f"built with {built}"
        yield f"{count:5} GEMMs of {requested}: {outcome}"
    for gemm in report.lost[:_MOST_NAMES]:
        yield f"      not as the graph asks: {gemm.name}"
    if len(report.lost) > _MOST_NAMES:
        yield f"      and {len(report.lost) - _MOST_NAMES} more (--json names all)"
    if report.cache_updates:
        yield f"{report.cache_updates:5} cache updates in place"
    if not report.profiles:
        yield f"{report.attentions:5} attentions"
    for profile, steps in zip(report.profiles, _STEPS, strict=False):
        if len(report.profiles) > 1:
            yield f"  {steps}"
        fused = profile.fused_attentions
        yield f"{fused:5} of {report.attentions} attentions fused to one kernel"
        if profile.cache_copies:
            yield f"{profile.cache_copies:5} kernels that only copy keys or values"
        layers = ", ".join(f"{count} {kind}" for kind, count in profile.layers.items())
        yield f"{sum(profile.layers.values()):5} layers: {layers}"
