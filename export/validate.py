"""Run PyTorch beside the bundle: encoder outputs, decoder logits, greedy tokens.

Only this module and ``.bin`` checkpoints need torch. PyTorch runs first and is freed before
the bundle is loaded, so that the two are never in memory together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.bundle import Bundle, BundleWriter
from seq2edge.runtime.decoding import GenerationConfig
from seq2edge.runtime.engines import Step
from seq2edge.runtime.engines.onnxruntime import OnnxRuntimeEngine
from seq2edge.runtime.manifest import MANIFEST_NAME, WEIGHTS_NAME, Manifest
from seq2edge.runtime.model import Seq2SeqModel

from .errors import ParityError

#: Largest |difference| that passes for float32 rounding, for values up to 10; it grows in
#: proportion above that. A wrong graph is off by orders of magnitude more; models built from
#: configs stay below 2e-4, but rounding grows with depth and with the size of the weights.
TOLERANCE = 1e-3
_TOLERANCE_RANGE = 10.0
_INPUTS = 10
_SOURCE_TOKENS = 48
_TARGET_TOKENS = 16
_NEW_TOKENS = 24
_SEED = 20


@dataclass(frozen=True)
class Difference:
    """|bundle - PyTorch| over all elements, and the largest |PyTorch| among them."""

    maximum: float
    mean: float
    scale: float

    @property
    def tolerated(self) -> float:
        return TOLERANCE * max(1.0, self.scale / _TOLERANCE_RANGE)

    @property
    def ok(self) -> bool:
        return self.maximum <= self.tolerated  # False for NaN as well


@dataclass(frozen=True)
class Parity:
    """How the bundle compares with PyTorch.

    Attributes:
        encoder: cross-attention keys and values of all layers.
        decoder: logits, teacher-forced.
        inputs: sources that were decoded greedily, as one padded batch.
        exact: of these, how many gave the same tokens.
        ties: of the others, how many parted where PyTorch's two best logits lay within the
            tolerance of each other.
    """

    encoder: Difference
    decoder: Difference
    inputs: int
    exact: int
    ties: int

    @property
    def ok(self) -> bool:
        return self.encoder.ok and self.decoder.ok and self.exact + self.ties == self.inputs

    def summary(self) -> str:
        ties = f" ({self.ties} parted at a tie)" if self.ties else ""
        return (
            f"encoder max |diff| {self.encoder.maximum:.2e}, mean {self.encoder.mean:.2e};"
            f" decoder logits max |diff| {self.decoder.maximum:.2e}, mean"
            f" {self.decoder.mean:.2e}; greedy tokens identical on {self.exact} of"
            f" {self.inputs} inputs{ties}"
        )


@dataclass(frozen=True)
class Inputs:
    """Random sources of mixed lengths [B, S], their mask, and decoder tokens [B, Q]."""

    input_ids: NDArray[np.int64]
    mask: NDArray[np.bool_]
    decoder_ids: NDArray[np.int64]


@dataclass(frozen=True)
class Reference:
    """What PyTorch computed; shapes as in :mod:`seq2edge.runtime.engines.base`.

    ``tokens`` are greedy decoding's, without the start token and with the end token.
    """

    inputs: Inputs
    states: NDArray[np.float32]  # [B, S, D]
    logits: NDArray[np.float32]  # [B, Q, V]
    tokens: list[list[int]]
    gaps: NDArray[np.float32]  # [B, steps], best minus second-best logit


def validate_bundle(reference: Reference, out: BundleWriter, manifest: Manifest) -> Parity:
    """Compare the bundle that ``out`` is about to commit with what PyTorch computed.

    Raises:
        ParityError: a difference beyond float32 rounding, or other greedy tokens.
    """
    out.write(MANIFEST_NAME, manifest.to_bytes())
    parity = compare(out.directory, reference)
    if not parity.ok:
        raise ParityError(
            f"the bundle differs from PyTorch: {parity.summary()}; allowed:"
            f" {parity.encoder.tolerated:.1e} and {parity.decoder.tolerated:.1e}, same tokens."
            " Nothing was written. If the tokens agree, rounding in a model with large weights"
            " may be why: --no-validate exports it all the same"
        )
    return parity


def compare(directory: Path, reference: Reference) -> Parity:
    """Run the bundle in ``directory`` on the reference's inputs."""
    bundle = Bundle.open(directory)
    engine = OnnxRuntimeEngine(bundle)
    encoder = _compare_encoder(bundle, engine, reference)
    decoder = _compare_decoder(bundle, engine, reference)
    with Seq2SeqModel(bundle, engine, None) as model:
        inputs, options = reference.inputs, greedy_options(bundle.manifest)
        found = model.generate_ids(inputs.input_ids, inputs.mask, options)
    exact = ties = 0
    for row, (ours, theirs) in enumerate(zip(found, reference.tokens, strict=True)):
        if ours.token_ids == theirs:
            exact += 1
            continue
        parted = next(
            (i for i, (a, b) in enumerate(zip(ours.token_ids, theirs, strict=False)) if a != b),
            None,
        )
        if parted is not None and reference.gaps[row, parted] <= 2 * decoder.tolerated:
            ties += 1
    return Parity(encoder, decoder, len(found), exact, ties)


