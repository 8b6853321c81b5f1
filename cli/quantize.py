"""Write a quantized copy of a bundle, and say what was done to its layers."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import add_force, add_json
from .mixed_precision import add_max_drop, quantize_within_max_drop, table
from .output import human_bytes, human_seconds, print_result
from .progress import Progress
from .texts import add_encoding

if TYPE_CHECKING:
    from seq2edge.quantize import Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a float32 bundle")
    parser.add_argument("out", type=Path, help="the bundle to write")
    parser.add_argument(
        "--scheme",
        required=True,
        metavar="NAME",
        help="fp32 (lowering alone), fp16, bf16, int8, int8-dynamic, int8-qdq or int4",
    )
    parser.add_argument(
        "--target",
        default="cpu",
        metavar="NAME",
        help="what it will run on: cpu, cuda or tensorrt (default: cpu)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="text that the model will meet, one per line (or .jsonl with a source), or a saved"
        " calibration; needed by int8-qdq and gptq, and by fp16 to find out what overflows. The"
        " result is compared with the float32 bundle on it (without: on random prompts). For a"
        " bundle that hears speech, recordings (without: a synthetic voice)",
    )
    parser.add_argument(
        "--save-calibration", type=Path, metavar="FILE", help="keep the calibration for later"
    )
    parser.add_argument(
        "--block-size",
        type=block_size,
        default="auto",
        metavar="N",
        help="weights that share a scale, at most: 16, 32, 64, 128 or 256; auto (default): 128,"
        " and if the result is too far from the float32 bundle 32, then 16 (128 with --max-drop or"
        " --no-check)",
    )
    parser.add_argument(
        "--algorithm",
        metavar="NAME",
        help="how int4 weights are rounded: rtn (default), k-quant or gptq",
    )
    parser.add_argument(
        "--symmetric",
        action=argparse.BooleanOptionalAction,
        help="int4 blocks without zero points (default: with rtn, and for tensorrt)",
    )
    parser.add_argument(
        "--head-bits",
        type=int,
        metavar="N",
        help="8 (default) or 4: bits of int4's head and embedding",
    )
    parser.add_argument(
        "--method",
        metavar="NAME",
        help="how int8-qdq chooses ranges: percentile (default), entropy, or minmax (with"
        " --smoothquant always)",
    )
    parser.add_argument(
        "--smoothquant",
        type=float,
        metavar="ALPHA",
        help="move outliers of int8-qdq's inputs into weights, 0 to 1, as SmoothQuant does",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="layers to leave as they are, such as 'decoder.layers.0.*' (may be repeated)",
    )
    parser.add_argument(
        "--no-check",
        action="store_true",
        help="do not compare the result with the float32 bundle",
    )
    add_encoding(parser)
    add_max_drop(parser)
    add_force(parser)
    parser.add_argument(
        "--lowering",
        action=argparse.BooleanOptionalAction,
        help="for the CPU and for cuda: write the decoder also in the form that newer onnxruntimes"
        " run faster there; older ones take the other (default: where it can be)",
    )
    parser.add_argument(
        "--two-stage-head",
        action=argparse.BooleanOptionalAction,
        help="there, let 4 bits propose the 64 tokens that greedy decoding chooses from, which no"
        " proof says holds the right one; where it is asked for, the comparison says how near that"
        " was (default: for large heads of speech)",
    )
    parser.add_argument(
        "--int8-cross-kv",
        action=argparse.BooleanOptionalAction,
        help="there, let the encoder give the decoder's cross-attention keys and values in int8: a"
        " faster step where sources have 256 tokens or more (default: for speech)",
    )
    parser.add_argument(
        "--int8-attention",
        action=argparse.BooleanOptionalAction,
        help="there, let the encoder compute attention over 256 positions and more in int8"
        " (default: for text, where the comparison allows it; of speech it may cost words)",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.runtime.dependencies import needs

    with needs("quantize", "export", "cpu"):
        from seq2edge.quantize import quantize_request
    request = _request(options)
    start = time.perf_counter()
    mixed = None
    with Progress() as progress:
        request = replace(request, progress=progress)
        if options.max_drop is None:
            result = quantize_request(request)
        else:
            mixed = quantize_within_max_drop(request, options)
            result = mixed.result
    seconds = time.perf_counter() - start
    done = result.manifest.quantization
    report = {"bundle": str(result.path), "bytes": result.bytes, "seconds": seconds, **done}
    sizes = f"{human_bytes(result.bytes)}, {human_seconds(seconds)}"
    lines = [
        *([] if mixed is None else table(mixed, options)),
        f"{result.path}: {done['scheme']} for {done['target']}, {sizes}",
        *(f"{count:5} layers: {form}" for form, count in done["summary"].items()),
        *_lowering(done),
        *_float32_values(done),
        *_block_sizes(done),
        result.check.describe(),
    ]
    return print_result(options, report, lines)


def block_size(text: str) -> int | None:
    """A number, or None for ``auto``; which numbers there are, quantize says."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto") from None


