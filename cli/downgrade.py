"""Write a copy of a bundle for runtimes that are older than its operators."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .arguments import add_force, add_json
from .output import human_bytes, human_seconds, print_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle", type=Path, help="a bundle as export or quantize writes it; quantize first"
    )
    parser.add_argument("out", type=Path, help="the bundle to write")
    add_force(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.runtime.dependencies import needs

    with needs("downgrade", "export", "cpu"):
        from seq2edge.quantize import downgrade_opset
    start = time.perf_counter()
    result = downgrade_opset(options.bundle, options.out, overwrite=options.force)
    seconds = time.perf_counter() - start
    size = sum(file.size for file in result.manifest.files.values())
    report = {"bundle": str(result.path), "bytes": size, "seconds": seconds, **result.record}
    sizes = f"{human_bytes(size)}, {human_seconds(seconds)}"
    first = f"{result.path}: opset {result.record['opset']}, {sizes}"
    return print_result(options, report, (first, *_lines(result.record)))


def _lines(done: Mapping[str, Any]) -> Iterator[str]:
    """What stands in the place of what, and for whom the bundle is."""
    from seq2edge.quantize.passes.opset_downgrade import REPLACEMENTS

    for kind, count in done["replaced"].items():
        yield f"{count:5} {kind}: now {REPLACEMENTS[kind]}"
    oldest = f"ONNX Runtime {done['oldest_onnxruntime']} or newer"
    if done["unknown_to_tensorrt"]:
        yield f"for {oldest}; TensorRT does not know {', '.join(done['unknown_to_tensorrt'])}"
    else:
        yield f"for TensorRT 10.3 (JetPack 6) or newer, and {oldest}"
