"""Pack a bundle for a device: one archive with bundle, runtime, pinned packages and scripts."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from .arguments import add_bundle, add_json
from .output import human_bytes, print_result
from .progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        "--for",
        required=True,
        dest="target",
        metavar="TARGET",
        help="raspberry-pi, jetson-orin, jetson-thor, gpu (x86), cpu (x86) or cpu-arm64",
    )
    parser.add_argument(
        "--jetpack",
        metavar="VERSION",
        help="of a Jetson: 6.1, 6.2 or 7.2 on Orin, 7.0 to 7.2 on Thor (default: 6.2 on Orin,"
        " 7.2 on Thor)",
    )
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="onnxruntime, tensorrt or tensorrt-rtx (default: tensorrt on a Jetson and for"
        " bundles quantized for it, else onnxruntime)",
    )
    parser.add_argument(
        "--wheels",
        type=Path,
        metavar="DIR",
        help="wheels to pack for a device without a network (made by pip download)",
    )
    parser.add_argument(
        "--service",
        action="store_true",
        help="add what 'seq2edge serve' needs and a systemd unit that runs it (7 MB installed)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="the archive: .tar.zst, .tar.gz or .tar; it unpacks into one folder of its name",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing archive")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.runtime.dependencies import needs

    with needs("pack", "export", "deploy"):
        from seq2edge.deploy import plan, write_pack
    from seq2edge.runtime import Bundle

    bundle = Bundle.open(options.bundle)
    deployment = plan(
        bundle,
        options.target,
        jetpack=options.jetpack,
        backend=options.backend,
        service=options.service,
    )
    with Progress() as progress:
        pack = write_pack(
            bundle,
            deployment,
            options.output,
            wheels=options.wheels,
            overwrite=options.force,
            progress=progress,
        )
    if bundle.manifest.tokenizer.kind == "none":
        warnings.warn(
            f"{bundle.directory} has no tokenizer: run.sh and the service, which take texts, cannot"
            " use it; a program of yours can, with generate_ids",
            stacklevel=2,
        )
    what = "TEXT" if bundle.manifest.speech is None else "AUDIO"
    lines = (
        f"{pack.path}: {human_bytes(pack.size)} for {deployment.place}, engine"
        f" {deployment.backend} on {deployment.device}",
        f"on the device: tar -xf {pack.path.name} && {pack.name}/install.sh &&"
        f" {pack.name}/run.sh {what}",
    )
    document = {"path": str(pack.path), "bytes": pack.size, **pack.manifest}
    return print_result(options, document, lines)
