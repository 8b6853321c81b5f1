"""Checkpoint in, bundle out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx_ir as ir

from seq2edge.runtime.bundle.manifest import (
    Dimensions,
    Manifest,
    SpecialTokens,
)
from seq2edge.runtime.bundle.reader import BundleWriter, check_destination
from seq2edge.runtime.bundle.speech_info import SpeechInfo
from seq2edge.runtime.bundle.tokenizer_info import TokenizerInfo
from seq2edge.runtime.bundle.version import package_version
from seq2edge.runtime.errors import MissingDependencyError
from seq2edge.runtime.progress import StageProgress

from .checkpoint import Checkpoint, ResolvedCheckpoint, merge_adapter, resolve_checkpoint
from .checkpoint.config_bounds import check_numbers
from .families import expected_names, find_family, tied_names
from .generation import generation_defaults, special_tokens, warn_of_unusable_options
from .graph import (
    build_alignment,
    build_decoder,
    build_encoder,
    build_features,
    build_logsumexp,
)
from .parity import Comparable, Parity, validate_bundle
from .serialize import parameter_shapes, write_graph, write_weights
from .spec import ModelSpec
from .tokenizers import TokenizerFile, vocabulary
from .tokenizers.comparison import TextComparison, compare_texts
from .tokenizers.pairs import find_tokenizers
from .weights import BoundWeight, bind, fold_attention_scale


@dataclass(frozen=True)
class ExportResult:
    """A written bundle: its folder, its manifest, and how it compares with PyTorch.

    ``texts`` is how its tokenizer compares with the checkpoint's own.
    """

    path: Path
    manifest: Manifest
    parity: Parity | None
    texts: TextComparison | None = None

    def __repr__(self) -> str:
        compared = "not compared with PyTorch" if self.parity is None else "same as PyTorch"
        return f"ExportResult({str(self.path)!r}, {self.manifest!r}, {compared})"


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    validate: bool | None = None,
    progress: StageProgress | None = None,
    revision: str | None = None,
    base: str | os.PathLike[str] | None = None,
) -> ExportResult:
    """Export a Hugging Face checkpoint to a bundle; a LoRA adapter is merged into its base model.

    Args:
        checkpoint: folder with config.json and weights, a folder of CTranslate2, a file of weights
            beside its config.json, a folder with a PEFT adapter, or a model's id on the hub.
        bundle: folder to write; it appears complete or not at all.
        overwrite: replace a bundle that is already there.
        validate: compare with PyTorch before the bundle is put in place, and texts with the
            checkpoint's own tokenizer; None: what torch and transformers are installed for.
        progress: called with the stage, what is done of it and what there is to do.
        revision: branch, tag or commit of a hub id; None: its main branch.
        base: of an adapter, the model that it was trained on: a folder or a hub id. None: a model
            in the same folder, or what its adapter_config.json names.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not fit its config.
        ParityError: the bundle does not compute what PyTorch computes, or reads texts otherwise;
            nothing is left.
        OutputExistsError, OutputError: the bundle cannot be written.
        MissingDependencyError: ``validate=True`` without torch, transformers or onnxruntime.
    """
    check_destination(Path(bundle), overwrite)
    reads_texts = can_validate(validate, ("transformers",))
    validate = can_validate(validate, ("torch", "transformers", "onnxruntime"))
    if isinstance(checkpoint, ResolvedCheckpoint):
        files = checkpoint
    else:
        files = resolve_checkpoint(checkpoint, revision, base, progress)
    with Checkpoint(files.base) as source, BundleWriter(bundle, overwrite=overwrite) as out:
        family, config = find_family(source.config)
        check_numbers(source.config, {name: source.shape(name) for name in source.names})
        source.rename_suffixes(family.old_suffixes)
        source.unwrap(expected_names(family, config, source).__contains__)
        source.assume_prefix(family.prefix)
        if files.adapter is not None:
            merge_adapter(files.adapter, source, tied_names(family, config, source))
        spec = family.spec(config, source)
        graphs = build_graphs(spec)
        tokenizer = _tokenizer(files, source, spec)
        content = Content(
            spec=spec,
            graphs=graphs,
            weights=bind(
                family.weight_map(spec), parameter_shapes(graphs.values()), source, family.ignored
            ),
            tokens=special_tokens(source, config, spec),
            tokenizer=tokenizer,
            generation=generation_defaults(source, config, hears=family.speech is not None),
            source=files.source,
            speech=None
            if family.speech is None
            else family.speech(spec, source, vocabulary(tokenizer)),
        )
        reads_texts &= source.of_transformers or files.adapter is not None
        texts = compare_texts(content.tokenizer) if reads_texts and content.tokenizer else None
        reference = None
        if validate:
            reference = partial(_run_transformers, source)
        return replace(write_bundle(out, content, reference, progress), texts=texts)


def _run_transformers(source: Checkpoint, manifest: Manifest) -> Comparable:
    """What transformers computes; torch is imported for it alone."""
    if manifest.speech is not None:
        from .speech_reference import run_speech

        return run_speech(source, manifest)
    from .transformers_reference import run_transformers

    return run_transformers(source, manifest)


@dataclass(frozen=True)
class Content:
    """All that goes into a bundle; ``weights`` fill the graphs' parameters when they are written.

    ``generation`` are defaults by the names of transformers' GenerationConfig; ``source`` is where
    it is from, for the manifest; ``speech`` is of a model that hears.
    """

    spec: ModelSpec
    graphs: Mapping[str, ir.Model]
    weights: Mapping[str, BoundWeight]
    tokens: SpecialTokens
    tokenizer: TokenizerFile | None
    generation: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    speech: SpeechInfo | None = None


def build_graphs(spec: ModelSpec) -> dict[str, ir.Model]:
    """The graphs of a bundle by name, none of their weights filled."""
    graphs = {}
    if spec.log_mel is not None:
        graphs["features"] = build_features(spec.log_mel)
    if spec.encoder is not None:
        graphs["encoder"] = build_encoder(spec, spec.encoder)
    if spec.decoder is not None:
        graphs["decoder"] = build_decoder(spec, spec.decoder)
        graphs["logsumexp"] = build_logsumexp(spec)
        if spec.alignment_heads:
            graphs["alignment"] = build_alignment(spec, spec.decoder)
    return graphs


def write_tokenizers(out: BundleWriter, tokenizer: TokenizerFile | None) -> TokenizerInfo | None:
    """Write a tokenizer's files; gives what is known of the one for outputs, if that is another."""
    if tokenizer is not None and tokenizer.data is not None:
        out.write("tokenizer.json", tokenizer.data)
    if tokenizer is None or tokenizer.target is None:
        return None
    if tokenizer.target.data is None:
        return tokenizer.target.info
    out.write("target_tokenizer.json", tokenizer.target.data)
    return replace(tokenizer.target.info, file="target_tokenizer.json")


