"""How far the next-token distributions of two bundles of one model differ.

Agreement of outputs hides how near a model came to another choice; the Kullback-Leibler
divergence shows it. All decoders are fed the same tokens (teacher forcing), so that their
distributions are comparable at every position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends import Backend, Step, slot_backend
from ..backends.base import concat_backend
from ..bundle.manifest import Manifest

#: Logits of one step: 16 MB in float32. Longer targets take several steps.
_LOGITS = 4_000_000
#: Cache slots come in so many, as in decoding.
_SLOTS = 16


@dataclass(frozen=True)
class TokenPair:
    """Token ids of a source, and those generated from it (without the decoder start token)."""

    source: Sequence[int]
    target: Sequence[int]

    def inputs(self) -> dict[str, NDArray[Any]]:
        """Of the encoder."""
        ids = np.array([self.source], np.int64)
        return {"input_ids": ids, "attention_mask": np.ones(ids.shape, np.bool_)}

    def prompt(self, manifest: Manifest) -> list[int]:
        """What the decoder is given before the target."""
        alone = manifest.single_stack == "decoder"
        return list(self.source) if alone else [manifest.special_tokens.decoder_start]


@dataclass(frozen=True)
class SpokenPair:
    """A window of sound, what the decoder is given first, and what was generated after it.

    ``window`` are the encoder's inputs by name, without a batch axis.
    """

    window: Mapping[str, NDArray[Any]]
    given: Sequence[int]
    target: Sequence[int]

    def inputs(self) -> dict[str, NDArray[Any]]:
        """Of the encoder."""
        return {name: array[None] for name, array in self.window.items()}

    def prompt(self, manifest: Manifest) -> list[int]:  # noqa: ARG002
        """What the decoder is given before the target."""
        return list(self.given)


@dataclass(frozen=True)
class Divergence:
    """Next-token distributions of a bundle against those of a reference.

    Attributes:
        positions: number of distributions that were compared.
        agreements: at how many of them both have the same most probable token.
        mean_kl, max_kl: KL(reference || bundle) in nats per token, over all positions; nan
            without any position, or where a graph gives nan.
        mean_entropy: of the reference's own distributions, in nats per token.
    """

    positions: int
    agreements: int
    mean_kl: float
    max_kl: float
    mean_entropy: float


def divergences(
    reference: Backend,
    others: Sequence[Backend],
    manifest: Manifest,
    pairs: Sequence[TokenPair | SpokenPair],
    progress: Callable[[int, int], None] | None = None,
) -> list[Divergence]:
    """Compare each of ``others`` with ``reference`` over all tokens of all pairs.

    The bundles share the vocabulary and the start token of ``manifest``. Distributions are
    those of the graphs: penalties, bans and forced tokens of decoding are not applied.

    Returns:
        One result for each of ``others``.

    Raises:
        BackendError: an engine failed.
    """
    kl: list[list[NDArray[np.float64]]] = [[] for _ in others]
    same = [0] * len(others)
    entropies: list[NDArray[np.float64]] = []
    for done, pair in enumerate(pairs, start=1):
        steps = [next_token_logits(backend, manifest, pair) for backend in (reference, *others)]
        for ours, *theirs in zip(*steps, strict=True):
            expected, best = log_softmax(ours), ours.argmax(axis=-1)
            entropies.append(entropy(expected))
            for number, logits in enumerate(theirs):
                kl[number].append(kl_divergence(expected, log_softmax(logits)))
                same[number] += int(np.count_nonzero(logits.argmax(axis=-1) == best))
        if progress is not None:
            progress(done, len(pairs))
    return [_summary(parts, count, entropies) for parts, count in zip(kl, same, strict=True)]


def _summary(
    kl: Sequence[NDArray[np.float64]], agreements: int, entropies: Sequence[NDArray[np.float64]]
) -> Divergence:
    if not kl:
        return Divergence(0, 0, float("nan"), float("nan"), float("nan"))
    values = np.concatenate(kl)
    return Divergence(
        len(values),
        agreements,
        float(values.mean()),
        float(values.max()),
        float(np.concatenate(entropies).mean()),
    )


def next_token_logits(
    backend: Backend, manifest: Manifest, pair: TokenPair | SpokenPair
) -> Iterator[NDArray[np.float32]]:
    """Logits [Q, V] float32 of a whole target, in parts of Q tokens.

    Row n of all parts together predicts token n of the target from those before it; without an
    encoder, from the source as well.
    """
    if not len(pair.target):
        return
    prompt = pair.prompt(manifest)
    fed = np.array([*prompt, *pair.target[:-1]], np.int64)
    encoded = backend.encode(pair.inputs())
    first = len(prompt) - 1  # the row that predicts the target's first token
    concat = concat_backend(backend)
    if concat is not None:
        rows = concat.new_cache(encoded)
        yield rows.forward(fed[None, : len(prompt)])
        for token in fed[len(prompt) :]:
            yield rows.forward(token.reshape(1, 1))
        return
    vocab_size = manifest.dimensions.vocab_size
    cache = slot_backend(backend).new_cache(encoded, -(-len(fed) // _SLOTS) * _SLOTS)
    size = max(1, _LOGITS // vocab_size)
    for start in range(0, len(fed), size):
        part = fed[start : start + size]
        end = start + len(part)
        step = Step.allocate(1, len(part), cache.max_cache_len, vocab_size=vocab_size)
        step.input_ids[0] = part
        step.position_ids[0] = np.arange(start, end)
        # Token n sits in slot n and sees the slots up to its own.
        step.attention_mask[0, 0, :, :end] = np.tri(len(part), end, start, dtype=np.bool_)
        step.write_indices[0] = start
        cache.forward(step)
        if step.logits is None:
            raise AssertionError("logits were asked for")
        if end > first:
            yield step.logits[0, max(0, first - start) :]


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Log-probabilities [Q, V] float64 of logits [Q, V].

    In float64: small divergences are differences of nearly equal numbers.
    """
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def kl_divergence(expected: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(expected || other) [Q] in nats of log-probabilities [Q, V]."""
    probabilities = np.exp(expected)
    # A token that the reference never takes adds nothing, whatever the other gives it.
    with np.errstate(invalid="ignore"):
        terms = np.where(probabilities == 0, 0.0, probabilities * (expected - other))
    result: NDArray[np.float64] = terms.sum(axis=-1)
    return result


def entropy(distribution: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy [Q] in nats of log-probabilities [Q, V]."""
    result: NDArray[np.float64] = -kl_divergence(distribution, np.zeros(()))
    return result