def _request(options: argparse.Namespace) -> Request:
    from seq2edge.quantize import CalibrationFiles, Options, QuantizationError, Request

    if options.save_calibration is not None and options.calibration is None:
        raise QuantizationError("--save-calibration needs --calibration")
    if options.max_drop is None and (options.data or options.metric or options.limit):
        raise QuantizationError("--data, --metric and --limit mean nothing without --max-drop")
    if options.max_drop is not None and not (options.data and options.metric):
        raise QuantizationError("--max-drop needs --data and --metric to measure with")
    names = (
        "block_size",
        "symmetric",
        "algorithm",
        "head_bits",
        "method",
        "smoothquant",
        "lowering",
        "two_stage_head",
        "int8_cross_kv",
        "int8_attention",
    )
    calibration = None
    if options.calibration is not None:
        calibration = CalibrationFiles(
            tuple(options.calibration), options.save_calibration, options.encoding_errors
        )
    return Request(
        options.bundle,
        options.out,
        options.scheme,
        options.target,
        Options(**{name: getattr(options, name) for name in names}),
        calibration,
        exclude=tuple(options.exclude),
        overwrite=options.force,
        check=not options.no_check,
    )


def _lowering(done: Mapping[str, Any]) -> Iterator[str]:
    """What ONNX Runtime runs on the target in place of the graphs that all share."""
    lowered = done.get("lowering", {})
    device = "CUDA" if done.get("target") == "cuda" else "the CPU"
    if "graphs" in lowered:
        names = ", ".join(lowered["graphs"])
        yield f"lowered for onnxruntime >= {lowered['onnxruntime']} on {device}: {names}"
        if lowered.get("head", "whole") != "whole":
            yield f"head: {lowered['head']}"
        if "attention" in lowered:
            yield f"encoder's attention over long sources: {lowered['attention']}"
        measured = lowered.get("long_sources")
        if measured is not None:
            yield (
                f"      KL mean {_distance_of(measured['mean_kl'])} at {measured['positions']}"
                f" positions after sources of {measured['source_tokens']} tokens, and"
                f" {_distance_of(measured['mean_kl_without'])} without int8"
            )
        found = lowered.get("proposals")
        if found is not None:
            yield (
                f"      its choice was the {found['worst']}. of them at worst, at"
                f" {found['positions']} positions (two stages are for at most the"
                f" {found['lowest_allowed']}.)"
            )
    elif lowered:
        yield f"not lowered for {device}: {lowered['refused']}"


def _block_sizes(done: Mapping[str, Any]) -> Iterator[str]:
    """Which block size was chosen, where more than one was tried."""
    if "block_sizes" not in done:
        return
    chosen, tried = done["block_sizes"]["chosen"], done["block_sizes"]["tried"]
    measured = ", ".join(f"{_distance(check)} with {size}" for size, check in tried.items())
    yield f"blocks of {chosen}, chosen by {measured}"


def _distance(check: Mapping[str, Any]) -> str:
    name, key = ("cosine", "mean_cosine") if "mean_cosine" in check else ("mean KL", "mean_kl")
    return f"{name} {_distance_of(check[key])}"


def _distance_of(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.3g}"


def _float32_values(done: Mapping[str, Any]) -> Iterator[str]:
    """Values that stayed in float32 because they overflow float16, and how that was decided."""
    if done.get("compute") != "float16":
        return
    count = sum(len(names) for names in done["float32_values"].values())
    if "calibration" in done:
        seen = done["calibration"]
        yield f"{count:5} values in float32: too large for float16 over {seen['texts']} texts"
    else:
        yield (
            f"{count:5} values in float32: the residual stream, in case float16 overflows;"
            " --calibration finds out whether it does"
        )