def write_bundle(
    out: BundleWriter,
    content: Content,
    reference: Callable[[Manifest], Comparable] | None,
    progress: StageProgress | None,
) -> ExportResult:
    """Write ``content``, compare it with what ``reference`` computes (None: do not), commit it.

    Raises:
        ParityError: the bundle does not compute what PyTorch computes.
        OutputExistsError, OutputError: the bundle cannot be written.
    """
    weights = fold_attention_scale(content.weights, content.spec)
    placed = write_weights(out, weights, progress)
    graphs = {name: write_graph(out, name, model, placed) for name, model in content.graphs.items()}
    tokenizer = content.tokenizer
    target = write_tokenizers(out, tokenizer)
    manifest = Manifest(
        producer=f"seq2edge {package_version()}",
        family=content.spec.family,
        dimensions=_dimensions(content.spec),
        special_tokens=content.tokens,
        tokenizer=TokenizerInfo() if tokenizer is None else tokenizer.info,
        graphs=graphs,
        weights=placed,
        files=out.files(),
        generation=content.generation,
        source=content.source,
        speech=content.speech,
    )
    manifest = replace(manifest, target_tokenizer=target)
    warn_of_unusable_options(manifest)
    parity = None
    if reference is not None:
        if progress is not None:
            progress("comparing with PyTorch", 0, 0)
        parity = validate_bundle(reference(manifest), out, manifest)
    out.commit(manifest)
    return ExportResult(out.destination, manifest, parity)


def can_validate(validate: bool | None, packages: Sequence[str]) -> bool:
    """Whether to compare with PyTorch; None: if all of ``packages`` are installed.

    Raises:
        MissingDependencyError: it is wanted, and a package is missing.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if validate and missing:
        raise MissingDependencyError(
            f"validation needs {', '.join(missing)}: pip install {' '.join(missing)}, or pass"
            " --no-validate"
        )
    return not missing if validate is None else validate


def warn_of_unknown_tokens(tokenizer: TokenizerFile, spec: ModelSpec) -> None:
    """Warn if the tokenizer makes tokens that the model does not know."""
    if tokenizer.size > spec.source_rows:
        warnings.warn(
            f"the tokenizer has {tokenizer.size} tokens and the model only {spec.source_rows}:"
            " texts that use the others are refused",
            stacklevel=4,
        )


def _tokenizer(
    files: ResolvedCheckpoint, source: Checkpoint, spec: ModelSpec
) -> TokenizerFile | None:
    """The tokenizer of an adapter's folder, or else that of the model's."""
    directory = source.directory
    tokenizer = None if files.adapter is None else find_tokenizers(files.adapter)
    tokenizer = tokenizer or find_tokenizers(directory, source.config)
    if tokenizer is not None and tokenizer.target is None and spec.source_rows != spec.vocab_size:
        warnings.warn(
            f"{directory} has one tokenizer for two vocabularies: put the encoder's files into"
            " encoder/ and the decoder's into decoder/; the bundle takes and gives token ids",
            stacklevel=3,
        )
        return None
    if tokenizer is None:
        warnings.warn(
            f"{directory} has no tokenizer files: the bundle takes token ids (generate_ids),"
            " not text",
            stacklevel=3,
        )
    else:
        warn_of_unknown_tokens(tokenizer, spec)
    return tokenizer


def _dimensions(spec: ModelSpec) -> Dimensions:
    encoder, decoder = spec.encoder, spec.decoder
    return Dimensions(
        vocab_size=spec.vocab_size,
        d_model=spec.d_model,
        encoder_layers=0 if encoder is None else encoder.layers,
        decoder_layers=0 if decoder is None else decoder.layers,
        decoder_heads=0 if decoder is None else decoder.heads,
        decoder_head_dim=0 if decoder is None else decoder.head_dim,
        max_source_length=spec.max_source_length,
        max_target_length=spec.max_target_length,
        source_vocab_size=None if spec.source_rows == spec.vocab_size else spec.source_rows,
    )