def run_transformers(checkpoint: Path, manifest: Manifest) -> Reference:
    """Load a checkpoint with transformers and run it.

    Raises:
        ParityError: transformers cannot load it.
    """
    import torch
    from transformers import AutoModelForSeq2SeqLM
    from transformers import GenerationConfig as TorchConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(
            checkpoint, attn_implementation="eager", dtype=torch.float32, local_files_only=True
        ).eval()
    except Exception as error:  # transformers raises many classes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ParityError(
            f"transformers cannot load {checkpoint}, so the bundle cannot be compared ({reason});"
            " pass --no-validate to export without the comparison"
        ) from None
    inputs = make_inputs(manifest, manifest.dimensions.vocab_size)
    special, options = manifest.special_tokens, greedy_options(manifest)
    model.generation_config = TorchConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=options.max_new_tokens,
        pad_token_id=special.pad,
        eos_token_id=list(special.eos),
        decoder_start_token_id=special.decoder_start,
        forced_bos_token_id=options.forced_bos_token_id,
        forced_eos_token_id=options.forced_eos_token_id,
    )
    arguments = {
        "input_ids": torch.tensor(inputs.input_ids),
        "attention_mask": torch.tensor(inputs.mask).long(),
    }
    with torch.inference_mode():
        states = model.get_encoder()(**arguments).last_hidden_state
        targets = torch.tensor(inputs.decoder_ids)
        logits = model(**arguments, decoder_input_ids=targets, use_cache=False).logits
        generated = model.generate(
            **arguments,
            return_dict_in_generate=True,
            output_logits=True,
            # transformers 5 sizes T5's cache by the encoder's depth: a deeper decoder fails.
            use_cache=manifest.dimensions.decoder_layers <= manifest.dimensions.encoder_layers,
        )
        top = [step.topk(2, dim=-1).values for step in generated.logits]
    return Reference(
        inputs=inputs,
        states=states.numpy(),
        logits=logits.numpy(),
        tokens=[until_end(row, special.eos) for row in generated.sequences[:, 1:].tolist()],
        gaps=torch.stack([values[:, 0] - values[:, 1] for values in top], dim=1).numpy(),
    )


def make_inputs(manifest: Manifest, source_vocab_size: int) -> Inputs:
    """What every bundle is compared on; always the same for the same sizes and tokens."""
    generator = np.random.default_rng(_SEED)
    dims, special = manifest.dimensions, manifest.special_tokens
    longest = min(_SOURCE_TOKENS, dims.max_source_length or _SOURCE_TOKENS)
    target = min(_TARGET_TOKENS, dims.max_target_length or _TARGET_TOKENS)
    special_ids = [special.pad, special.decoder_start, *special.eos]
    words = _ordinary(source_vocab_size, special_ids)
    lengths = np.linspace(min(2, longest), longest, _INPUTS).astype(int)
    input_ids = np.full((_INPUTS, longest), special.pad, np.int64)
    for row, length in enumerate(lengths):
        input_ids[row, :length] = generator.choice(words, length)
        if special.eos[0] < source_vocab_size:
            input_ids[row, length - 1] = special.eos[0]
    mask = np.arange(longest) < lengths[:, None]
    decoder_ids = generator.choice(_ordinary(dims.vocab_size, special_ids), (_INPUTS, target))
    decoder_ids[:, 0] = special.decoder_start
    return Inputs(input_ids, mask, decoder_ids)


