"""Where a head of two stages proposes the token that its whole head chooses.

Nothing proves that the right token is among those that 4 bits propose; how far down it stands on
texts of the model says how safe that is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..backends import Backend, Step, slot_backend
from ..bundle.manifest import Manifest
from .divergence import SpokenPair, TokenPair

_SLOTS = 16


def proposal_ranks(
    backend: Backend,
    manifest: Manifest,
    pairs: Sequence[TokenPair | SpokenPair],
    progress: Callable[[int, int], None] | None = None,
) -> list[int]:
    """For every token of all pairs, the place of the whole head's choice among the proposals.

    The decoder is fed the pairs' tokens. 0: the first of them by their 4 bits; as many as there
    are: it is not among them. Tokens that the model's own options suppress are not chosen.

    Returns:
        Nothing where the backend's decoder has no head of two stages.

    Raises:
        BackendError: the engine failed.
    """
    ranks: list[int] = []
    suppressed = list(manifest.generation.get("suppress_tokens") or ())
    for done, pair in enumerate(pairs, start=1):
        prompt = pair.prompt(manifest)
        fed = [*prompt, *pair.target[:-1]] if len(pair.target) else []
        cache = slot_backend(backend).new_cache(
            backend.encode(pair.inputs()), max(1, -(-len(fed) // _SLOTS)) * _SLOTS
        )
        step = Step.allocate(1, 1, cache.max_cache_len, vocab_size=manifest.dimensions.vocab_size)
        for place, token in enumerate(fed):
            step.input_ids[:] = token
            step.position_ids[:] = step.write_indices[:] = place
            step.attention_mask[..., place] = True
            step.only_best = False
            cache.forward(step)
            if step.logits is None:
                raise AssertionError("they were asked for")
            step.logits[..., suppressed] = -np.inf
            best = int(step.logits.argmax())
            step.only_best = True
            cache.forward(step)
            if step.proposals is None:
                return []
            if place >= len(prompt) - 1:
                ranks.append(_rank(step.proposals.token_ids, step.proposals.count, best))
        if progress is not None:
            progress(done, len(pairs))
    return ranks


def _rank(token_ids: np.ndarray[tuple[int], np.dtype[np.int64]], count: int, token: int) -> int:
    if token in token_ids[count:]:  # it is scored in every step
        return 0
    places = np.flatnonzero(token_ids[:count] == token)
    return int(places[0]) if places.size else count
