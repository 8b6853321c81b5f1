"""Run PyTorch beside the bundle: encoder outputs, decoder logits, greedy tokens.

Only this module and ``.bin`` checkpoints need torch. PyTorch runs first and is freed before
the bundle is loaded, so that the two are never in memory together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backends import Backend, EncoderOutput, Step, load_backend, slot_backend
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME, STATES, WEIGHTS_NAME, Manifest
from seq2edge.runtime.bundle.reader import Bundle, BundleWriter
from seq2edge.runtime.generation import GenerationConfig
from seq2edge.runtime.model import Seq2SeqModel

from .errors import ParityError
from .judge import RULE, Difference, Expected, judge

#: Weight [N, 2 * M] and bias of the key and the value of each decoder layer.
Projections = list[tuple[NDArray[np.float32], NDArray[np.float32] | None]]

_INPUTS = 10
_SOURCE_TOKENS = 48
_TARGET_TOKENS = 16
_NEW_TOKENS = 24
_SEED = 20
#: Spectrograms may differ from transformers' extractor by so much: both compute in float32.
FEATURES = 1e-4


@dataclass(frozen=True)
class Parity:
    """How the bundle compares with PyTorch.

    Attributes:
        encoder: cross-attention keys and values of all layers; of an encoder-only model, its
            states. None: there is no encoder.
        decoder: logits, teacher-forced. None: there is no decoder.
        inputs: sources that were decoded greedily, as one padded batch.
        exact: of these, how many gave the same tokens.
        ties: of the others, how many parted where PyTorch's two best logits in float64 are no
            further apart than float32 may move them.
        rule: what the differences were held against.
        features: the largest difference of the spectrograms; None: there is no graph of them.
        alignment: the weights of the alignment heads; None: there is no graph of them.
    """

    encoder: Difference | None
    decoder: Difference | None
    inputs: int
    exact: int
    ties: int
    rule: str = RULE
    features: float | None = None
    alignment: Difference | None = None

    @property
    def ok(self) -> bool:
        near = all(difference.ok for _, difference in self.differences())
        return near and self.heard and self.exact + self.ties == self.inputs

    @property
    def heard(self) -> bool:
        """Whether the spectrograms are near enough, if there are any."""
        return self.features is None or self.features <= FEATURES

    def differences(self) -> list[tuple[str, Difference]]:
        """Those that there are, named."""
        named = (
            ("encoder", self.encoder),
            ("decoder logits", self.decoder),
            ("alignment", self.alignment),
        )
        return [(name, difference) for name, difference in named if difference is not None]

    def reason(self) -> str:
        """Why it is not ``ok``: what is larger than the rule allows, and the rule."""
        parts = [
            f"{name}: {difference.beyond} positions beyond the limit, the worst"
            f" {difference.worst:.1f} times"
            for name, difference in self.differences()
            if not difference.ok
        ]
        if not self.heard:
            parts.append(f"features: {self.features:.1e}, and {FEATURES:.0e} is allowed")
        parted = self.inputs - self.exact - self.ties
        if parted:
            parts.append(f"{parted} inputs with other tokens where PyTorch's choice is clear")
        return f"{'; '.join(parts)} (the limit: {self.rule})"

    def summary(self) -> str:
        parts = [
            f"{name} max error {difference.maximum:.2e} (PyTorch in float32:"
            f" {difference.pytorch:.2e}) at {difference.positions} positions"
            for name, difference in self.differences()
        ]
        if self.features is not None:
            parts.insert(0, f"features max error {self.features:.2e}")
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
    """PyTorch's results; those of the missing half of a model are None.

    Attributes:
        states: the encoder's [B, S, D], with its runs in float32.
        logits: the decoder's [B, Q, V], teacher-forced.
        tokens: greedy decoding's, without the start token (without an encoder: the source) and
            with the end token.
        ties: [B, steps], where greedy decoding may part (:func:`near_ties`).
    """

    inputs: Inputs
    states: Expected | None
    logits: Expected | None = None
    tokens: list[list[int]] = field(default_factory=list)
    ties: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), np.bool_))

    def compare(self, directory: Path) -> Parity:
        """Run the bundle in ``directory`` on the same inputs."""
        return compare(directory, self)


class Comparable(Protocol):
    """What PyTorch computed, for a bundle to be held against."""

    def compare(self, directory: Path) -> Parity: ...


def validate_bundle(reference: Comparable, out: BundleWriter, manifest: Manifest) -> Parity:
    """Compare the bundle that ``out`` is about to commit with what PyTorch computed.

    Raises:
        ParityError: a difference beyond float32 rounding, or other greedy tokens.
    """
    out.write(MANIFEST_NAME, manifest.to_bytes())
    parity = reference.compare(out.directory)
    if not parity.ok:
        raise ParityError(
            f"the bundle differs from PyTorch: {parity.summary()}; {parity.reason()}."
            " Nothing was written. --no-validate exports it all the same"
        )
    return parity


def compare(directory: Path, reference: Reference) -> Parity:
    """Run the bundle in ``directory`` on the reference's inputs."""
    bundle = Bundle.open(directory, single_stack=("encoder", "decoder"))
    backend = load_backend(bundle, num_threads=None)
    encoder = decoder = None
    if reference.states is not None:
        encoder = _compare_encoder(bundle, backend, reference.inputs, reference.states)
    if reference.logits is None:
        backend.close()
        return Parity(encoder, None, inputs=0, exact=0, ties=0)
    decoder = _compare_decoder(bundle, backend, reference.inputs, reference.logits)
    with Seq2SeqModel(bundle, backend, None) as model:
        inputs, options = reference.inputs, greedy_options(bundle.manifest)
        generations = model.generate_ids(inputs.input_ids, inputs.mask, options)
    tokens = [generation.token_ids for generation in generations]
    exact, ties = compared_tokens(tokens, reference.tokens, reference.ties)
    return Parity(encoder, decoder, len(generations), exact, ties)


