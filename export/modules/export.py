"""Module or state dict in, bundle out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from seq2edge.runtime.bundle.manifest import Manifest, SpecialTokens
from seq2edge.runtime.bundle.reader import BundleWriter, check_destination
from seq2edge.runtime.dependencies import needs
from seq2edge.runtime.progress import StageProgress

from ..checkpoint import Checkpoint
from ..parity import Reference
from ..pipeline import (
    Content,
    ExportResult,
    build_graphs,
    can_validate,
    warn_of_unknown_tokens,
    write_bundle,
)
from ..serialize import parameter_shapes
from ..tokenizers import tokenizer_at
from ..weights import bind
from .architecture import Architecture, read_architecture
from .description import read_description
from .parts import ModuleDescription, ModuleParts
from .tensors import StateDict, file_tensors, module_tensors, own_module

if TYPE_CHECKING:
    import torch

    from .reference import Forward

_PACKAGES = ("torch", "onnxruntime")
Run = Callable[[ModuleDescription, Architecture, Checkpoint, Manifest], Reference]


def export_module(
    model: torch.nn.Module,
    bundle: str | os.PathLike[str],
    *,
    parts: ModuleParts,
    tokens: SpecialTokens,
    tokenizer: str | os.PathLike[str] | None = None,
    forward: Forward | None = None,
    overwrite: bool = False,
    validate: bool | None = None,
    progress: StageProgress | None = None,
) -> ExportResult:
    """Export a module: PyTorch's own transformer layers, or hand-written ones with their names.

    >>> parts = ModuleParts(
    ...     encoder="transformer.encoder", decoder="transformer.decoder",
    ...     source_embedding="src_embed", target_embedding="tgt_embed", generator="generator",
    ...     positions=PositionalEncoding("sinusoidal", table="positions.pe"),
    ...     embedding_scale="sqrt(d_model)",
    ... )
    >>> export_module(model, "my.bundle", parts=parts, tokens=SpecialTokens(0, 1, (2,)))

    Args:
        model: the module; it is read and not changed.
        bundle: folder to write; it appears complete or not at all.
        parts: where embeddings, stacks, positions and output projection are.
        tokens: padding, decoder start and end tokens. Padding must be in both vocabularies.
        tokenizer: a tokenizer.json, or a folder that has one; it encodes sources and decodes
            targets. None: the bundle takes and gives token ids.
        forward: the model's own computation, (source [B, S] int64, padding [B, S] bool, True
            where it is, target [B, T] int64) to logits [B, T, V]; the bundle is compared with
            it. None: with layers put together as ``parts`` says, which cannot show that
            ``parts`` itself is wrong (a warning, where the layers are hand-written).
        overwrite: replace a bundle that is already there.
        validate: compare before the bundle is put in place; None: if onnxruntime is installed.
        progress: called with the stage, what is done of it and what there is to do.

    Raises:
        CheckpointError: a part that is missing or not supported, or a tensor that no part uses.
        ParityError: the bundle does not compute what PyTorch computes; nothing is left.
        OutputExistsError, OutputError: the bundle cannot be written.
        MissingDependencyError: no torch, or ``validate=True`` without onnxruntime.
    """
    with needs("export_module", "torch"):
        from .inspection import describe
    check_destination(Path(bundle), overwrite)
    if parts.hand_written and forward is None and validate is not False:
        warnings.warn(
            "without forward= the bundle is compared with the layers that parts describes, and"
            f" not with what the {type(model).__name__} computes",
            stacklevel=2,
        )
    run = _runner(validate, None if forward is None else (model, forward))
    own = own_module(model)
    source = _Source(describe(own, parts), tokens, module_tensors(own, parts), run)
    return _export(source, bundle, tokenizer, overwrite, progress)


def export_state_dict(
    state_dict: str | os.PathLike[str],
    description: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    validate: bool | None = None,
    progress: StageProgress | None = None,
) -> ExportResult:
    """Export a saved state dict that a TOML file describes; the model's code is not needed.

    Args:
        state_dict: what ``torch.save(model.state_dict(), ...)`` wrote (read with
            ``weights_only=True``), or a safetensors file, which needs no torch.
        description: see docs/pytorch.md.
        bundle: as of :func:`export_module`.
        tokenizer: as of :func:`export_module`.
        overwrite: as of :func:`export_module`.
        progress: as of :func:`export_module`.
        validate: compare with PyTorch's layers put together as the description says; None: if
            torch and onnxruntime are installed.

    Raises:
        CheckpointError: a file that cannot be read, or tensors that do not fit the description.
        ParityError, OutputExistsError, OutputError: as of :func:`export_module`.
        MissingDependencyError: a package that is needed is not installed.
    """
    check_destination(Path(bundle), overwrite)
    run = _runner(validate, None)
    described, tokens = read_description(Path(description))
    source = _Source(described, tokens, file_tensors(Path(state_dict), described.parts), run)
    return _export(source, bundle, tokenizer, overwrite, progress)


@dataclass(frozen=True)
class _Source:
    """What is exported, and how to run it; ``tensors`` is not opened yet."""

    description: ModuleDescription
    tokens: SpecialTokens
    tensors: StateDict
    run: Run | None


def _runner(validate: bool | None, own: tuple[torch.nn.Module, Forward] | None) -> Run | None:
    """How to run PyTorch for the comparison; None: there is to be none."""
    if not can_validate(validate, _PACKAGES):
        return None
    from .reference import run_module

    return partial(run_module, own)


def _export(
    source: _Source,
    bundle: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str] | None,
    overwrite: bool,
    progress: StageProgress | None,
) -> ExportResult:
    text = None if tokenizer is None else tokenizer_at(Path(tokenizer))
    with source.tensors as tensors, BundleWriter(bundle, overwrite=overwrite) as out:
        architecture = read_architecture(source.description, tensors)
        spec = architecture.spec
        if text is not None:
            warn_of_unknown_tokens(text, spec)
        graphs = build_graphs(spec)
        content = Content(
            spec=spec,
            graphs=graphs,
            weights=bind(
                architecture.rules,
                parameter_shapes(graphs.values()),
                tensors,
                source.description.parts.ignored,
                "its description",
                [*architecture.problems, *_token_problems(source.tokens, architecture, tensors)],
            ),
            tokens=source.tokens,
            tokenizer=text,
            # Without it generation would stop at the runtime's own, short limit.
            generation={"max_length": spec.max_target_length} if spec.max_target_length else {},
        )
        reference = None
        if source.run is not None:
            reference = partial(source.run, source.description, architecture, tensors)
        return write_bundle(out, content, reference, progress)


def _token_problems(
    tokens: SpecialTokens, architecture: Architecture, tensors: Checkpoint
) -> list[str]:
    """What is wrong with the special tokens; nothing of a table that is missing itself."""
    spec, layout = architecture.spec, architecture.layout
    problems = [] if tokens.eos else ["there is no end token: give at least one"]
    special = (tokens.pad, tokens.decoder_start, *tokens.eos)
    outside = [token for token in special if not 0 <= token < spec.vocab_size]
    if outside and layout.target in tensors.names:
        problems.append(
            f"special tokens {outside} lie outside the target vocabulary of {spec.vocab_size}"
        )
    if tokens.pad >= spec.source_rows and layout.source in tensors.names:
        problems.append(
            f"the padding token {tokens.pad} lies outside the source vocabulary of"
            f" {spec.source_rows}; it must be in both"
        )
    return problems
