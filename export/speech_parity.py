"""Run transformers beside a bundle that hears: features, states, logits, times, greedy tokens.

As in ``parity.py`` PyTorch runs first (``speech_reference.py``) and is freed before the bundle is
loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backends import (
    EncoderOutput,
    SlotBackend,
    SlotCache,
    Step,
    load_backend,
    slot_backend,
)
from seq2edge.runtime.bundle.manifest import Manifest
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.bundle.speech_info import SpeechInfo

from .judge import Difference, Expected, judge
from .parity import Parity, compared_tokens, cross_projections, ordinary, until_end

_INPUTS, _TARGET_TOKENS, _NEW_TOKENS, _SEED = 1, 32, 24, 20
#: Length of the audio in seconds where it does not fill a window: for an encoder that takes any
#: length, and for one so large (in bytes of weights, Whisper medium and above) that 30 s in float64
#: would take minutes.
_SECONDS, LARGE = 6, 400_000_000
#: Positions of the encoder that are compared, of the 1500 of a window.
_POSITIONS = 64


@dataclass(frozen=True)
class SpeechInputs:
    """Random sounds [B, samples] and decoder tokens [B, Q]; of the encoder's positions, some."""

    audio: NDArray[np.float32]
    decoder_ids: NDArray[np.int64]
    positions: NDArray[np.int64]


@dataclass(frozen=True)
class SpeechReference:
    """What transformers computed.

    Attributes:
        encoder_inputs: of the encoder, by name.
        states: the encoder's [B, P, D] at the compared positions, with its runs in float32.
        logits: [B, Q, V], teacher-forced.
        weights: [heads, B, Q, S] of the alignment heads; None: there are none.
        prompt: what greedy decoding begins with.
        tokens: what it wrote, without the prompt and with the end token.
        ties: [B, steps], where greedy decoding may part.
    """

    inputs: SpeechInputs
    encoder_inputs: Mapping[str, NDArray[np.float32]]
    states: Expected
    logits: Expected
    weights: Expected | None
    prompt: list[int]
    tokens: list[list[int]]
    ties: NDArray[np.bool_]

    def compare(self, directory: Path) -> Parity:
        """Run the bundle in ``directory`` on the same sounds."""
        bundle = Bundle.open(directory)
        backend = slot_backend(load_backend(bundle, num_threads=None))
        manifest = bundle.manifest
        encoded = backend.encode(self.encoder_inputs)
        wanted = self.states.at(np.ones(self.states.rounding.shape, np.bool_))
        values, layers = cross_projections(bundle, encoded, self._at_positions)
        written = self._greedy(manifest, backend, encoded)
        exact, ties = compared_tokens(written, self.tokens, self.ties)
        parity = Parity(
            encoder=judge([(values, wanted.projected(layers, parts=2))]),
            decoder=self._decoder(manifest, backend, encoded),
            inputs=len(self.tokens),
            exact=exact,
            ties=ties,
            features=self._features(manifest, backend),
            alignment=self._alignment(backend, encoded),
        )
        backend.close()
        return parity

    def _at_positions(self, array: NDArray[Any]) -> NDArray[Any]:
        """[B, S, ...] to [B * P, ...]."""
        chosen = array[:, self.inputs.positions]
        return chosen.reshape(-1, *chosen.shape[2:])

    def _decoder(
        self, manifest: Manifest, backend: SlotBackend, encoded: EncoderOutput
    ) -> Difference:
        cache = backend.new_cache(encoded, self.inputs.decoder_ids.shape[1])
        step = _run(cache, self.inputs.decoder_ids, manifest.dimensions.vocab_size)
        if step.logits is None:
            raise AssertionError("logits were asked for")
        everywhere = np.ones(step.input_ids.shape, np.bool_)
        return judge([(step.logits[everywhere], self.logits.at(everywhere))])

    def _greedy(
        self, manifest: Manifest, backend: SlotBackend, encoded: EncoderOutput
    ) -> list[list[int]]:
        count, batch = self.ties.shape[1], len(self.tokens)
        cache = backend.new_cache(encoded, len(self.prompt) + count)
        first = _run(cache, np.tile(self.prompt, (batch, 1)), None).next_token_ids[:, -1]
        step = Step.allocate(batch, 1, cache.max_cache_len, feed_back=True)
        step.input_ids[:, 0] = first
        step.position_ids[:] = step.write_indices[:] = len(self.prompt)
        step.attention_mask[..., : len(self.prompt) + 1] = True
        written = np.concatenate([first[None], cache.forward_greedy(step, count - 1)]).T
        return [until_end(row, manifest.special_tokens.eos) for row in written.tolist()]

    def _features(self, manifest: Manifest, backend: SlotBackend) -> float | None:
        if "features" not in manifest.graphs:
            return None
        ours = backend.run_graph("features", {"audio": self.inputs.audio})
        errors = [
            float(np.abs(ours[name] - wanted).max()) for name, wanted in self.encoder_inputs.items()
        ]
        return max(errors)

    def _alignment(self, backend: SlotBackend, encoded: EncoderOutput) -> Difference | None:
        if self.weights is None:
            return None
        ids = {"input_ids": self.inputs.decoder_ids}
        ours = backend.run_graph("alignment", ids, encoded)["alignment_weights"]
        rows = ours.swapaxes(0, 1)  # [heads, B, Q, S]
        everywhere = (len(rows), -1)
        wanted = Expected(
            self.weights.exact.reshape(*everywhere, rows.shape[-1]),
            self.weights.rounding.reshape(everywhere),
        )
        return judge([(rows.reshape(*everywhere, rows.shape[-1]), wanted)])


