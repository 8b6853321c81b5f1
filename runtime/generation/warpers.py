"""Logits warpers: they shape the distribution that tokens are drawn from.

Order of application and arithmetic are those of ``transformers``' warpers of the same options. All
of them take scores [R, V] and give others; a token that may not be drawn has -inf.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..numerics import Scores, logsumexp, top_k
from .config import GenerationConfig

Warper = Callable[[Scores], Scores]

#: ``top_h`` looks at so many tokens at most.
_MOST_CANDIDATES = 100


def build_warpers(config: GenerationConfig, eos: tuple[int, ...]) -> list[Warper]:
    """The warpers that ``config`` (as checked) asks for, with the last normalization of beams.

    Beams keep at least one token more than there are end tokens, so that one can go on.
    """
    chain: list[Warper] = []
    beams = config.num_beams > 1
    least = max(2, len(eos) + 1) if beams else 1
    if config.do_sample:
        if config.temperature != 1.0:
            chain.append(partial(_divided, temperature=np.float32(config.temperature)))
        if config.top_h is not None:
            chain.append(partial(_top_h, share=np.float32(config.top_h)))
        if config.top_k:
            chain.append(partial(_top_k, count=max(config.top_k, least)))
        if config.top_p < 1.0:
            chain.append(partial(_nucleus, mass=config.top_p, least=least))
        if config.min_p is not None:
            chain.append(partial(_min_p, share=np.float32(config.min_p), least=least))
        if config.typical_p < 1.0:
            chain.append(partial(_typical, mass=np.float32(config.typical_p), least=least))
        if config.epsilon_cutoff:
            chain.append(partial(_epsilon, bound=np.float32(config.epsilon_cutoff), least=least))
        if config.eta_cutoff:
            chain.append(partial(_eta, epsilon=np.float32(config.eta_cutoff), least=least))
    # Without beams a constant added to all scores chooses the same token.
    if config.renormalize_logits and beams:
        chain.append(_normalized)
    return chain


def _divided(scores: Scores, *, temperature: np.float32) -> Scores:
    with np.errstate(over="ignore"):  # of what remove_invalid_values left
        return scores / temperature


def _normalized(scores: Scores) -> Scores:
    """Log-probabilities [R, V]; a row of -inf stays one."""
    normalizer = logsumexp(scores)
    normalizer[np.isneginf(normalizer)] = 0
    return scores - normalizer[:, None]


def _probabilities(scores: Scores) -> Scores:
    """[R, V], 0 for a row of -inf."""
    probabilities: Scores = np.exp(_normalized(scores))
    return probabilities


def _kept(scores: Scores, keep: NDArray[np.bool_], least: int) -> Scores:
    """Scores with -inf where ``keep`` is False, but for those that equal the ``least`` best."""
    best = top_k(scores, min(least, scores.shape[1]))[0][:, -1:]
    return np.where(keep | (scores >= best), scores, -np.inf).astype(np.float32, copy=False)


def _top_k(scores: Scores, *, count: int) -> Scores:
    return _kept(scores, np.zeros(scores.shape, np.bool_), count)


def _min_p(scores: Scores, *, share: np.float32, least: int) -> Scores:
    """A share of the best one's probability, compared as logarithms."""
    with np.errstate(divide="ignore"):
        bound = scores.max(axis=1, keepdims=True) + np.log(share)
    return _kept(scores, scores >= bound, least)


def _nucleus(scores: Scores, *, mass: float, least: int) -> Scores:
    """Keep a token if those more probable than it have less than ``mass`` together.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
    """
    kept = np.full_like(scores, -np.inf)
    for row, out in zip(scores, kept, strict=True):
        places = np.flatnonzero(row > -np.inf)
        if not places.size:
            continue
        places = places[np.argsort(-row[places], kind="stable")]
        probabilities = np.exp(row[places].astype(np.float64) - row[places[0]])
        before = probabilities.cumsum() - probabilities
        chosen = places[: max(least, int(np.sum(before < mass * probabilities.sum())))]
        out[chosen] = row[chosen]
    return kept


def _typical(scores: Scores, *, mass: np.float32, least: int) -> Scores:
    """Keep the tokens whose information is nearest to the entropy, up to ``mass``.

    Source: Meister et al. 2022, "Locally Typical Sampling", section 4.
    """
    normalized = _normalized(scores)
    distance = np.abs(-normalized - _entropy(normalized)[:, None])
    order = np.argsort(distance, axis=1, kind="stable")
    rows = np.arange(len(scores))
    cumulative = _probabilities(scores[rows[:, None], order]).cumsum(axis=1, dtype=np.float64)
    last = np.minimum((cumulative < mass).sum(axis=1), scores.shape[1] - 1)
    bound = distance[rows, order[rows, last]]
    keep = distance <= bound[:, None]
    np.put_along_axis(keep, order[:, :least], True, axis=1)
    return np.where(keep, scores, -np.inf).astype(np.float32, copy=False)


def _epsilon(scores: Scores, *, bound: np.float32, least: int) -> Scores:
    """Source: Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing"."""
    return _kept(scores, _probabilities(scores) >= bound, least)


def _eta(scores: Scores, *, epsilon: np.float32, least: int) -> Scores:
    """Source: as :func:`_epsilon`, section 4."""
    entropy = _entropy(_normalized(scores))
    bound = np.minimum(epsilon, np.sqrt(epsilon) * np.exp(-entropy))
    return _kept(scores, _probabilities(scores) >= bound[:, None], least)


def _top_h(scores: Scores, *, share: np.float32) -> Scores:
    """Keep the most probable tokens whose part of the entropy is at most ``share`` of it."""
    values, places = top_k(scores, min(_MOST_CANDIDATES, scores.shape[1]))
    normalized = _normalized(values)
    probabilities = np.exp(normalized)
    # A probability that is rounded to 0 makes nan, and nothing from there on is kept.
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = -probabilities * np.log(probabilities)
        keep = parts.cumsum(axis=1, dtype=np.float64) <= share * _entropy(normalized)[:, None]
    keep[:, 0] = True
    kept = np.full_like(scores, -np.inf)
    np.put_along_axis(kept, places, np.where(keep, values, -np.inf), axis=1)
    return kept


def _entropy(normalized: Scores) -> Scores:
    """[R], in nats, of log-probabilities."""
    with np.errstate(invalid="ignore"):
        parts = -np.exp(normalized) * normalized
    entropy: Scores = np.nan_to_num(parts, copy=False).sum(axis=1)  # nan where p is 0
    return entropy