def compared_tokens(
    ours: list[list[int]], theirs: list[list[int]], ties: NDArray[np.bool_]
) -> tuple[int, int]:
    """``exact`` and ``ties`` of :class:`Parity`."""
    same = tied = 0
    for row, (mine, wanted) in enumerate(zip(ours, theirs, strict=True)):
        if mine == wanted:
            same += 1
            continue
        parted = next(
            (i for i, (a, b) in enumerate(zip(mine, wanted, strict=False)) if a != b), None
        )
        if parted is not None and ties[row, parted]:
            tied += 1
    return same, tied


def make_inputs(manifest: Manifest, source_vocab_size: int) -> Inputs:
    """The inputs that every bundle is compared on, the same for the same sizes and tokens."""
    generator = np.random.default_rng(_SEED)
    dims, special = manifest.dimensions, manifest.special_tokens
    most = dims.max_source_length or _SOURCE_TOKENS
    # Without an encoder, what is generated takes the places after the source.
    longest = min(_SOURCE_TOKENS, max(1, most // 2) if manifest.single_stack == "decoder" else most)
    target = min(_TARGET_TOKENS, dims.max_target_length or _TARGET_TOKENS)
    special_ids = [special.pad, special.decoder_start, *special.eos]
    words = ordinary(source_vocab_size, special_ids)
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
    decoder_ids = generator.choice(ordinary(dims.vocab_size, special_ids), (_INPUTS, target))
    decoder_ids[:, 0] = special.decoder_start
    return Inputs(input_ids, mask, decoder_ids)


def ordinary(vocab_size: int, special_ids: list[int]) -> NDArray[np.int64]:
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
    bundle: Bundle, backend: Backend, inputs: Inputs, states: Expected
) -> Difference:
    source = backend.encode({"input_ids": inputs.input_ids, "attention_mask": inputs.mask})
    states = states.at(inputs.mask)
    if bundle.manifest.single_stack == "encoder":
        return judge([(source.numpy(STATES)[inputs.mask], states)])
    heads, layers = cross_projections(bundle, source, lambda array: array[inputs.mask])
    return judge([(heads, states.projected(layers, parts=2))])


def cross_projections(
    bundle: Bundle, source: EncoderOutput, at: Callable[[NDArray[Any]], NDArray[Any]]
) -> tuple[NDArray[Any], Projections]:
    """The bundle's keys and values [2 * layers, P, H * D], and the weights that make them.

    ``at`` takes [B, S, H, D] to [P, H, D], the positions that are compared.
    """
    layers: Projections = []
    heads = []
    for layer in range(bundle.manifest.dimensions.decoder_layers):
        name = f"cross.{layer}.kv"
        biased = f"{name}.bias" in bundle.manifest.weights
        bias = _weight(bundle, f"{name}.bias") if biased else None
        layers.append((_weight(bundle, f"{name}.weight"), bias))
        for kind in ("key", "value"):
            projected = at(source.numpy(f"cross_{kind}.{layer}").transpose(0, 2, 1, 3))
            heads.append(projected.reshape(len(projected), -1))
    return np.stack(heads), layers


def _compare_decoder(
    bundle: Bundle, backend: Backend, inputs: Inputs, logits: Expected
) -> Difference:
    batch, count = inputs.decoder_ids.shape
    source = backend.encode({"input_ids": inputs.input_ids, "attention_mask": inputs.mask})
    decoder = slot_backend(backend).new_cache(source, count)
    step = Step.allocate(batch, count, count, vocab_size=bundle.manifest.dimensions.vocab_size)
    step.input_ids[:] = inputs.decoder_ids
    step.position_ids[:] = np.arange(count)
    step.attention_mask[:] = np.tri(count, dtype=np.bool_)
    decoder.forward(step)
    if step.logits is None:
        raise AssertionError("logits were asked for")
    everywhere = np.ones((batch, count), np.bool_)
    return judge([(step.logits[everywhere], logits.at(everywhere))])


def _weight(bundle: Bundle, name: str) -> NDArray[np.float32]:
    info = bundle.manifest.weights[name]
    mapped: NDArray[np.float32] = np.memmap(
        bundle.path(WEIGHTS_NAME), np.dtype(info.dtype), "r", info.offset, info.shape
    )
    return mapped
