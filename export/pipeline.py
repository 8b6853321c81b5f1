"""Checkpoint in, bundle out."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from seq2edge.runtime.bundle import BundleWriter, check_destination
from seq2edge.runtime.errors import MissingDependencyError
from seq2edge.runtime.manifest import Dimensions, Manifest, TokenizerInfo
from seq2edge.runtime.version import package_version

from .checkpoint import Checkpoint
from .families import find_family
from .generation import generation_defaults, special_tokens
from .graph import build_decoder, build_encoder, build_scores
from .serialize import Progress, parameter_shapes, write_graph, write_weights
from .spec import Seq2SeqSpec
from .tokenizers import TokenizerFile, find_tokenizer
from .validate import Parity, validate_bundle
from .weights import bind


@dataclass(frozen=True)
class ExportResult:
    """What was written: the bundle's folder, its manifest, and how it compares with PyTorch."""

    path: Path
    manifest: Manifest
    parity: Parity | None


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    validate: bool | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Export a Hugging Face folder to a bundle.

    Args:
        checkpoint: folder with config.json and weights.
        bundle: folder to write; it appears complete or not at all.
        overwrite: replace a bundle that is already there.
        validate: compare with PyTorch before the bundle is put in place; None: if torch and
            transformers are installed.
        progress: called with the stage, what is done of it and what there is to do.

    Raises:
        CheckpointError: the checkpoint cannot be read or does not fit its config.
        ParityError: the bundle does not compute what PyTorch computes; nothing is left.
        OutputExistsError, OutputError: the bundle cannot be written.
        MissingDependencyError: ``validate=True`` without torch, transformers or onnxruntime.
    """
    check_destination(Path(bundle), overwrite)
    validate = _can_validate(validate)
    with Checkpoint(checkpoint) as source, BundleWriter(bundle, overwrite=overwrite) as out:
        family, config = find_family(source.config)
        source.assume_prefix(family.prefix)
        spec = family.spec(config, source)
        encoder, decoder = build_encoder(spec), build_decoder(spec)
        shapes = parameter_shapes([encoder, decoder])
        weights = bind(family.rules(spec), shapes, source, family.ignored)
        tokens = special_tokens(source, config)
        tokenizer = _tokenizer(source.directory, spec)
        placed = write_weights(out, weights, progress)
        graphs = {
            "encoder": write_graph(out, "encoder", encoder, placed),
            "decoder": write_graph(out, "decoder", decoder, placed),
            "scores": write_graph(out, "scores", build_scores(spec), placed),
        }
        if tokenizer is not None and tokenizer.data is not None:
            out.write("tokenizer.json", tokenizer.data)
        manifest = Manifest(
            producer=f"seq2edge {package_version()}",
            family=spec.family,
            dimensions=_dimensions(spec),
            special_tokens=tokens,
            tokenizer=TokenizerInfo() if tokenizer is None else tokenizer.info,
            graphs=graphs,
            weights=placed,
            files=out.files(),
            generation=generation_defaults(source, config),
        )
        parity = None
        if validate:
            if progress is not None:
                progress("comparing with PyTorch", 0, 0)
            parity = validate_bundle(source.directory, out, manifest)
        out.commit(manifest)
    return ExportResult(Path(bundle), manifest, parity)


def _can_validate(wanted: bool | None) -> bool:
    missing = [name for name in ("torch", "transformers", "onnxruntime") if find_spec(name) is None]
    if wanted and missing:
        raise MissingDependencyError(
            f"validation needs {', '.join(missing)}: pip install 'seq2edge[torch,cpu]', or pass"
            " --no-validate"
        )
    return not missing if wanted is None else wanted


def _tokenizer(directory: Path, spec: Seq2SeqSpec) -> TokenizerFile | None:
    tokenizer = find_tokenizer(directory)
    if tokenizer is None:
        warnings.warn(
            f"{directory} has no tokenizer files: the bundle takes token ids (generate_ids),"
            " not text",
            stacklevel=3,
        )
    elif tokenizer.size > spec.vocab_size:
        warnings.warn(
            f"the tokenizer has {tokenizer.size} tokens and the model only {spec.vocab_size}:"
            " texts that use the others are refused",
            stacklevel=3,
        )
    return tokenizer


def _dimensions(spec: Seq2SeqSpec) -> Dimensions:
    return Dimensions(
        vocab_size=spec.vocab_size,
        d_model=spec.d_model,
        encoder_layers=spec.encoder.layers,
        decoder_layers=spec.decoder.layers,
        decoder_heads=spec.decoder.heads,
        decoder_head_dim=spec.decoder.head_dim,
        max_source_length=spec.max_source_length,
        max_target_length=spec.max_target_length,
    )