def make_speech_inputs(manifest: Manifest, speech: SpeechInfo) -> SpeechInputs:
    """The sounds that every bundle is compared on: tones that come and go, in noise.

    They fill a window; less for large encoders, and for those that have none.
    """
    generator, special = np.random.default_rng(_SEED), manifest.special_tokens
    samples = _SECONDS * speech.sampling_rate
    if speech.window_frames is not None:
        whole = speech.window_frames * speech.hop_length
        is_large = manifest.graphs["encoder"].weight_bytes > LARGE
        samples = min(samples, whole) if is_large else whole
    time = np.arange(samples) / speech.sampling_rate
    pitches = generator.uniform(100, 2000, (_INPUTS, 3, 1))
    beats = generator.uniform(0.5, 5, (_INPUTS, 3, 1))
    tones = np.sin(2 * np.pi * pitches * time) * np.maximum(0, np.sin(2 * np.pi * beats * time))
    audio = 0.1 * tones.sum(1) + 0.02 * generator.standard_normal((_INPUTS, samples))
    target = min(_TARGET_TOKENS, manifest.dimensions.max_target_length or _TARGET_TOKENS)
    special_ids = [special.pad, special.decoder_start, *special.eos]
    words = ordinary(manifest.dimensions.vocab_size, special_ids)
    decoder_ids = generator.choice(words, (_INPUTS, target))
    decoder_ids[:, 0] = special.decoder_start
    return SpeechInputs(audio.astype(np.float32), decoder_ids, np.empty(0, np.int64))


def compared_positions(count: int) -> NDArray[np.int64]:
    """Those of ``count`` positions of the encoder that are compared, both ends with them."""
    return np.unique(np.linspace(0, count - 1, _POSITIONS).astype(np.int64))


def decoder_prompt(manifest: Manifest, speech: SpeechInfo) -> list[int]:
    """The start token, the first language and task if there are several, and no times."""
    prompt = [manifest.special_tokens.decoder_start]
    prompt += list(speech.languages.values())[:1] + list(speech.tasks.values())[:1]
    return prompt if speech.no_timestamps is None else [*prompt, speech.no_timestamps]


def new_tokens(manifest: Manifest, prompt: list[int]) -> int:
    """How many tokens greedy decoding writes."""
    most = manifest.dimensions.max_target_length
    return _NEW_TOKENS if most is None else min(_NEW_TOKENS, most - len(prompt))


def _run(cache: SlotCache, ids: NDArray[np.int64], vocab_size: int | None) -> Step:
    batch, count = ids.shape
    step = Step.allocate(batch, count, cache.max_cache_len, vocab_size=vocab_size)
    step.input_ids[:] = ids
    step.position_ids[:] = np.arange(count)
    step.attention_mask[..., :count] = np.tri(count, dtype=np.bool_)
    cache.forward(step)
    return step
