"""Argument types and options that several subcommands share."""

from __future__ import annotations

import argparse
import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seq2edge.runtime import Seq2SeqModel


def positive(text: str) -> int:
    """An integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="the bundle's folder")


def add_force(parser: argparse.ArgumentParser, text: str = "replace an existing bundle") -> None:
    parser.add_argument("--force", action="store_true", help=text)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_threads(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    parser.add_argument(
        "--threads",
        type=positive,
        nargs="+" if several else None,
        metavar="N",
        help="CPU threads (default: all cores, or 1 for a small model)",
    )


def add_special_tokens(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-special-tokens",
        action="store_true",
        help="keep special tokens in the texts: some models mark up their output with them",
    )


def add_device(parser: argparse.ArgumentParser, strict_also: str = "") -> None:
    """Add what runs a model, and where: :func:`device_options` reads it.

    Args:
        strict_also: what else ``--strict`` refuses, for its help.
    """
    parser.add_argument(
        "--backend",
        default="onnxruntime",
        metavar="NAME",
        help="onnxruntime (default), tensorrt or tensorrt-rtx (build its engines first), or"
        " onnxruntime-tensorrt",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="cpu or cuda (default: the engine's own; onnxruntime: cpu), or of an encoder on"
        " openvino cpu, gpu or npu",
    )
    add_encoder_backend(parser)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail if a part of the model would run on the CPU in place of the device"
        + strict_also,
    )


def add_encoder_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--encoder-backend",
        metavar="NAME",
        help="openvino: run the encoder there, and the rest with onnxruntime on the CPU ('bench'"
        " says which is faster on this machine)",
    )
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help="of an encoder on openvino: f32, bf16 or f16 (default: the device's own choice, bf16"
        " on CPUs that have it)",
    )


def device_options(options: argparse.Namespace) -> dict[str, Any]:
    """Keywords of ``Seq2SeqModel.load`` and ``load_backend`` (:func:`add_device`)."""
    names = ("backend", "device", "strict", "encoder_backend", "precision")
    return {name: getattr(options, name) for name in names}


def add_max_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-memory",
        type=memory_size,
        metavar="SIZE",
        help="refuse texts that would take more, such as 500M or 2G (default: what is free)",
    )


def memory_size(text: str) -> int:
    """Bytes of an amount such as 2G."""
    from seq2edge.runtime import InputError
    from seq2edge.runtime.backends.memory_budget import parse_size

    try:
        return parse_size(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def open_model(options: argparse.Namespace) -> Seq2SeqModel:
    """The bundle, on the engine and device that were asked for (:func:`add_device`)."""
    return _load(options.bundle, options)


def open_draft(options: argparse.Namespace) -> AbstractContextManager[Seq2SeqModel | None]:
    """The bundle of ``--draft`` on the same engine and device; None without one."""
    return nullcontext() if options.draft is None else _load(options.draft, options)


def _load(bundle: Path, options: argparse.Namespace) -> Seq2SeqModel:
    from seq2edge.runtime import Seq2SeqModel

    return Seq2SeqModel.load(
        bundle,
        **device_options(options),
        num_threads=options.threads,
        num_workers=getattr(options, "workers", 1),
        max_memory=getattr(options, "max_memory", None),
    )
