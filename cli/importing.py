"""Make a bundle of a folder that optimum-cli export onnx wrote, its graphs as they are."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from .arguments import add_force, add_json
from .output import human_bytes, human_parameters, human_seconds, print_result
from .progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder that optimum-cli export onnx wrote")
    parser.add_argument("bundle", type=Path, help="folder to write")
    add_force(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.runtime.dependencies import needs

    with needs("import", "export"):
        from seq2edge.export.optimum import import_optimum

    start = time.perf_counter()
    with Progress() as progress:
        result = import_optimum(
            options.folder, options.bundle, overwrite=options.force, progress=progress
        )
    seconds = time.perf_counter() - start
    manifest = result.manifest
    size = sum(info.size for info in manifest.files.values())
    report = {
        "bundle": str(result.path),
        "family": manifest.family,
        "cache": manifest.cache,
        "parameters": manifest.parameters,
        "bytes": size,
        "seconds": round(seconds, 3),
    }
    line = (
        f"{result.path}: {manifest.family}, {human_parameters(manifest.parameters)},"
        f" {human_bytes(size)}, a concatenating cache, {human_seconds(seconds)}"
    )
    return print_result(options, report, [line])
