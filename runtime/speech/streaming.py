"""Live audio to text: windows grow, and what two hypotheses agree on is final.

After each second or so the window is decoded again, behind the tokens that are final already, so
those never change. When the window is full (30 s) it is decoded as one of a recording: its whole
segments are final, and the next window begins where the last of them ends.

Source: Macháček et al. 2023, "Turning Whisper into Real-Time Transcription System"; that the final
tokens are the decoder's prompt, and that windows end as a recording's do, is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace

from numpy.typing import ArrayLike

from ..audio import SAMPLING_RATE
from ..audio.activity import VadOptions, detect_speech
from ..audio.source import ArrayAudio
from ..backends import Backend, EncoderOutput
from ..bundle.manifest import Manifest
from ..closing import ClosesOnExit
from ..errors import InputError
from ..text.tokenizer import Tokenizer
from .agreement import Agreement, end_seconds
from .fallback import DecodedWindow, WindowDecoder
from .features import LogMel
from .language import DetectedLanguage, languages_in
from .live_audio import LiveAudio, received
from .options import TranscriptionOptions
from .prompt import DecoderPrompt, Prompting, speech_info
from .segments import SegmentMaker
from .timestamps import STEP, Piece, split
from .transcription import Segment, Transcription
from .windows import Window, WindowReader
from .words import DecodedPieces, WordTimer

#: Silence that stays before the audio of a window where nobody has spoken yet, in seconds.
_LEAD = 1.0
#: Length of a window of a model that takes any length, in seconds.
_LONGEST = 30.0
#: Positions that a window's own text has at least, or earlier windows' text is left out.
_ROOM = 64


@dataclass(frozen=True)
class StreamUpdate:
    """What is known after some more audio.

    Attributes:
        text: what is final now and was not before; joined, those of all updates are the text.
        pending: what probably follows. The next update may say otherwise.
        segments: that are complete now, with their times.
        seconds: of audio that have been heard.
        delay: seconds of audio from the end of ``text`` to what was heard when it became final,
            about; None: no new text.
    """

    text: str
    pending: str
    seconds: float
    delay: float | None = None
    segments: list[Segment] = field(default_factory=list)


class LiveTranscription(ClosesOnExit):
    """An iterator of :class:`StreamUpdate`; :meth:`.SpeechModel.stream` makes it.

    Closing it (or leaving its ``with``) ends the transcription. Not for two threads at once.

    Attributes:
        language: code of the language; None: it is not known yet, or the model knows no codes.
        detected: the detected language; None: it was given, or is not known yet.
    """

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        tokenizer: Tokenizer,
        options: TranscriptionOptions,
        chunks: Iterable[ArrayLike],
        *,
        sampling_rate: int,
        step_seconds: float,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        _check(options, step_seconds, manifest)
        self._backend, self._manifest, self._options = backend, manifest, options
        self._speech = speech = speech_info(manifest)
        self._chunks = received(chunks, sampling_rate, speech.sampling_rate)
        self._step = max(speech.hop_length, round(step_seconds * speech.sampling_rate))
        self._audio = LiveAudio()
        self._prompting = Prompting(manifest, tokenizer, options)
        # A hypothesis is not tried again at higher temperatures: more audio comes soon.
        draft = replace(options, temperature=(0.0,), fit_window=True)
        self._decoder, self._later, self._drafts, self._later_drafts = (
            WindowDecoder(backend, manifest, tokenizer, each, cancelled)
            for each in (
                options,
                replace(options, suppress_blank=False),
                draft,
                replace(draft, suppress_blank=False),
            )
        )
        self._first_control = min(manifest.special_tokens.eos)
        self._frame_seconds = speech.hop_length / speech.sampling_rate
        self._window_frames = speech.window_frames or round(_LONGEST / self._frame_seconds)
        self._timestamp_begin = None if options.without_timestamps else speech.timestamp_begin
        english = None if speech.languages else "en"
        self.language = options.language or english
        self.detected: DetectedLanguage | None = None
        #: The frame where the window begins, and its tokens that are final.
        self._seek = 0
        self._final: list[int] = []
        self._previous: list[int] | None = None
        self._last: DecodedWindow | None = None
        self._loudest = float("-inf")
        self._segments: list[Segment] = []
        self._updates = self._run()

    def __iter__(self) -> Iterator[StreamUpdate]:
        return self

    def __next__(self) -> StreamUpdate:
        update = next(self._updates)
        self._segments += update.segments
        return update

    @property
    def result(self) -> Transcription:
        """The segments that are complete, as one transcription."""
        return Transcription(
            text="".join(segment.text for segment in self._segments).strip(),
            segments=list(self._segments),
            language=self.language,
            language_probability=None if self.detected is None else self.detected.probability,
            language_probabilities=None if self.detected is None else self.detected.probabilities,
            duration=self._seconds,
        )

    def close(self) -> None:
        """End the transcription. What is there stays."""
        self._updates.close()

    @property
    def _has_text(self) -> bool:
        return bool(self._final or self._segments)

    @property
    def _seconds(self) -> float:
        return self._audio.num_samples / self._speech.sampling_rate

    def _run(self) -> Generator[StreamUpdate, None, None]:
        """Updates as the audio comes; a cancelled call ends before a window that is not whole."""
        heard = 0
        for samples in self._chunks:
            self._audio.append(samples)
            if self._audio.num_samples - heard < self._step:
                continue
            heard = self._audio.num_samples
            while self._frames - self._seek >= self._window_frames:
                update = self._finish()
                if update is None:
                    return
                yield update
            if self._options.vad:
                self._skip_silence()
            update = self._draft() if self._frames > self._seek else None
            if update is None:
                continue
            yield update
        while self._frames > self._seek:
            update = self._finish()
            if update is None:
                return
            is_last = self._frames <= self._seek
            yield replace(update, pending="") if is_last else update
        if self._final:
            yield StreamUpdate("", "", self._seconds, segments=[self._rest()])

    @property
    def _frames(self) -> int:
        """Whole frames that have arrived; at least one, if there is any audio."""
        samples = self._audio.num_samples
        return max(min(samples, 1), samples // self._speech.hop_length)

    @property
    def _window(self) -> Window:
        return Window(self._seek, min(self._window_frames, self._frames - self._seek))

    def _draft(self) -> StreamUpdate | None:
        """A hypothesis about the window so far, and what of it stands; None: cancelled."""
        window, reader = self._window, self._reader(fit=True)
        if not self._final and reader.is_silent(window):
            self._previous = None
            return StreamUpdate("", "", self._seconds)
        decoded = self._decode(window, reader, draft=True)
        if decoded is None:
            return None
        found, _ = decoded
        most = self._options.compression_ratio_threshold
        if found.is_silence or (most is not None and found.compression_ratio > most):
            self._previous = None
            return StreamUpdate("", "", self._seconds)
        final, tokens = self._final, found.tokens
        if self._previous is not None:
            agreement = Agreement(self._decoder.text_of, self._first_control, self.language)
            count = agreement.length(self._previous, tokens)
            if count > len(final):
                self._final = tokens[:count]
        self._previous = tokens
        return self._update(window, tokens, final, len(self._final))

    def _finish(self) -> StreamUpdate | None:
        """Decode the window as one of a recording, and go on to the next; None: cancelled."""
        window, reader = self._window, self._reader(fit=self._options.fit_window)
        if not self._final and reader.is_silent(window):
            self._go_on(window.size)
            return StreamUpdate("", "", self._seconds)
        decoded = self._decode(window, reader, draft=False)
        if decoded is None:
            return None
        found, encoded = decoded
        self._last = found
        seconds, final = window.size * reader.frame_seconds, self._final
        pieces: list[Piece] = []
        segments: list[Segment] = []
        if final or not found.is_silence:
            pieces, seconds = split(found.tokens, seconds, self._timestamp_begin)
            self._prompting.remember([piece.tokens for piece in pieces], found.temperature)
            words = None
            if self._options.word_timestamps:
                timer = WordTimer(
                    self._backend, self._manifest, self._decoder.text_of, reader, self._options
                )
                decoded_pieces = DecodedPieces(window, found.tokens, pieces, self.language)
                (words,) = timer.words(encoded, [decoded_pieces])
            segments = SegmentMaker(reader, self._decoder).of_window(window, found, pieces, words)
        tokens = found.tokens if pieces else []
        whole = sum(len(piece.tokens) for piece in pieces)
        # What is final beyond the last whole segment is what the next window begins with.
        self._final = self._at_start(tokens[whole : len(final)])
        self._previous = None
        update = self._update(window, tokens, final, max(whole, len(final)))
        self._go_on(round(seconds / reader.frame_seconds) or window.size)
        first = len(self._segments)
        numbered = [replace(each, id=first + each.id) for each in segments]
        return replace(update, segments=numbered)

    def _rest(self) -> Segment:
        """What is final and in no segment: the model has put its end behind the audio's."""
        found, seconds = self._last, round(self._seconds, 3)
        if found is None:
            raise AssertionError("tokens that are final come from a window")
        return Segment(
            id=len(self._segments),
            start=seconds,
            end=seconds,
            text=self._decoder.text_of(self._final),
            tokens=self._final,
            avg_logprob=found.avg_logprob,
            compression_ratio=found.compression_ratio,
            no_speech_prob=found.no_speech_prob,
            temperature=found.temperature,
        )

    def _update(
        self, window: Window, tokens: list[int], before: list[int], count: int
    ) -> StreamUpdate:
        """Of ``tokens`` the first ``count`` stand, and those in ``before`` stood already."""
        text_of = self._decoder.text_of
        stands = text_of(tokens[:count])
        text = stands[len(text_of(before)) :]
        delay = None
        if text:
            duration = window.size * self._frame_seconds
            end = end_seconds(tokens, count, duration, self._timestamp_begin, STEP)
            delay = max(0.0, self._seconds - window.start * self._frame_seconds - end)
        return StreamUpdate(text, text_of(tokens)[len(stands) :], self._seconds, delay)

    def _decode(
        self, window: Window, reader: WindowReader, *, draft: bool
    ) -> tuple[DecodedWindow, EncoderOutput] | None:
        decoder = self._decoder_of(draft)
        source = reader.read(window)
        encoded = decoder.encode([source])
        if self._options.language is None and self._speech.languages and not self._has_text:
            logits = decoder.first_logits([source], encoded)
            self.detected = languages_in(logits, self._speech)[0]
            self.language = self.detected.language
        whole = (lambda _: reader.whole(window)) if reader.is_fitted and not draft else None
        found = decoder.decode([source], [self._prompt(window)], encoded, whole)
        return None if found is None else (found[0], encoded)

    def _prompt(self, window: Window) -> DecoderPrompt:
        """As of a recording's window, with the tokens that are final at its end."""
        prompt = self._prompting.of_window(self.language, first=window.start == 0)
        if not self._final:
            return prompt
        start, before = prompt.start, prompt.tokens[: len(prompt.tokens) - len(prompt.text)]
        most = self._manifest.dimensions.max_target_length
        if most is not None and len(before) + len(self._final) > most - _ROOM:
            start, before = 0, self._prompting.control(self.language)
        return DecoderPrompt([*before, *self._final], start, list(self._final))

    def _decoder_of(self, draft: bool) -> WindowDecoder:
        """The decoder of the next window; behind a text nothing may keep it from ending."""
        if not self._final:
            return self._drafts if draft else self._decoder
        return self._later_drafts if draft else self._later

    def _reader(self, *, fit: bool) -> WindowReader:
        return WindowReader(self._backend, self._manifest, self._audio, fit=fit, mel=self._mel())

    def _mel(self) -> LogMel | None:
        if self._speech.mel_bins is None:
            return None
        return LogMel(
            self._backend, self._speech, self._audio, since=self._seek, loudest=self._loudest
        )

    def _go_on(self, frames: int) -> None:
        """The window begins so many frames later."""
        mel = self._mel()
        if mel is not None:
            self._loudest = mel.loudest
        self._seek = min(self._seek + frames, self._frames)
        self._audio.forget(LogMel.first_sample(self._seek, self._speech))

    def _at_start(self, tokens: list[int]) -> list[int]:
        """Tokens of text as a window begins with them."""
        begin = self._timestamp_begin
        if not tokens or begin is None or tokens[0] >= begin:
            return tokens
        return [begin, *tokens]

    def _skip_silence(self) -> None:
        """Go on without the beginning of a window in which nobody has spoken."""
        if self._final or self._frames <= self._seek:
            return
        start = self._seek * self._speech.hop_length
        heard = ArrayAudio(self._audio.read(start, self._audio.num_samples), SAMPLING_RATE)
        if not detect_speech(heard, VadOptions(), detector="energy"):
            lead = round(_LEAD / self._frame_seconds)
            self._go_on(max(0, self._frames - self._seek - lead))


def _check(options: TranscriptionOptions, step_seconds: float, manifest: Manifest) -> None:
    """Refuse what live audio cannot have."""
    for name in ("clip_timestamps", "batch_size", "multilingual", "constraint"):
        if getattr(options, name):
            raise InputError(f"live audio has no {name}: transcribe the recording")
    if not step_seconds > 0:
        raise InputError(f"step_seconds must be above 0, not {step_seconds}")
    draft = options.draft_model
    if draft is not None:
        ours, other = speech_info(manifest), speech_info(draft.manifest)
        if (other.mel_bins, other.window_frames) != (ours.mel_bins, ours.window_frames):
            raise InputError("live audio needs a draft_model that reads the model's own features")
