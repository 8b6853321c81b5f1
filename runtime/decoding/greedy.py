"""Greedy decoding: the most probable token, fed straight back.

The argmax is in the graph and its output is bound to the memory of ``input_ids``, so a step
reads 8 bytes a sequence and the host only moves a position, a slot and one mask column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..engines import Decoder, EncodedSource, Engine, Step
from ..manifest import Manifest
from .cache import first_capacity, grown_capacity
from .config import GenerationConfig


@dataclass
class Sequence:
    """One generated sequence: tokens after the decoder start token, the end token included."""

    token_ids: list[int]
    log_probability: float = 0.0
    finish_reason: str | None = None


@dataclass
class _Batch:
    """The sequences of one call and when each of them ends."""

    sequences: list[Sequence]
    eos: frozenset[int]
    max_new_tokens: int
    unfinished: int = field(init=False)
    #: New tokens that the unfinished sequences may still have; they run in step.
    remaining: int = field(init=False)

    def __post_init__(self) -> None:
        self.unfinished = len(self.sequences)
        self.remaining = self.max_new_tokens

    def append(self, tokens: list[int], scores: NDArray[np.float64] | None = None) -> None:
        self.remaining -= 1
        for row, sequence in enumerate(self.sequences):
            if sequence.finish_reason is not None:
                continue
            token = tokens[row]
            sequence.token_ids.append(token)
            if scores is not None:
                sequence.log_probability += float(scores[row])
            if token in self.eos:
                sequence.finish_reason = "eos"
            elif self.remaining == 0:
                sequence.finish_reason = "length"
            else:
                continue
            self.unfinished -= 1

    def force_end(self, token: int | None) -> bool:
        """Put ``token`` in the last place, if that is the next one and a token is given."""
        if token is None or self.remaining != 1:
            return False
        self.append([token] * len(self.sequences))
        return True


def greedy(
    engine: Engine, source: EncodedSource, manifest: Manifest, config: GenerationConfig
) -> list[Sequence]:
    """Decode every source of the batch until each has ended."""
    size = source.batch_size
    prompt = [manifest.special_tokens.decoder_start, *config.decoder_prefix]
    batch = _Batch(
        [Sequence(list(config.decoder_prefix)) for _ in range(size)],
        frozenset(manifest.special_tokens.eos),
        config.max_new_tokens,
    )
    # As in transformers: a single token is the forced end rather than the forced start, and
    # a prompt of the caller's own replaces the forced start.
    forced_bos, forced_eos = config.forced_bos_token_id, config.forced_eos_token_id
    ends_at_once = forced_eos is not None and batch.remaining == 1
    if forced_bos is not None and not config.decoder_prefix and not ends_at_once:
        prompt.append(forced_bos)
        batch.append([forced_bos] * size)
    if batch.force_end(forced_eos) or not batch.unfinished:
        return batch.sequences
    # The last token of a sequence is never run, so it needs no slot.
    slots = len(config.decoder_prefix) + config.max_new_tokens
    vocab_size = manifest.dimensions.vocab_size if config.return_scores else None
    decoder = engine.decoder(source, first_capacity(slots, len(prompt)))
    _Loop(decoder, batch, size, slots, vocab_size).run(prompt, forced_eos)
    return batch.sequences


class _Loop:
    """The steps of one greedy call over one decoder."""

    def __init__(
        self, decoder: Decoder, batch: _Batch, size: int, slots: int, vocab_size: int | None
    ) -> None:
        self._decoder = decoder
        self._batch = batch
        self._size = size
        self._slots = slots
        self._vocab_size = vocab_size

    def run(self, prompt: list[int], forced_eos: int | None) -> None:
        batch, decoder = self._batch, self._decoder
        step, run_step = self._bind_single()
        used = len(prompt)
        if used == 1:
            step.input_ids[:] = prompt[0]
            step.attention_mask[..., 0] = True
            run_step()
            last = step
        else:
            last = self._prefill(prompt)
            step.input_ids[:, 0] = last.next_ids[:, -1]
            step.attention_mask[..., :used] = True
        while True:
            batch.append(step.input_ids[:, 0].tolist(), _last_scores(last))
            if not batch.unfinished:
                return
            if batch.force_end(forced_eos):
                return
            if used == decoder.capacity:
                decoder.grow(grown_capacity(used, self._slots))
                token_ids = step.input_ids
                step, run_step = self._bind_single()
                step.input_ids[:] = token_ids
                step.attention_mask[..., :used] = True
            step.attention_mask[..., used] = True
            step.position_ids.fill(used)
            step.write_index.fill(used)
            run_step()
            last = step
            used += 1

    def _bind_single(self) -> tuple[Step, Callable[[], None]]:
        step = Step.allocate(
            self._size, 1, self._decoder.capacity, feed_back=True, vocab_size=self._vocab_size
        )
        return step, self._decoder.bind(step)

    def _prefill(self, prompt: list[int]) -> Step:
        count = len(prompt)
        step = Step.allocate(self._size, count, self._decoder.capacity, vocab_size=self._vocab_size)
        step.input_ids[:] = prompt
        step.position_ids[:] = np.arange(count)
        step.attention_mask[..., :count] = np.tri(count, dtype=np.bool_)
        self._decoder.bind(step)()
        return step


def _last_scores(step: Step) -> NDArray[np.float64] | None:
    """Log-probability [B] of the token that each row chose, from the last query's logits."""
    if step.logits is None:
        return None
    logits = step.logits[:, -1].astype(np.float64)
    top = logits.max(axis=-1)
    # The chosen token is the largest, so its log-probability is -log(sum(exp(x - max))).
    scores: NDArray[np.float64] = -np.log(np.exp(logits - top[:, None]).sum(axis=-1))
    return scores
