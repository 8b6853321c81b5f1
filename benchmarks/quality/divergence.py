"""Mean KL divergence of next-token distributions, on tokens that both bundles are fed.

Agreement of outputs hides how near a model came to another choice; this shows it. Both decoders
get the same tokens (teacher forcing), so the distributions are comparable at every position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backends import Backend, Step
from seq2edge.runtime.bundle.manifest import Manifest

#: Logits of one step: 16 MB in float32. Longer targets take several steps.
_LOGITS = 4_000_000
#: Cache slots come in so many, as in decoding.
_SLOTS = 16


@dataclass(frozen=True)
class TokenPair:
    """Token ids of a source, and those generated from it (without the decoder start token)."""

    source: Sequence[int]
    target: Sequence[int]


def mean_divergences(
    reference: Backend,
    others: Sequence[Backend],
    manifest: Manifest,
    pairs: Sequence[TokenPair],
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """KL(reference || other) of each of ``others``: nats a token, over all tokens of all pairs.

    The bundles share the vocabulary and the start token of ``manifest``. Distributions are
    those of the graphs: penalties, bans and forced tokens of decoding are not applied.

    Returns:
        One number for each of ``others``; nan without any token, or where a graph gives nan.

    Raises:
        BackendError: an engine failed.
    """
    totals, count = [0.0] * len(others), 0
    for done, pair in enumerate(pairs, start=1):
        steps = [next_token_logits(backend, manifest, pair) for backend in (reference, *others)]
        for ours, *theirs in zip(*steps, strict=True):
            expected = log_softmax(ours)
            count += len(expected)
            for number, logits in enumerate(theirs):
                totals[number] += float(divergence(expected, log_softmax(logits)).sum())
        if progress is not None:
            progress(done, len(pairs))
    return [total / count if count else float("nan") for total in totals]


def next_token_logits(
    backend: Backend, manifest: Manifest, pair: TokenPair
) -> Iterator[NDArray[np.float32]]:
    """Logits [q, V] float32 of a whole target, in parts of q tokens.

    Row n of all parts together predicts token n of the target from those before it.
    """
    fed = np.array([manifest.special_tokens.decoder_start, *pair.target[:-1]], np.int64)
    if not len(pair.target):
        return
    vocab_size = manifest.dimensions.vocab_size
    ids = np.array([pair.source], np.int64)
    encoded = backend.encode(ids, np.ones(ids.shape, np.bool_))
    decoder = backend.decoder(encoded, -(-len(fed) // _SLOTS) * _SLOTS)
    size = max(1, _LOGITS // vocab_size)
    for start in range(0, len(fed), size):
        part = fed[start : start + size]
        end = start + len(part)
        step = Step.allocate(1, len(part), decoder.capacity, vocab_size=vocab_size)
        step.input_ids[0] = part
        step.position_ids[0] = np.arange(start, end)
        # Token n sits in slot n and sees the slots up to its own.
        step.attention_mask[0, 0, :, :end] = np.tri(len(part), end, start, dtype=np.bool_)
        step.write_indices[0] = start
        decoder.bind(step)()
        if step.logits is None:
            raise AssertionError("logits were asked for")
        yield step.logits[0]


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Log-probabilities [q, V] float64 of logits [q, V].

    In float64: small divergences are differences of nearly equal numbers.
    """
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def divergence(expected: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(expected || found) [q] in nats of log-probabilities [q, V]."""
    probabilities = np.exp(expected)
    # A token that the reference never takes adds nothing, whatever the other gives it.
    with np.errstate(invalid="ignore"):
        terms = np.where(probabilities == 0, 0.0, probabilities * (expected - found))
    result: NDArray[np.float64] = terms.sum(axis=-1)
    return result
