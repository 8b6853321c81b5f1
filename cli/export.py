"""Export a Hugging Face checkpoint folder, or a state dict of a model of your own, to a bundle."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import add_force, add_json
from .output import human_bytes, human_parameters, human_seconds, print_result
from .progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seq2edge.export import ExportResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        help="folder that save_pretrained wrote, a folder of CTranslate2 (faster-whisper, Argos"
        " Translate), a LoRA adapter's folder, a training loop's .ckpt beside its config.json, or a"
        " model's id on the hub (google/flan-t5-small); with --module, a state dict (.pt or"
        " .safetensors)",
    )
    parser.add_argument("bundle", type=Path, help="folder to write")
    parser.add_argument(
        "--module",
        type=Path,
        metavar="FILE",
        help="TOML that says how a model of PyTorch's layers, or of your own, is put together"
        " (docs/pytorch.md)",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="with --module: a tokenizer.json (default: the bundle takes and gives token ids)",
    )
    parser.add_argument(
        "--revision", help="of a hub id: branch, tag or commit (default: its main branch)"
    )
    parser.add_argument(
        "--base",
        metavar="MODEL",
        help="of a LoRA adapter: the model that it was trained on (default: one in its folder, or"
        " what its adapter_config.json names)",
    )
    add_force(parser)
    parser.add_argument(
        "--validate",
        action=argparse.BooleanOptionalAction,
        help="compare the bundle with PyTorch, and its tokens of texts with the checkpoint's own"
        " tokenizer's (default: as far as torch and transformers are installed)",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    with Progress() as progress:
        result = _exported(options, progress)
    seconds = time.perf_counter() - start
    manifest, parity = result.manifest, result.parity
    size = sum(info.size for info in manifest.files.values())
    report: dict[str, Any] = {
        "bundle": str(result.path),
        "family": manifest.family,
        "source": dict(manifest.source),
        "parameters": manifest.parameters,
        "bytes": size,
        "seconds": round(seconds, 3),
        "parity": None if parity is None else _as_json(parity),
        "texts": None if result.texts is None else _as_json(result.texts),
    }
    lines = [
        f"{result.path}: {manifest.family}, {human_parameters(manifest.parameters)},"
        f" {human_bytes(size)}, {human_seconds(seconds)}",
        *([f"made of {described_source(manifest.source)}"] if manifest.source else []),
        *comparisons(report),
    ]
    return print_result(options, report, lines)


def comparisons(report: Mapping[str, Any]) -> list[str]:
    """How the bundle compares with its checkpoint, from the report that ``--json`` prints."""
    parity, texts = report["parity"], report["texts"]
    return [
        "not compared with PyTorch" if parity is None else f"same as PyTorch: {parity['summary']}",
        *([] if texts is None else [f"tokenizer as the checkpoint's own: {texts['summary']}"]),
    ]


def _exported(options: argparse.Namespace, progress: Progress) -> ExportResult:
    from seq2edge.runtime.dependencies import needs

    with needs("export", "export"):
        from seq2edge.export import CheckpointError, export_checkpoint, export_state_dict
    if options.module is not None:
        if options.base is not None or options.revision is not None:
            raise CheckpointError("--base and --revision are for Hugging Face checkpoints")
        return export_state_dict(
            options.checkpoint,
            options.module,
            options.bundle,
            tokenizer=options.tokenizer,
            overwrite=options.force,
            validate=options.validate,
            progress=progress,
        )
    if options.tokenizer is not None:
        raise CheckpointError("--tokenizer needs --module; a checkpoint's own is in its folder")
    return export_checkpoint(
        options.checkpoint,
        options.bundle,
        overwrite=options.force,
        validate=options.validate,
        progress=progress,
        revision=options.revision,
        base=options.base,
    )


def _as_json(comparison: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(comparison), "summary": comparison.summary()}


def described_source(source: Mapping[str, Any]) -> str:
    """A manifest's hub ids and commits, of the checkpoint and of an adapter's base model."""
    named = (("checkpoint", "commit", "{}"), ("base", "base_commit", "base {}"))
    return ", ".join(
        text.format(f"{source[name]} at {source[commit]}")
        for name, commit, text in named
        if name in source
    )
