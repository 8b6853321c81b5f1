"""Run PyTorch beside the bundle: encoder outputs, decoder logits, greedy tokens.

Only this module and ``.bin`` checkpoints need torch. PyTorch runs first and is freed before
the bundle is loaded, so that the two are never in memory together.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backends import Step
from seq2edge.runtime.backends.onnxruntime import OrtBackend
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME, STATES, WEIGHTS_NAME, Manifest
from seq2edge.runtime.bundle.reader import Bundle, BundleWriter
from seq2edge.runtime.generation import GenerationConfig
from seq2edge.runtime.model import Seq2SeqModel

from .checkpoint import Checkpoint
from .errors import CheckpointError, ParityError

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
        encoder: cross-attention keys and values of all layers; of an encoder alone, its states.
            None: there is no encoder.
        decoder: logits, teacher-forced. None: there is no decoder.
        inputs: sources that were decoded greedily, as one padded batch.
        exact: of these, how many gave the same tokens.
        ties: of the others, how many parted where PyTorch's two best logits lay within the
            tolerance of each other.
    """

    encoder: Difference | None
    decoder: Difference | None
    inputs: int
    exact: int
    ties: int

    @property
    def ok(self) -> bool:
        near = all(difference.ok for _, difference in self.differences())
        return near and self.exact + self.ties == self.inputs

    def differences(self) -> list[tuple[str, Difference]]:
        """Those that there are, named."""
        named = (("encoder", self.encoder), ("decoder logits", self.decoder))
        return [(name, difference) for name, difference in named if difference is not None]

    def summary(self) -> str:
        parts = [
            f"{name} max |diff| {difference.maximum:.2e}, mean {difference.mean:.2e}"
            for name, difference in self.differences()
        ]
        if self.decoder is not None:
            ties = f" ({self.ties} parted at a tie)" if self.ties else ""
            parts.append(f"greedy tokens identical on {self.exact} of {self.inputs} inputs{ties}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Inputs:
    """Random sources of mixed lengths [B, S], their mask, and decoder tokens [B, Q]."""

    input_ids: NDArray[np.int64]
    mask: NDArray[np.bool_]
    decoder_ids: NDArray[np.int64]


@dataclass(frozen=True)
class Reference:
    """What PyTorch computed; shapes as in :mod:`seq2edge.runtime.backends.base`.

    ``tokens`` are greedy decoding's, without the start token (without an encoder: the source)
    and with the end token. What the missing half of a model would compute is None.
    """

    inputs: Inputs
    states: NDArray[np.float32] | None  # [B, S, D]
    logits: NDArray[np.float32] | None = None  # [B, Q, V]
    tokens: list[list[int]] = field(default_factory=list)
    #: [B, steps], best minus second-best logit.
    gaps: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))


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
            f" {' and '.join(f'{d.tolerated:.1e}' for _, d in parity.differences())}, same tokens."
            " Nothing was written. If the tokens agree, rounding in a model with large weights"
            " may be why: --no-validate exports it all the same"
        )
    return parity


def compare(directory: Path, reference: Reference) -> Parity:
    """Run the bundle in ``directory`` on the reference's inputs."""
    bundle = Bundle.open(directory, single_stack=("encoder", "decoder"))
    backend = OrtBackend(bundle)
    encoder = decoder = None
    if reference.states is not None:
        encoder = _compare_encoder(bundle, backend, reference.inputs, reference.states)
    if reference.logits is None:
        backend.close()
        return Parity(encoder, None, inputs=0, exact=0, ties=0)
    decoder = _compare_decoder(bundle, backend, reference.inputs, reference.logits)
    with Seq2SeqModel(bundle, backend, None) as model:
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


