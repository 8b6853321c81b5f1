"""A speech bundle under measurement: transcriptions of recordings, and what takes how long."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from seq2edge.runtime import Bundle
from seq2edge.runtime.audio import open_audio
from seq2edge.runtime.backends import Backend
from seq2edge.runtime.generation.divergence import SpokenPair
from seq2edge.runtime.progress import CountProgress
from seq2edge.runtime.speech.fallback import WindowDecoder, WindowSource
from seq2edge.runtime.speech.model import SpeechModel
from seq2edge.runtime.speech.options import TranscriptionOptions, options_of
from seq2edge.runtime.speech.prompt import DecoderPrompt, Prompting, checked_tokenizer, speech_info
from seq2edge.runtime.speech.windows import Window, WindowReader
from seq2edge.runtime.text.tokenizer import load_tokenizer

from .data import Example
from .evaluate import Output
from .recordings import Recording
from .settings import Settings
from .speed import SpeechTiming, Timing

#: One greedy pass a window, whatever comes of it.
_GREEDY = {
    "beam_size": 1,
    "temperature": 0.0,
    "compression_ratio_threshold": None,
    "log_prob_threshold": None,
    "no_speech_threshold": None,
}


@dataclass(frozen=True)
class Transcript:
    """What was heard in a recording; an :class:`.Output`.

    Attributes:
        text: of all segments.
        token_ids: of all segments, timestamps included.
        language: of the transcription.
    """

    text: str | None
    token_ids: Sequence[int] = field(repr=False)
    language: str | None


class SpeechSubject:
    """A bundle that hears speech; a :class:`.Subject`. Its examples are recordings."""

    def __init__(self, bundle: Bundle, backend: Backend, settings: Settings) -> None:
        self.bundle, self.backend = bundle, backend
        self._speech = speech_info(bundle.manifest)
        self.tokenizer = checked_tokenizer(load_tokenizer(bundle), bundle.directory)
        self._model = SpeechModel(bundle, backend, self.tokenizer)
        given = {
            "language": settings.language,
            "task": settings.task,
            "beam_size": settings.num_beams,
            "max_new_tokens": settings.max_new_tokens,
            "batch_size": settings.batch_size,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        # Where a temperature above 0 is tried, it gives the same each time.
        self._options = options_of({"seed": 0, **chosen})
        self._greedy = options_of(dict(_GREEDY), replace(self._options, batch_size=None))
        #: As first heard: a detection is no part of the times of what follows.
        self._languages: dict[Path, str | None] = {}

    @property
    def options(self) -> TranscriptionOptions:
        return self._options

    def check(self, examples: Sequence[Example]) -> None:
        _recordings(examples)

    def answer(
        self, examples: Sequence[Example], progress: CountProgress | None = None
    ) -> Sequence[Output]:
        found = []
        for recording in _recordings(examples):
            heard = self._model.transcribe(recording.path, self._options)
            tokens = [token for segment in heard.segments for token in segment.tokens]
            found.append(Transcript(heard.text, tokens, heard.language))
            self._languages[recording.path] = heard.language
            if progress is not None:
                progress(len(found), len(examples))
        return found

    def pair(self, example: Example, output: Output) -> SpokenPair:  # noqa: ARG002
        """The first window, and its greedy text with times.

        A transcription's own tokens come of several windows and prompts; they don't do.
        """
        (recording,) = _recordings([example])
        with self._first_window(recording) as (decoder, source, prompt):
            decoded = decoder.decode([source], [prompt], decoder.encode([source]))
        if decoded is None:
            raise AssertionError("nobody cancels it")
        tokens = [*decoded[0].tokens[len(prompt.text) :]]
        most = self.bundle.manifest.dimensions.max_target_length
        if most is None or len(prompt.tokens) + len(tokens) < most:
            tokens.append(min(self.bundle.manifest.special_tokens.eos))
        return SpokenPair(source.inputs(), prompt.tokens, tokens)

    def timed(self, example: Example) -> Timing:
        """Of the whole recording; the parts are those of its first window."""
        (recording,) = _recordings([example])
        options = replace(self._greedy, language=self._language(recording))
        start = time.perf_counter()
        heard = self._model.transcribe(recording.path, options)
        total = time.perf_counter() - start
        with self._first_window(recording) as (decoder, source, prompt):
            start = time.perf_counter()
            encoded = decoder.encode([source])
            middle = time.perf_counter()
            decoded = decoder.decode([source], [prompt], encoded)
            end = time.perf_counter()
        if decoded is None:
            raise AssertionError("nobody cancels it")
        steps = 1 + len(decoded[0].tokens)  # the end is a token as well
        return Timing(
            1e3 * total,
            sum(len(segment.tokens) for segment in heard.segments),
            SpeechTiming(1e3 * (middle - start), 1e3 * (end - middle) / steps),
        )

    def _language(self, recording: Recording) -> str | None:
        if not self._speech.languages:
            return None
        if recording.path not in self._languages:
            found = self._options.language
            if found is None:
                found = self._model.detect_language(recording.path).language
            self._languages[recording.path] = found
        return self._languages[recording.path]

    @contextmanager
    def _first_window(
        self, recording: Recording
    ) -> Iterator[tuple[WindowDecoder, WindowSource, DecoderPrompt]]:
        manifest = self.bundle.manifest
        with open_audio(recording.path, target_sampling_rate=self._speech.sampling_rate) as audio:
            reader = WindowReader(self.backend, manifest, audio, fit=False)
            window = Window(0, min(reader.window_frames, reader.num_frames))
            prompt = Prompting(manifest, self.tokenizer, self._greedy).of_window(
                self._language(recording), first=True
            )
            decoder = WindowDecoder(self.backend, manifest, self.tokenizer, self._greedy)
            yield decoder, reader.read(window), prompt


def _recordings(examples: Sequence[Example]) -> list[Recording]:
    found = [example for example in examples if isinstance(example, Recording)]
    if len(found) < len(examples):
        raise TypeError("speech is measured on recordings: read them with read_recordings")
    return found