def _ordinary(vocab_size: int, special_ids: list[int]) -> NDArray[np.int64]:
    """All tokens but the special ones, unless there are no others."""
    tokens = np.arange(vocab_size)
    ordinary = np.setdiff1d(tokens, special_ids)
    return ordinary if ordinary.size else tokens


def greedy_options(manifest: Manifest) -> GenerationConfig:
    """Plain greedy decoding, with the tokens that the checkpoint forces."""
    return GenerationConfig(
        max_new_tokens=min(_NEW_TOKENS, manifest.dimensions.max_target_length or _NEW_TOKENS),
        forced_bos_token_id=manifest.generation.get("forced_bos_token_id"),
        forced_eos_token_id=manifest.generation.get("forced_eos_token_id"),
    )


def until_end(tokens: list[int], eos: tuple[int, ...]) -> list[int]:
    """The tokens up to the first end token, with it."""
    end = next((i for i, token in enumerate(tokens) if token in eos), len(tokens))
    return tokens[: end + 1]


def _compare_encoder(bundle: Bundle, engine: OnnxRuntimeEngine, reference: Reference) -> Difference:
    source = engine.encode(reference.inputs.input_ids, reference.inputs.mask)
    dims = bundle.manifest.dimensions
    batch, length, _ = reference.states.shape
    pairs = []
    for layer in range(dims.decoder_layers):
        name = f"cross.{layer}.kv"
        expected = reference.states @ _weight(bundle, f"{name}.weight")
        if f"{name}.bias" in bundle.manifest.weights:
            expected = expected + _weight(bundle, f"{name}.bias")
        shape = (batch, length, 2, dims.decoder_heads, dims.decoder_head_dim)
        keys, values = np.moveaxis(expected.reshape(shape), 2, 0)
        for kind, wanted in (("key", keys), ("value", values)):
            found = source.numpy(f"cross_{kind}.{layer}").transpose(0, 2, 1, 3)
            pairs.append((found[reference.inputs.mask], wanted[reference.inputs.mask]))
    return _difference(pairs)


def _compare_decoder(bundle: Bundle, engine: OnnxRuntimeEngine, reference: Reference) -> Difference:
    batch, count = reference.inputs.decoder_ids.shape
    source = engine.encode(reference.inputs.input_ids, reference.inputs.mask)
    decoder = engine.decoder(source, count)
    step = Step.allocate(batch, count, count, vocab_size=bundle.manifest.dimensions.vocab_size)
    step.input_ids[:] = reference.inputs.decoder_ids
    step.position_ids[:] = np.arange(count)
    step.attention_mask[:] = np.tri(count, dtype=np.bool_)
    decoder.bind(step)()
    if step.logits is None:
        raise AssertionError("logits were asked for")
    return _difference([(step.logits, reference.logits)])


def _difference(pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Difference:
    differences = [np.abs(found - wanted) for found, wanted in pairs]
    return Difference(
        maximum=float(np.max([d.max() for d in differences])),
        mean=float(np.mean([d.mean() for d in differences])),
        scale=float(np.max([np.abs(wanted).max() for _, wanted in pairs])),
    )


def _weight(bundle: Bundle, name: str) -> NDArray[np.float32]:
    place = bundle.manifest.weights[name]
    mapped: NDArray[np.float32] = np.memmap(
        bundle.path(WEIGHTS_NAME), np.dtype(place.dtype), "r", place.offset, place.shape
    )
    return mapped
