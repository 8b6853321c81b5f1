"""Windows to tokens: one temperature after the other, until the text is one that can be trusted.

Source: Radford et al. 2022, section 4.5.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends import Backend, EncoderOutput
from ..bundle.manifest import Manifest
from ..generation import GenerationConfig, Generator
from ..generation.batch import Hypothesis
from ..generation.processor import MakeProcessor
from ..generation.source import collate
from ..generation.stopping import CANCELLED, LENGTH
from ..generation.validation import check
from ..kv_cache.slots import PromptLogits
from ..numerics import log_softmax
from ..text.tokenizer import Tokenizer
from .options import TranscriptionOptions
from .prompt import DecoderPrompt, speech_info
from .timestamps import STEP, TimestampRules

_log = logging.getLogger(__name__)

#: New tokens of a window of a model that has no limit of positions.
_MOST_TOKENS = 448
#: An estimated mean log-probability that is no further above the threshold is computed instead.
#: Those of whole windows were at most 0.02 from the exact ones (docs/speech.md).
_NEAR_THRESHOLD = 0.1
#: Of a fitted window: nobody speaks faster, so a longer text is a loop, as short windows have some.
_FITTED_TOKENS, _FITTED_TOKENS_PER_SECOND = 24, 12


@dataclass(frozen=True)
class WindowSource:
    """Encoder inputs of one window; a :class:`seq2edge.runtime.generation.source.Source`.

    Attributes:
        name: of the encoder's input.
        values: [mels, frames] or [samples] float32.
        positions: of the encoder's output.
        draft: the same for the draft model, where that reads other features.
    """

    name: str
    values: NDArray[np.float32]
    positions: int
    draft: WindowSource | None = None

    def __len__(self) -> int:
        return self.positions

    def tokens(self) -> list[int]:
        return []

    def inputs(self) -> Mapping[str, NDArray[Any]]:
        return {self.name: self.values}


@dataclass(frozen=True)
class DecodedWindow:
    """What a window was decoded to.

    Attributes:
        tokens: a prefix and what was generated, timestamps included, without the end token.
        text: of ``tokens``.
        avg_logprob, compression_ratio, no_speech_prob, temperature: as of :class:`.Segment`.
        is_silence: by the thresholds nobody speaks in it; ``tokens`` are not to be used.
        is_endless: it was cut by the limit of tokens.
    """

    tokens: list[int]
    text: str
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float | None
    temperature: float
    is_silence: bool = False
    is_endless: bool = False


class WindowDecoder:
    """Decodes windows with the options of one transcription.

    Args:
        backend, manifest, tokenizer: of a speech bundle.
        options: as checked.
        cancelled: asked once a step.
    """

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        tokenizer: Tokenizer,
        options: TranscriptionOptions,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        self._backend = backend
        self._generator = Generator(backend, manifest, tokenizer)
        self._tokenizer = tokenizer
        self._manifest = manifest
        self._speech = speech_info(manifest)
        self._options = options
        self._cancelled = cancelled
        self._eos = frozenset(manifest.special_tokens.eos)
        self._position_seconds = (
            self._speech.hop_length
            * (1 if self._speech.mel_bins is None else self._speech.frames_per_position)
            / self._speech.sampling_rate
        )
        self._config = self._base_config()

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without timestamps."""
        if self._speech.timestamp_begin is not None:
            # Control tokens and timestamps come after the end token in the vocabulary.
            first = min(self._eos)
            tokens = [token for token in tokens if token < first]
        return self._tokenizer.decode(list(tokens))

    def encode(self, sources: Sequence[WindowSource]) -> EncoderOutput:
        return self._backend.encode(collate(sources, self._manifest.special_tokens.pad))

    def first_logits(self, sources: Sequence[WindowSource], encoded: EncoderOutput) -> Any:
        """Logits after ``<|startoftranscript|>`` alone, [B, V]."""
        start = self._manifest.special_tokens.decoder_start
        found = PromptLogits([0] * len(sources))
        call = self._generator.prepare(
            GenerationConfig(max_new_tokens=1), sources, prompts=[(start,)] * len(sources)
        )
        self._generator.decode(call, encoded, prompt_logits=found)
        return found.values

    def decode(
        self,
        sources: Sequence[WindowSource],
        prompts: Sequence[DecoderPrompt],
        encoded: EncoderOutput,
        whole: Callable[[int], WindowSource] | None = None,
    ) -> list[DecodedWindow] | None:
        """What each window says; None: the call was cancelled.

        Args:
            sources: the windows.
            prompts: of each.
            encoded: the encoder's output for them.
            whole: from a window's place in ``sources``, which are fitted, to the whole window. It
                is decoded if the text of the fitted one does not pass or does not end; None:
                ``sources`` are whole.

        Raises:
            InputError: options that together forbid every token.
            BackendError: the engine failed.
        """
        temperatures = list(self._options.temperatures)
        tried: list[list[DecodedWindow]] = [[] for _ in sources]
        left, count = list(range(len(sources))), len(sources)
        mine = list(sources)
        if whole is not None:
            found = self._run(sources, prompts, encoded, temperatures[0], is_fitted=True)
            if found is None:
                return None
            tried = [[window] for window in found]
            left = [n for n in left if found[n].is_endless or self._needs_fallback(found[n])]
            for number in left:
                tried[number], mine[number] = [], whole(number)
            count = 0  # what is left is to be encoded again
        for temperature in temperatures if left else ():
            if len(left) != count:
                encoded = self.encode([mine[number] for number in left])
                count = len(left)
            found = self._run(
                [mine[number] for number in left],
                [prompts[number] for number in left],
                encoded,
                temperature,
            )
            if found is None:
                return None
            for number, window in zip(left, found, strict=True):
                tried[number].append(window)
            left = [number for number in left if self._needs_fallback(tried[number][-1])]
            if not left:
                break
            _log.debug("no text to be trusted at temperature %s: windows %s", temperature, left)
        return [self._best(windows) for windows in tried]

    def _run(
        self,
        sources: Sequence[WindowSource],
        prompts: Sequence[DecoderPrompt],
        encoded: EncoderOutput,
        temperature: float,
        *,
        is_fitted: bool = False,
        estimates: bool = True,
    ) -> list[DecodedWindow] | None:
        # Those of one call have as many new tokens as the one with the longest prompt.
        longest = max(len(prompt.tokens) for prompt in prompts)
        most = self._new_tokens(longest)
        if is_fitted:
            seconds = max(map(len, sources)) * self._position_seconds
            most = min(most, _FITTED_TOKENS + round(seconds * _FITTED_TOKENS_PER_SECOND))
        call = self._generator.prepare(
            replace(self._config_of(temperature), max_new_tokens=most),
            sources,
            draft_sources=[source.draft or source for source in sources],
            prompts=[prompt.tokens for prompt in prompts],
            processors=self._processors(prompts),
            logprobs=True,
            estimates_logprobs=estimates,
        )
        logits = None
        if self._speech.no_speech is not None:
            logits = PromptLogits([prompt.start for prompt in prompts])
        results = self._generator.decode(
            call, encoded, prompt_logits=logits, cancelled=self._cancelled
        )
        if any(one.finish_reason == CANCELLED for several in results for one in several):
            return None
        if any(self._is_doubtful(one) for several in results for one in several):
            return self._run(
                sources, prompts, encoded, temperature, is_fitted=is_fitted, estimates=False
            )
        silent = [None] * len(results) if logits is None else self._no_speech(logits)
        return [
            self._window(max(several, key=_avg_logprob), prompt, temperature, no_speech)
            for several, prompt, no_speech in zip(results, prompts, silent, strict=True)
        ]

    def _window(
        self,
        found: Hypothesis,
        prompt: DecoderPrompt,
        temperature: float,
        no_speech_prob: float | None,
    ) -> DecodedWindow:
        tokens = [*prompt.text, *found.token_ids]
        if tokens and tokens[-1] in self._eos:
            tokens.pop()
        text = self.text_of(tokens)
        window = DecodedWindow(
            tokens,
            text,
            _avg_logprob(found),
            _compression_ratio(text),
            no_speech_prob,
            temperature,
        )
        endless = found.finish_reason == LENGTH
        return replace(window, is_silence=self._is_silence(window), is_endless=endless)

    def _no_speech(self, logits: PromptLogits) -> list[float]:
        if logits.values is None:
            raise AssertionError("the prompts ran")
        probabilities = np.exp(log_softmax(logits.values)[:, self._speech.no_speech])
        return [float(one) for one in probabilities]

    def _is_silence(self, window: DecodedWindow) -> bool:
        options = self._options
        if options.no_speech_threshold is None or window.no_speech_prob is None:
            return False
        least = options.log_prob_threshold
        unsure = least is None or window.avg_logprob < least
        return unsure and window.no_speech_prob > options.no_speech_threshold

    def _needs_fallback(self, window: DecodedWindow) -> bool:
        least = self._options.log_prob_threshold
        if window.is_silence:
            return False
        return self._repeats(window) or (least is not None and window.avg_logprob < least)

    def _is_doubtful(self, found: Hypothesis) -> bool:
        """Whether a threshold may decide otherwise than by the exact log-probability."""
        least = self._options.log_prob_threshold
        if least is None or not found.is_estimated:
            return False
        return _avg_logprob(found) < least + _NEAR_THRESHOLD

    def _repeats(self, window: DecodedWindow) -> bool:
        most = self._options.compression_ratio_threshold
        return most is not None and window.compression_ratio > most

    def _best(self, tried: list[DecodedWindow]) -> DecodedWindow:
        """The last one, if it passes; else the most probable one of those that do not repeat."""
        if not self._needs_fallback(tried[-1]):
            return tried[-1]
        fine = [window for window in tried if not self._repeats(window)]
        return max(fine or tried, key=lambda window: window.avg_logprob)

    def _base_config(self) -> GenerationConfig:
        """What all temperatures have in common."""
        options, special = self._options, self._manifest.special_tokens
        config = check(GenerationConfig.of_bundle(self._manifest), self._manifest)
        begin = config.begin_suppress_tokens if options.suppress_blank else ()
        suppressed = set(options.suppress_tokens or ())
        if -1 in suppressed:
            suppressed = suppressed - {-1} | set(config.suppress_tokens)
        if suppressed != set(config.suppress_tokens):
            speech = self._speech
            control = [*speech.tasks.values(), special.decoder_start]
            control += [t for t in (speech.previous_text, speech.no_speech) if t is not None]
            suppressed |= set(control)
        changed: dict[str, Any] = {}
        if options.repetition_penalty != 1.0:
            changed["repetition_penalty"] = options.repetition_penalty
        if options.no_repeat_ngram_size:
            changed["no_repeat_ngram_size"] = options.no_repeat_ngram_size
        return replace(
            config,
            suppress_tokens=tuple(sorted(suppressed)),
            begin_suppress_tokens=begin,
            constraint=options.constraint,
            **changed,
        )

    def _config_of(self, temperature: float) -> GenerationConfig:
        options, config = self._options, self._config
        if temperature == 0:
            return replace(
                config,
                do_sample=False,
                draft_model=options.draft_model,
                num_assistant_tokens=options.num_assistant_tokens,
                num_beams=options.beam_size,
                num_return_sequences=1,
                length_penalty=options.length_penalty,
                patience=options.patience if options.beam_size > 1 else None,
            )
        return replace(
            config,
            do_sample=True,
            num_beams=1,
            num_return_sequences=options.best_of,
            temperature=temperature,
            top_k=0,
            seed=options.seed,
        )

    def _new_tokens(self, prompt_length: int) -> int:
        """As transformers counts: the prompt takes its part of the positions."""
        positions = self._manifest.dimensions.max_target_length
        room = _MOST_TOKENS if positions is None else positions - prompt_length
        own = self._options.max_new_tokens
        for name in ("max_new_tokens", "max_length"):
            limit = self._manifest.generation.get(name)
            if own is None and isinstance(limit, int):
                own = limit
        return max(1, room if own is None else min(own, room))

    def _processors(self, prompts: Sequence[DecoderPrompt]) -> list[MakeProcessor]:
        speech, options = self._speech, self._options
        if options.without_timestamps or speech.timestamp_begin is None:
            return []
        most = speech.max_initial_timestamp_index
        if options.max_initial_timestamp is not None:
            most = round(options.max_initial_timestamp / STEP)
        eos = min(self._eos)
        # A prefix counts as decoded. All windows of a call have the same.
        text = len(prompts[0].text)
        return [lambda length: TimestampRules(speech, eos, length - text, most)]


def _avg_logprob(found: Hypothesis) -> float:
    return found.logprob / max(1, len(found.token_ids))


def _compression_ratio(text: str) -> float:
    data = text.encode()
    return len(data) / len(zlib.compress(data))
