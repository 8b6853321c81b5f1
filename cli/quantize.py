"""Write a quantized copy of a bundle, and say what was done to its layers."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from .arguments import add_json, human_bytes
from .dependencies import needs
from .progress import StageProgress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a float32 bundle")
    parser.add_argument("out", type=Path, help="the bundle to write")
    parser.add_argument("--scheme", required=True, metavar="NAME", help="int8, int4 or fp16")
    parser.add_argument(
        "--target", default="cpu", metavar="NAME", help="what it will run on (default: cpu)"
    )
    parser.add_argument(
        "--block-size",
        type=int,
        metavar="N",
        help="weights that share a scale, at most: 16, 32, 64, 128 or 256 (default: 128)",
    )
    parser.add_argument(
        "--algorithm", metavar="NAME", help="how int4 weights are rounded: rtn or k-quant"
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="layers to leave as they are, such as 'decoder.layers.0.*' (may be repeated)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    with needs("quantize", "export,cpu"):
        from seq2edge.quantize import Options, quantize_bundle
    start = time.perf_counter()
    with StageProgress() as progress:
        result = quantize_bundle(
            options.bundle,
            options.out,
            options.scheme,
            target=options.target,
            options=Options(block_size=options.block_size, algorithm=options.algorithm),
            exclude=options.exclude,
            overwrite=options.force,
            progress=progress,
        )
    seconds = time.perf_counter() - start
    done = result.manifest.quantization
    size = sum(file.size for file in result.manifest.files.values())
    if options.json:
        report = {"bundle": str(result.path), "bytes": size, "seconds": seconds, **done}
        print(json.dumps(report, indent=2))
        return 0
    made = f"{done['scheme']} for {done['target']}"
    print(f"{result.path}: {made}, {human_bytes(size)}, {seconds:.1f} s")
    for treatment, count in done["summary"].items():
        print(f"{count:5} layers: {treatment}")
    return 0
