"""Time seq2edge beside other libraries, each in an environment of its own that is made once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_json, positive
from .output import print_result
from .progress import Progress
from .reports import add_output, check_output, command_line, write_output

if TYPE_CHECKING:
    from seq2edge.benchmarks.peers.names import Name
    from seq2edge.benchmarks.report.schema import Report

#: It was measured, and a float32 model gave other tokens than it must.
WRONG = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        nargs="?",
        type=Path,
        help="a Hugging Face folder that all run (default: --geometry with random weights)",
    )
    parser.add_argument(
        "--geometry",
        default="t5-small",
        choices=("t5-small", "marian-base", "bart-base"),
        help="sizes of the model that is made where no checkpoint is named (default: t5-small)",
    )
    parser.add_argument(
        "--audio",
        nargs="+",
        default=[],
        metavar="FILE",
        help="English recordings for a checkpoint of Whisper, of which the first 30 s are"
        " transcribed, one after the other",
    )
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--peers",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help="who takes part: all (default: everyone on the CPU), or"
        " library:precision[:mode][@device] such as seq2edge:int8, openvino:int8,"
        " transformers:float32:compile; an unknown name lists what there is",
    )
    who.add_argument("--gpu", action="store_true", help="everyone on an NVIDIA GPU")
    for option, default, text in (
        ("--threads", 2, "threads within an operator; CTranslate2 may do better with 1"),
        ("--sources", 1, "sources that are generated from in a round, one after the other"),
        ("--source-length", 64, "tokens of a source"),
        ("--new-tokens", 64, "generated tokens (no end token)"),
        ("--num-beams", 1, "beams; 1 is greedy decoding"),
        ("--runs", 15, "measured rounds; all take turns in each"),
        ("--search-runs", 5, "rounds for CTranslate2's settings"),
    ):
        parser.add_argument(
            option, type=positive, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    parser.add_argument(
        "--warmup",
        type=positive,
        metavar="N",
        help="rounds before the measured ones (default: until times are steady)",
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        metavar="N",
        help="begin no further measured round after so many seconds, once 8 are done",
    )
    parser.add_argument(
        "--roofline",
        action="store_true",
        help="afterwards, seq2edge's steps beside the bandwidth of the memory that they read",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder of the peers' environments and models (default: ~/.cache/seq2edge/peers)",
    )
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="make environments and models that are not in the cache, and measure nothing",
    )
    parser.add_argument(
        "--torch",
        type=Path,
        metavar="PYTHON",
        help="an interpreter with torch and transformers, such as a Jetson's, in place of the"
        " environment of transformers",
    )
    add_output(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.benchmarks.peers.environments import Environments, default_cache
    from seq2edge.benchmarks.peers.run import PeerRequest, compare_peers, prepare_peers
    from seq2edge.benchmarks.peers.workload import PeerWorkload

    names = _names(options)
    _check_interpreter()
    check_output(options)
    fields = ("threads", "sources", "source_length", "new_tokens", "num_beams", "runs")
    request = PeerRequest(
        names=names,
        workload=PeerWorkload(
            **{
                name: getattr(options, name)
                for name in (*fields, "warmup", "seconds", "search_runs")
            },
            audio=tuple(options.audio),
        ),
        environments=Environments(options.cache or default_cache(), options.torch),
        checkpoint=options.checkpoint,
        geometry=options.geometry,
        roofline=options.roofline,
        command=command_line(),
    )
    if options.prepare:
        with Progress() as progress:
            left_out = prepare_peers(request, progress)
        print_result(options, {"left_out": left_out}, _prepared(names, left_out))
        return 0
    with Progress() as progress:
        report = compare_peers(request, progress)
    write_output(options, report)
    print_result(options, report.to_json(), _lines(report))
    return WRONG if report.wrong or report.disputed else 0


def _names(options: argparse.Namespace) -> list[Name]:
    from seq2edge.benchmarks.peers.names import (
        CPU_BASELINES,
        GPU_BASELINES,
        SPEECH_BASELINES,
        Name,
        in_turns,
    )

    everyone = SPEECH_BASELINES if options.audio else CPU_BASELINES
    if options.gpu:
        chosen = list(GPU_BASELINES)
    else:
        chosen = []
        for name in options.peers:
            chosen += everyone if name == "all" else [name]
    return in_turns([Name.parse(name) for name in chosen])


def _prepared(names: list[Name], left_out: dict[str, str]) -> Iterator[str]:
    for name in names:
        yield f"{name.text}: {left_out.get(name.text, 'ready')}"


def _check_interpreter() -> None:
    """Say at once what would otherwise fail after minutes."""
    from seq2edge.runtime.dependencies import missing
    from seq2edge.runtime.errors import BackendError

    if sys.version_info < (3, 11):
        raise BackendError("peers needs Python 3.11 or newer, as ONNX Runtime 1.32 does")
    # onnx_ir stands for the extra: what the export would miss first.
    for module in ("onnxruntime", "onnx_ir"):
        if find_spec(module) is None:
            raise missing("peers", module, "cpu", "export")


def _lines(report: Report) -> Iterator[str]:
    from seq2edge.benchmarks.report.table import legend, text_table
    from seq2edge.benchmarks.report.verdict import verdict

    work = report.settings
    sources = f"{work['sources']} sources" if work["sources"] > 1 else "source"
    sources += f" of {work['source_length']}"
    if work["audio"]:
        sources = f"30 s of {', '.join(work['audio'])}"
    yield (
        f"{report.title}; batch 1, {sources},"
        f" {work['new_tokens']} new tokens, beams {work['num_beams']}, {work['threads']} threads,"
        f" {work['runs']} rounds"
    )
    yield from verdict(report)
    yield f"\n{text_table(report)}\n"
    yield from (f"{name}: {meaning}" for name, meaning in legend(report))
    for entry in report.entries:
        versions = ", ".join(f"{name} {version}" for name, version in entry.versions.items())
        yield f"{entry.name}: {versions}"
        yield from (f"{entry.name}: note: {note}" for note in entry.notes)
        roofline = entry.details.get("roofline")
        if roofline:
            yield (
                f"{entry.name}: a greedy step of {roofline['step_ms']['p50']:.3f} ms reads at"
                f" {roofline['step_bandwidth'] / 1e9:.1f} GB/s, {100 * roofline['share']:.0f} % of"
                " what memory gives"
            )
    yield f"{report.machine.cpu}, {report.machine.system}, Python {report.machine.python}"
