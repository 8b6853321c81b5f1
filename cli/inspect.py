"""Show what a bundle contains: family, sizes, graphs, memory; --verify checks its hashes."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING, Any

from .arguments import add_bundle, add_json
from .export import described_source
from .output import human_bytes, print_result

if TYPE_CHECKING:
    from seq2edge.runtime import Bundle
    from seq2edge.runtime.bundle.speech_info import SpeechInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        "--verify", action="store_true", help="read every file and compare its SHA-256"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.runtime import Bundle

    bundle = Bundle.open(options.bundle, single_stack=("encoder", "decoder"))
    if options.verify:
        bundle.verify()
    report = describe(bundle)
    report["verified"] = options.verify
    return print_result(options, report, _lines(report))


def describe(bundle: Bundle) -> dict[str, Any]:
    """The facts that ``seq2edge inspect --json`` prints; sizes in bytes."""
    manifest = bundle.manifest
    dims = manifest.dimensions
    return {
        "bundle": str(bundle.directory),
        "format_version": manifest.format_version,
        "producer": manifest.producer,
        "source": dict(manifest.source),
        "family": manifest.family,
        "parameters": manifest.parameters,
        "bytes": bundle.size,
        "files": {name: info.size for name, info in manifest.files.items()},
        "encoder_layers": dims.encoder_layers,
        "decoder_layers": dims.decoder_layers,
        "d_model": dims.d_model,
        "vocab_size": dims.vocab_size,
        "source_vocab_size": dims.source_tokens,
        "max_source_length": dims.max_source_length,
        "max_target_length": dims.max_target_length,
        "tokenizer": manifest.tokenizer.kind,
        "tokenizer_origin": manifest.tokenizer.origin,
        "speech": None if manifest.speech is None else _speech(manifest.speech),
        "generation": dict(manifest.generation),
        "quantization": dict(manifest.quantization),
        "cache": manifest.cache,
        # Of an encoder-only model a text's, however long it is.
        "bytes_read_per_token": manifest.graphs[manifest.single_stack or "decoder"].weight_bytes,
        "cache_bytes_per_slot": manifest.cache_bytes_per_slot,
        "graphs": {
            name: {
                "opset": graph.opset,
                "precision": graph.precision,
                "operators": dict(graph.operators),
            }
            for name, graph in manifest.graphs.items()
        },
    }


def _speech(info: SpeechInfo) -> dict[str, Any]:
    return {
        "sampling_rate": info.sampling_rate,
        "mel_bins": info.mel_bins,
        "window_seconds": info.window_seconds,
        "languages": sorted(info.languages),
        "tasks": sorted(info.tasks),
        "timestamps": info.timestamp_begin is not None,
        "word_timestamps": bool(info.alignment_heads),
        "alignment_heads": [list(pair) for pair in info.alignment_heads],
    }


def _speech_lines(report: dict[str, Any]) -> list[str]:
    """What a bundle that hears takes and gives."""
    mels, seconds = report["mel_bins"], report["window_seconds"]
    window = "of any length" if seconds is None else f"in windows of {seconds:g} s"
    read = "the audio itself" if mels is None else f"{mels} mels"
    languages, tasks = report["languages"], report["tasks"]
    known = f"{len(languages)} languages: {', '.join(languages)}" if languages else "English only"
    times = "none"
    if report["timestamps"]:
        times = "of segments and of words" if report["word_timestamps"] else "of segments"
    return [
        f"speech        {report['sampling_rate']} Hz, {window}; the encoder reads {read}",
        *textwrap.wrap(known, 100, initial_indent=_INDENT, subsequent_indent=_INDENT),
        f"{_INDENT}tasks: {', '.join(tasks or ['transcribe'])}; times: {times}",
    ]


_INDENT = " " * 14


def _lines(report: dict[str, Any]) -> list[str]:
    limits = [
        "no fixed limit" if report[key] is None else f"at most {report[key]} tokens"
        for key in ("max_source_length", "max_target_length")
    ]
    sizes = f"vocabulary {report['vocab_size']}"
    if report["d_model"]:  # of functions of a user's own nobody knows them
        sizes = (
            f"{report['encoder_layers']} + {report['decoder_layers']} layers, width"
            f" {report['d_model']}, {sizes}"
        )
    origin, hears = report["tokenizer_origin"], report["speech"] is not None
    concatenates = report["cache"] == "concat"
    # The graphs of a folder of optimum's are not read before they are imported.
    unread = all(graph["opset"] == 0 for graph in report["graphs"].values())
    lines = [
        f"bundle        {report['bundle']} (format {report['format_version']},"
        f" {report['producer']})",
        f"family        {report['family']}: {sizes}",
        *([] if unread else [f"parameters    {report['parameters']:,}"]),
        f"size          {human_bytes(report['bytes'])}",
        *(f"              {name} {human_bytes(size)}" for name, size in report["files"].items()),
        *([] if hears else [f"source        {limits[0]}; target {limits[1]}"]),
        *(_speech_lines(report["speech"]) if hears else []),
        f"tokenizer     {report['tokenizer']}",
        *([f"              from {origin}"] if origin else []),
    ]
    if report["source"]:
        lines.append(f"made of       {described_source(report['source'])}")
    if unread:
        lines.append("graphs        not read; 'seq2edge import' makes a bundle that says more")
        return lines
    lines += [
        f"each token    reads {human_bytes(report['bytes_read_per_token'])} of weights",
        f"cache         {human_bytes(report['cache_bytes_per_slot'])} per slot"
        f" (one token of one sequence){', of which each step makes one' if concatenates else ''}",
    ]
    done = report["quantization"]
    if done:
        if done["target"] != "any":
            lines.append(f"quantized     {done['scheme']} for {done['target']}")
        if "opset_downgrade" in done:
            lines.append(f"downgraded    to operators of opset {done['opset_downgrade']['opset']}")
        lines += [
            f"              {count} layers: {weight_format}"
            for weight_format, count in done["summary"].items()
        ]
    for name, graph in report["graphs"].items():
        operators = ", ".join(f"{kind} {count}" for kind, count in graph["operators"].items())
        lines.append(f"{name:13} {graph['precision']}, opset {graph['opset']}: {operators}")
    if report["verified"]:
        lines.append("verified      every file has the SHA-256 that the manifest says")
    return lines
