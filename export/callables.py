"""Export two functions of a user's own: ``encode`` and ``decode_step``, traced by PyTorch.

The other exports author their graphs (docs/design.md, section 5). This one is for models that
are neither a known family nor made of PyTorch's transformer layers: whatever the two functions
compute, ``torch.onnx.export`` turns into graphs. Their KV cache is concatenated.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from seq2edge.runtime.bundle.manifest import (
    CONCAT,
    MANIFEST_NAME,
    Dimensions,
    Manifest,
    SpecialTokens,
)
from seq2edge.runtime.bundle.reader import Bundle, BundleWriter, check_destination
from seq2edge.runtime.bundle.tokenizer_info import TokenizerInfo
from seq2edge.runtime.bundle.version import package_version
from seq2edge.runtime.dependencies import needs
from seq2edge.runtime.progress import StageProgress

from .concat_cache import count_parameters, describe_graph, publish
from .errors import CheckpointError, ParityError
from .pipeline import ExportResult, write_tokenizers
from .tokenizers import TokenizerFile, tokenizer_at

if TYPE_CHECKING:
    from .signatures import DecodeStep, Encode

_FAMILY = "callables"


@dataclass(frozen=True)
class CallableSizes:
    """Facts about a model that two functions do not show.

    Attributes:
        pasts: heads and head size of each past tensor, in their order; usually two per layer.
        vocab_size: V, tokens that the logits are over.
        source_vocab_size: tokens of sources; None: the same.
        max_source_length, max_target_length: tokens that there are positions for. None: the
            functions are tried with as many tokens as their tensors have rows, up to 4096, and
            the most that they take is the limit; if they take them all, there is none.
    """

    pasts: Sequence[tuple[int, int]]
    vocab_size: int
    source_vocab_size: int | None = None
    max_source_length: int | None = None
    max_target_length: int | None = None


def export_callables(
    encode: Encode,
    decode_step: DecodeStep,
    bundle: str | os.PathLike[str],
    *,
    sizes: CallableSizes,
    tokens: SpecialTokens,
    tokenizer: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: StageProgress | None = None,
) -> ExportResult:
    """Export a model that two functions describe.

    >>> def encode(input_ids, attention_mask):
    ...     return model.encoder(input_ids, attention_mask)
    >>> def decode_step(input_ids, pasts, cross, encoder_attention_mask):
    ...     logits, pasts = model.decoder(input_ids, pasts, cross[0], encoder_attention_mask)
    ...     return logits, pasts
    >>> sizes = CallableSizes(pasts=[(8, 64)] * 12, vocab_size=32000)
    >>> tokens = SpecialTokens(pad=0, decoder_start=0, eos=(1,))
    >>> export_callables(encode, decode_step, "my.bundle", sizes=sizes, tokens=tokens)

    B, S, T and Q may be any numbers: T is 0 in the first step, and Q is more than 1 only there (a
    prompt, in which no token may see those after it). A token's position is T plus its place.

    Args:
        encode: (input_ids [B, S] int64, attention_mask [B, S] int64, 1 where tokens count) to a
            tensor or several, of B rows each: what every step reads of the source.
        decode_step: (input_ids [B, Q] int64, pasts, cross, encoder_attention_mask [B, S] int64)
            to logits [B, Q, V] and new pasts. ``pasts`` are tensors [B, H, T, Dh], and the new
            ones [B, H, T + Q, Dh]: the old ones with Q rows appended. ``cross`` is what
            ``encode`` gave, always as a tuple.
        bundle: folder to write; it appears complete or not at all.
        sizes: of the cache and of the vocabulary.
        tokens: padding, decoder start and end tokens.
        tokenizer: a tokenizer.json, or a folder that has one. None: the bundle takes and gives
            token ids.
        overwrite: replace a bundle that is already there.
        progress: called with the stage, what is done of it and what there is to do.

    Both functions may be modules, methods of modules, or functions that use modules; these are
    put in evaluation mode for as long as it takes.

    Raises:
        CheckpointError: functions that give something else, that PyTorch cannot trace for any
            B, S, T and Q, or that take fewer tokens than ``sizes`` says.
        ParityError: the graphs do not compute what the functions do; nothing is left.
        OutputExistsError, OutputError: the bundle cannot be written.
        MissingDependencyError: no torch, or no onnxruntime.
    """
    with needs("export_callables", "export", "torch", "cpu"):
        import onnxruntime  # noqa: F401  (what is traced is always compared)

        from .length_limits import source_limit, target_limit
        from .tracing import Functions, compare, trace
    check_destination(Path(bundle), overwrite)
    _check(sizes, tokens)
    text = None if tokenizer is None else tokenizer_at(Path(tokenizer))
    functions = Functions(encode, decode_step, tuple((h, d) for h, d in sizes.pasts))
    with functions.evaluating(), BundleWriter(bundle, overwrite=overwrite) as out:
        if progress is not None:
            progress("tracing", 0, 0)
        source_tokens = sizes.source_vocab_size or sizes.vocab_size
        models = trace(functions, sizes.vocab_size, source_tokens)
        if progress is not None:
            progress("trying lengths", 0, 0)
        sizes = replace(
            sizes,
            max_source_length=source_limit(
                functions, models, source_tokens, sizes.max_source_length
            ),
            max_target_length=target_limit(
                functions, models, sizes.vocab_size, sizes.max_target_length
            ),
        )
        manifest = _write(out, models, sizes, tokens, text)
        if progress is not None:
            progress("comparing with the functions", 0, 0)
        out.write(MANIFEST_NAME, manifest.to_bytes())
        parity = compare(functions, Bundle.open(out.directory))
        if not parity.ok:
            raise ParityError(
                f"the graphs differ from the functions: {parity.summary()}; nothing was written."
                " A number that the functions take from a shape and use as a plain Python number"
                " may be why"
            )
        publish(out, manifest)
        return ExportResult(out.destination, manifest, parity)


def _check(sizes: CallableSizes, tokens: SpecialTokens) -> None:
    if not sizes.pasts or not all(h > 0 and d > 0 for h, d in sizes.pasts):
        raise CheckpointError("sizes.pasts must have heads and head size of each past tensor")
    if not tokens.eos:
        raise CheckpointError("there is no end token: give at least one")
    source = sizes.source_vocab_size or sizes.vocab_size
    target = [tokens.decoder_start, *tokens.eos]
    outside = [token for token in target if not 0 <= token < sizes.vocab_size]
    outside += [tokens.pad] if not 0 <= tokens.pad < min(source, sizes.vocab_size) else []
    if outside:
        raise CheckpointError(f"special tokens {outside} lie outside the vocabulary")


def _write(
    out: BundleWriter,
    models: dict[str, ir.Model],
    sizes: CallableSizes,
    tokens: SpecialTokens,
    tokenizer: TokenizerFile | None,
) -> Manifest:
    """Write graphs, their weights and the tokenizer; the manifest that goes with them."""
    graphs = {}
    for name, model in models.items():
        file = f"{name}.onnx"
        graphs[name] = describe_graph(model, file)
        ir.save(model, out.directory / file, external_data=f"{file}_data")
    target = write_tokenizers(out, tokenizer)
    heads, head_dim = sizes.pasts[0]
    limit = sizes.max_target_length
    manifest = Manifest(
        producer=f"seq2edge {package_version()}",
        family=_FAMILY,
        dimensions=Dimensions(
            vocab_size=sizes.vocab_size,
            source_vocab_size=sizes.source_vocab_size,
            d_model=0,  # not known, as the encoder's layers
            encoder_layers=0,
            decoder_layers=len(sizes.pasts) // 2,
            decoder_heads=heads,
            decoder_head_dim=head_dim,
            max_source_length=sizes.max_source_length,
            max_target_length=limit,
        ),
        special_tokens=tokens,
        tokenizer=TokenizerInfo() if tokenizer is None else tokenizer.info,
        graphs=graphs,
        weights={},
        files=out.files(),
        # Without it generation would stop at the runtime's own, short limit.
        generation={} if limit is None else {"max_length": limit},
        cache=CONCAT,
        parameter_count=count_parameters(models.values()),
    )
    return replace(manifest, target_tokenizer=target)