def run_transformers(checkpoint: Checkpoint, manifest: Manifest) -> Reference:
    """Load a checkpoint with transformers and run it.

    Raises:
        ParityError: transformers cannot load it.
    """
    import torch

    try:
        model = _load_model(checkpoint, manifest.single_stack).eval()
    except CheckpointError:
        raise
    except Exception as error:  # transformers raises many classes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ParityError(
            f"transformers cannot load {checkpoint.directory}, so the bundle cannot be compared"
            f" ({reason}); pass --no-validate to export without the comparison"
        ) from None
    inputs = make_inputs(manifest, manifest.dimensions.source_tokens)
    with torch.inference_mode():
        if manifest.single_stack == "decoder":
            return _run_decoder(model, inputs, manifest)
        arguments = {
            "input_ids": torch.tensor(inputs.input_ids),
            "attention_mask": torch.tensor(inputs.mask).long(),
        }
        encoder = model if manifest.single_stack == "encoder" else model.get_encoder()
        states = encoder(**arguments).last_hidden_state.numpy()
        if manifest.single_stack == "encoder":
            return Reference(inputs, states)
        inputs = _without_pad(inputs, getattr(model.config, "decoder", None))
        targets = torch.tensor(inputs.decoder_ids)
        logits = model(**arguments, decoder_input_ids=targets, use_cache=False).logits
        # transformers 5 sizes T5's cache by the encoder's depth: a deeper decoder fails.
        cached = manifest.dimensions.decoder_layers <= manifest.dimensions.encoder_layers
        tokens, gaps = _generate(model, {**arguments, "use_cache": cached}, manifest, prompt=1)
    return Reference(inputs, states, logits.numpy(), tokens, gaps)


def _load_model(checkpoint: Checkpoint, only: str | None) -> Any:
    """The model of transformers, with the checkpoint's tensors."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kinds: dict[str | None, Any] = {"encoder": AutoModel, "decoder": AutoModelForCausalLM}
    kind = kinds.get(only, AutoModelForSeq2SeqLM)
    options: dict[str, Any] = {"attn_implementation": "eager", "dtype": torch.float32}
    if checkpoint.as_saved:
        return kind.from_pretrained(checkpoint.directory, local_files_only=True, **options)
    config = AutoConfig.from_pretrained(checkpoint.directory, local_files_only=True)
    model_class = kind._model_mapping[type(config)]
    state = {name: torch.from_numpy(checkpoint.load(name)) for name in checkpoint.names}
    return model_class.from_pretrained(None, config=config, state_dict=state, **options)


def _run_decoder(model: Any, inputs: Inputs, manifest: Manifest) -> Reference:
    """A decoder alone; its prompts are filled up on the left, as transformers wants them."""
    import torch

    rows = zip(inputs.input_ids, inputs.mask, strict=True)
    ids = np.stack([np.roll(row, np.count_nonzero(~mask)) for row, mask in rows])
    arguments = {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(inputs.mask[:, ::-1].copy()).long(),
    }
    logits = model(torch.tensor(inputs.decoder_ids)).logits
    width = inputs.input_ids.shape[1]
    tokens, gaps = _generate(model, arguments, manifest, prompt=width)
    return Reference(inputs, None, logits.numpy(), tokens, gaps)


def _without_pad(inputs: Inputs, decoder: Any) -> Inputs:
    """A pair's decoder may have a pad token of its own, which RoBERTa gives no position."""
    pad = getattr(decoder, "pad_token_id", None)
    if pad is None:
        return inputs
    ids = inputs.decoder_ids
    return replace(inputs, decoder_ids=np.where(ids == pad, np.roll(ids, 1, axis=0), ids))


def _generate(
    model: Any, arguments: dict[str, Any], manifest: Manifest, prompt: int
) -> tuple[list[list[int]], NDArray[np.float32]]:
    """Greedy tokens after ``prompt`` tokens, and ``Reference.gaps``."""
    import torch
    from transformers import GenerationConfig as TorchConfig

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
    found = model.generate(**arguments, return_dict_in_generate=True, output_logits=True)
    top = [step.topk(2, dim=-1).values for step in found.logits]
    gaps: NDArray[np.float32] = torch.stack([t[:, 0] - t[:, 1] for t in top], dim=1).numpy()
    return [until_end(row, special.eos) for row in found.sequences[:, prompt:].tolist()], gaps


