"""From a checkpoint to what a device installs: export, quantize, downgrade and pack, in one go.

Every step is a command of its own, which is shown. Its result is kept in a folder beside the
output, and a step is only run again if something that it depends on has changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..arguments import add_json, positive
from ..texts import add_encoding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="as for seq2edge export: a folder, or a hub id")
    parser.add_argument(
        "--for",
        required=True,
        dest="target",
        metavar="TARGET",
        help="cpu (x86), raspberry-pi, jetson-orin, jetson-thor, gpu (x86) or another target of"
        " seq2edge pack",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="PATH",
        help="the archive (.tar.zst, .tar.gz, .tgz or .tar); any other name becomes a folder",
    )
    _add_source(parser)
    _add_scheme(parser)
    _add_device(parser)
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="where results of steps are kept (default: OUTPUT's name with .make, beside it)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the steps without running them"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace an output that this command did not write"
    )
    add_json(parser)


def _add_source(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("checkpoint", "options of seq2edge export")
    group.add_argument("--revision", help="of a hub id: branch, tag or commit")
    group.add_argument("--base", metavar="MODEL", help="of a LoRA adapter: its base model")
    group.add_argument(
        "--validate",
        action=argparse.BooleanOptionalAction,
        help="compare the bundle with PyTorch (default: if torch and transformers are installed)",
    )


def _add_scheme(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("quantization", "options of seq2edge quantize")
    group.add_argument(
        "--scheme",
        default="auto",
        metavar="NAME",
        help="a scheme of seq2edge quantize, float32 for none, or auto (default): what the doctor"
        " advises for the target, and a more exact one if that loses too much",
    )
    group.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="text like the model's input, one per line (of a model that hears speech: a"
        " recording): used for calibration and to measure quality",
    )
    group.add_argument(
        "--data", type=Path, metavar="FILE", help="examples with targets (see seq2edge eval)"
    )
    group.add_argument("--metric", metavar="NAME", help="what to measure on --data")
    group.add_argument(
        "--limit", type=positive, metavar="N", help="only the first N examples of --data"
    )
    group.add_argument(
        "--max-drop",
        type=float,
        metavar="X",
        help="the largest loss allowed, in points of the metric",
    )
    add_encoding(group)


def _add_device(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("device", "options of seq2edge pack")
    group.add_argument("--jetpack", metavar="VERSION", help="of a Jetson")
    group.add_argument(
        "--backend",
        metavar="NAME",
        help="onnxruntime, tensorrt or tensorrt-rtx (default: what the doctor advises)",
    )
    group.add_argument(
        "--wheels", type=Path, metavar="DIR", help="wheels for a device without a network"
    )
    group.add_argument(
        "--service", action="store_true", help="with a systemd unit that answers over HTTP"
    )


def run(options: argparse.Namespace) -> int:
    from .pipeline import make

    return make(options)
