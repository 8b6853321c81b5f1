"""Speech recognition: load a bundle, transcribe recordings."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from ..audio import SAMPLING_RATE, AudioSource, open_audio
from ..audio.activity import SpeechOnly, VadOptions, detect_speech
from ..audio.opening import AudioInput
from ..backends import Backend, load_backend
from ..bundle.reader import Bundle
from ..errors import InputError
from ..model_base import LoadedModel
from ..text.tokenizer import Tokenizer, load_tokenizer
from .fallback import WindowDecoder
from .language import DetectedLanguage, check_language
from .options import TranscriptionKeywords, TranscriptionOptions, options_of
from .prompt import Prompting, checked_tokenizer, speech_info
from .segment_stream import SecondsProgress, SegmentStream
from .segments import SegmentMaker
from .sequential import Recognition
from .streaming import LiveTranscription
from .timeline import Timeline
from .transcription import Segment, Transcription
from .windows import LONGEST, WindowReader, clips_of
from .words import WordTimer

if TYPE_CHECKING:  # typing has it from Python 3.11 on
    from typing_extensions import Unpack


class SpeechModel(LoadedModel[Backend]):
    """A loaded speech recognition model. Use it as a context manager, from one or several threads.

    >>> with SpeechModel.load("whisper.bundle") as model:
    ...     print(model.transcribe("talk.wav").text)
    """

    def __init__(self, bundle: Bundle, backend: Backend, tokenizer: Tokenizer) -> None:
        super().__init__(bundle, backend)
        self.tokenizer = self.target_tokenizer = tokenizer
        self._speech = speech_info(bundle.manifest)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        backend: str = "onnxruntime",
        device: str | None = None,
        strict: bool = False,
        num_threads: int | None = None,
        max_memory: int | None = None,
        encoder_backend: str | None = None,
        precision: str | None = None,
    ) -> SpeechModel:
        """Open a speech bundle and load it into an engine.

        Args:
            path: the bundle's folder.
            backend: as of :meth:`.Seq2SeqModel.load`.
            device: as of :meth:`.Seq2SeqModel.load`.
            strict: as of :meth:`.Seq2SeqModel.load`.
            num_threads: as of :meth:`.Seq2SeqModel.load`.
            max_memory: as of :meth:`.Seq2SeqModel.load`.
            encoder_backend: as of :meth:`.Seq2SeqModel.load`.
            precision: as of :meth:`.Seq2SeqModel.load`.

        Raises:
            BundleError: the bundle is missing, incomplete, of a newer format, reads no speech, or
                has no tokenizer.
            BackendError: the engine is missing or too old for the bundle, or does not run on this
                machine.
        """
        bundle = Bundle.open(path)
        speech_info(bundle.manifest)
        tokenizer = checked_tokenizer(load_tokenizer(bundle), bundle.directory)
        loaded = load_backend(
            bundle,
            backend=backend,
            device=device,
            strict=strict,
            num_threads=num_threads,
            max_memory=max_memory,
            encoder_backend=encoder_backend,
            precision=precision,
        )
        return cls(bundle, loaded, tokenizer)

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that the model knows; ("en",) for an English one."""
        return tuple(sorted(self._speech.languages)) or ("en",)

    @property
    def sampling_rate(self) -> int:
        """Hz of the audio that the model reads; recordings are resampled to it."""
        return self._speech.sampling_rate

    def transcribe(
        self,
        audio: AudioInput | AudioSource,
        options: TranscriptionOptions | None = None,
        *,
        sampling_rate: int | None = None,
        on_segment: Callable[[Segment], None] | None = None,
        progress: SecondsProgress | None = None,
        cancelled: Callable[[], bool] | None = None,
        **keywords: Unpack[TranscriptionKeywords],
    ) -> Transcription:
        """The text of a recording.

        >>> model.transcribe("talk.wav", language="en", word_timestamps=True)

        Args:
            audio: a file's path, a binary file-like object, the bytes of a file, an array of
                samples (see :func:`seq2edge.runtime.audio.open_audio`), or what that returned.
            options: how to transcribe; None: the defaults.
            sampling_rate: Hz of an array; None: 16000. Files say theirs.
            on_segment: called with each segment as soon as it is final.
            progress: called after each window.
            cancelled: asked once a step of the decoder; when it says True, the transcription ends
                with the segments that are final. It may be called from any thread.
            keywords: fields of :class:`.TranscriptionOptions`, in place of those of ``options``.

        Raises:
            InputError: audio that cannot be read, or an impossible option.
            MissingDependencyError: a format or an option needs a package that is not installed.
            BackendError: the engine failed, or the model was closed.
        """
        with self.segments(
            audio,
            options,
            sampling_rate=sampling_rate,
            progress=progress,
            cancelled=cancelled,
            **keywords,
        ) as stream:
            for segment in stream:
                if on_segment is not None:
                    on_segment(segment)
            return stream.result

    def segments(
        self,
        audio: AudioInput | AudioSource,
        options: TranscriptionOptions | None = None,
        *,
        sampling_rate: int | None = None,
        progress: SecondsProgress | None = None,
        cancelled: Callable[[], bool] | None = None,
        **keywords: Unpack[TranscriptionKeywords],
    ) -> SegmentStream:
        """The segments of a recording as they become final; the arguments of :meth:`transcribe`.

        >>> with model.segments("talk.wav") as segments:
        ...     for segment in segments:
        ...         print(segment.start, segment.text)

        The options are checked, the audio is opened and the language is detected at once, the rest
        is done as segments are asked for.
        """
        chosen = options_of(cast("dict[str, Any]", keywords), options)
        check_language(chosen, self._speech)
        prompting = Prompting(self.manifest, self.tokenizer, chosen)
        with ExitStack() as opened:
            source = self._opened(audio, sampling_rate, opened)
            recognition = self._recognition(source, chosen, prompting, cancelled)
            detected = None
            if chosen.language is None:
                detected = recognition.detect_language()
            return SegmentStream(
                recognition, detected, self._batch_size(chosen), progress, opened.pop_all()
            )

    def stream(
        self,
        chunks: Iterable[ArrayLike],
        options: TranscriptionOptions | None = None,
        *,
        sampling_rate: int = SAMPLING_RATE,
        step_seconds: float = 1.0,
        cancelled: Callable[[], bool] | None = None,
        **keywords: Unpack[TranscriptionKeywords],
    ) -> LiveTranscription:
        """The text of live audio while it arrives.

        >>> with model.stream(read_pcm(sys.stdin.buffer), beam_size=1) as updates:
        ...     for update in updates:
        ...         print(update.text, end="", flush=True)

        Args:
            chunks: arrays of mono samples [n] of any length: integers are scaled by their type's
                range, floats have full scale at 1. The iterator may wait for audio.
            options: how to transcribe; None: the defaults.
            sampling_rate: Hz of the chunks.
            step_seconds: seconds of new audio after which the text is looked at again.
            cancelled: as of :meth:`transcribe`.
            keywords: fields of :class:`.TranscriptionOptions`, in place of those of ``options``.

        Raises:
            InputError: an impossible option, or one that live audio cannot have; later, a chunk
                that is no audio.
            BackendError: the engine failed, or the model was closed.
        """
        chosen = options_of(cast("dict[str, Any]", keywords), options)
        check_language(chosen, self._speech)
        return LiveTranscription(
            self._backend,
            self.manifest,
            self.tokenizer,
            chosen,
            chunks,
            sampling_rate=sampling_rate,
            step_seconds=step_seconds,
            cancelled=cancelled,
        )

    def detect_language(
        self,
        audio: AudioInput | AudioSource,
        *,
        sampling_rate: int | None = None,
        language_detection_segments: int = 1,
        language_detection_threshold: float | None = 0.5,
    ) -> DetectedLanguage:
        """The language that is spoken.

        Args:
            audio: as of :meth:`transcribe`.
            sampling_rate: as of :meth:`transcribe`.
            language_detection_segments: as of :class:`.TranscriptionOptions`.
            language_detection_threshold: as of :class:`.TranscriptionOptions`.

        Raises:
            InputError: audio that cannot be read, an impossible option, or a model that knows
                English only.
            BackendError: the engine failed, or the model was closed.
        """
        if not self._speech.languages:
            raise InputError("the model knows English only: it cannot detect a language")
        with self.segments(
            audio,
            sampling_rate=sampling_rate,
            language_detection_segments=language_detection_segments,
            language_detection_threshold=language_detection_threshold,
        ) as stream:
            if stream.detected is None:
                raise InputError("there is no audio to hear a language in")
            return stream.detected

    def _opened(
        self, audio: AudioInput | AudioSource, sampling_rate: int | None, opened: ExitStack
    ) -> AudioSource:
        if hasattr(audio, "num_samples"):
            if sampling_rate is not None:
                raise InputError("sampling_rate is for arrays; an opened recording says its own")
            return cast("AudioSource", audio)
        return opened.enter_context(
            open_audio(
                audio,
                sampling_rate=sampling_rate,
                target_sampling_rate=self._speech.sampling_rate,
            )
        )

    def _recognition(
        self,
        audio: AudioSource,
        options: TranscriptionOptions,
        prompting: Prompting,
        cancelled: Callable[[], bool] | None,
    ) -> Recognition:
        rate, pauses = self._speech.sampling_rate, []
        duration = audio.num_samples / rate
        if options.vad:
            audio = self._without_silence(audio, options)
            lengths = np.cumsum([end - start for start, end in audio.intervals])
            pauses = [int(length) // self._speech.hop_length for length in lengths]
        reader = WindowReader(
            self._backend,
            self.manifest,
            audio,
            fit=options.fit_window,
            draft=options.draft_model,
        )
        decoder = WindowDecoder(self._backend, self.manifest, self.tokenizer, options, cancelled)
        timeline = Timeline(audio, duration, rate)
        timer = None
        if options.word_timestamps:
            timer = WordTimer(self._backend, self.manifest, decoder.text_of, reader, options)
        return Recognition(
            speech=self._speech,
            reader=reader,
            decoder=decoder,
            prompting=prompting,
            segments=SegmentMaker(reader, decoder, timeline=timeline),
            options=options,
            clips=clips_of(cast("tuple[float, ...]", options.clip_timestamps), reader),
            timeline=timeline,
            timer=timer,
            pauses=pauses,
        )

    def _batch_size(self, options: TranscriptionOptions) -> int | None:
        limits = self._backend.capabilities.limits
        if options.batch_size is None or limits is None:
            return options.batch_size
        return min(options.batch_size, limits.max_batch)

    def _without_silence(self, audio: AudioSource, options: TranscriptionOptions) -> SpeechOnly:
        found = cast("VadOptions | None", options.vad_parameters) or VadOptions()
        if options.batch_size is not None and math.isinf(found.max_speech_duration_s):
            # Speech that does not fit into a window is cut in its longest pause.
            found = replace(found, max_speech_duration_s=LONGEST)
        return SpeechOnly(audio, detect_speech(audio, found, detector=options.vad_detector))