def make_inputs(manifest: Manifest, source_vocab_size: int) -> Inputs:
    """What every bundle is compared on; always the same for the same sizes and tokens."""
    generator = np.random.default_rng(_SEED)
    dims, special = manifest.dimensions, manifest.special_tokens
    most = dims.max_source_length or _SOURCE_TOKENS
    # Without an encoder, what is generated takes the places after the source.
    longest = min(_SOURCE_TOKENS, max(1, most // 2) if manifest.single_stack == "decoder" else most)
    target = min(_TARGET_TOKENS, dims.max_target_length or _TARGET_TOKENS)
    special_ids = [special.pad, special.decoder_start, *special.eos]
    words = _ordinary(source_vocab_size, special_ids)
    # A prompt has no end, and a pad token would not count.
    ends = (
        [] if manifest.single_stack == "decoder" else [t for t in special.eos if t != special.pad]
    )
    lengths = np.linspace(min(2, longest), longest, _INPUTS).astype(int)
    input_ids = np.full((_INPUTS, longest), special.pad, np.int64)
    for row, length in enumerate(lengths):
        input_ids[row, :length] = generator.choice(words, length)
        if ends and ends[0] < source_vocab_size:
            input_ids[row, length - 1] = ends[0]
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
    most = manifest.dimensions.max_target_length or _NEW_TOKENS
    if manifest.single_stack == "decoder":  # half of it may be taken by the source
        most = max(1, most // 2)
    return GenerationConfig(
        max_new_tokens=min(_NEW_TOKENS, most),
        forced_bos_token_id=manifest.generation.get("forced_bos_token_id"),
        forced_eos_token_id=manifest.generation.get("forced_eos_token_id"),
    )


def until_end(tokens: list[int], eos: tuple[int, ...]) -> list[int]:
    """The tokens up to the first end token, with it."""
    end = next((i for i, token in enumerate(tokens) if token in eos), len(tokens))
    return tokens[: end + 1]


def _compare_encoder(
    bundle: Bundle, backend: OrtBackend, inputs: Inputs, states: NDArray[np.float32]
) -> Difference:
    source = backend.encode(inputs.input_ids, inputs.mask)
    if bundle.manifest.single_stack == "encoder":
        return difference([(source.numpy(STATES)[inputs.mask], states[inputs.mask])])
    dims = bundle.manifest.dimensions
    batch, length, _ = states.shape
    pairs = []
    for layer in range(dims.decoder_layers):
        name = f"cross.{layer}.kv"
        expected = states @ _weight(bundle, f"{name}.weight")
        if f"{name}.bias" in bundle.manifest.weights:
            expected = expected + _weight(bundle, f"{name}.bias")
        shape = (batch, length, 2, dims.decoder_heads, dims.decoder_head_dim)
        keys, values = np.moveaxis(expected.reshape(shape), 2, 0)
        for kind, wanted in (("key", keys), ("value", values)):
            found = source.numpy(f"cross_{kind}.{layer}").transpose(0, 2, 1, 3)
            pairs.append((found[inputs.mask], wanted[inputs.mask]))
    return difference(pairs)


def _compare_decoder(
    bundle: Bundle, backend: OrtBackend, inputs: Inputs, logits: NDArray[np.float32]
) -> Difference:
    batch, count = inputs.decoder_ids.shape
    source = backend.encode(inputs.input_ids, inputs.mask)
    decoder = backend.decoder(source, count)
    step = Step.allocate(batch, count, count, vocab_size=bundle.manifest.dimensions.vocab_size)
    step.input_ids[:] = inputs.decoder_ids
    step.position_ids[:] = np.arange(count)
    step.attention_mask[:] = np.tri(count, dtype=np.bool_)
    decoder.bind(step)()
    if step.logits is None:
        raise AssertionError("logits were asked for")
    return difference([(step.logits, logits)])


def difference(pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Difference:
    """Of all pairs (found, wanted)."""
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
