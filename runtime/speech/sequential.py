"""One transcription: its language, and its windows one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..backends import EncoderOutput
from ..bundle.speech_info import SpeechInfo
from .fallback import WindowDecoder, WindowSource
from .language import DetectedLanguage, detect, languages_in
from .options import TranscriptionOptions
from .prompt import Prompting
from .segments import SegmentMaker
from .timeline import Timeline
from .timestamps import split
from .transcription import Segment, Word
from .windows import Window, WindowReader, fixed_windows
from .words import DecodedPieces, WordTimer


@dataclass(frozen=True)
class Done:
    """Segments that are final, and the frame up to which the recording is done."""

    segments: list[Segment]
    frame: int


class Recognition:
    """What the windows of one transcription share.

    Args:
        speech: of the bundle.
        reader, decoder, prompting, segments: of the transcription.
        options: as checked.
        clips: frames of the recording to transcribe; see :func:`.clips_of`.
        timeline: of the recording.
        timer: finds words; None: nobody asked for them.
        pauses: frames where speech ends, which windows of a batch may end at; none: anywhere.
    """

    def __init__(
        self,
        speech: SpeechInfo,
        reader: WindowReader,
        decoder: WindowDecoder,
        prompting: Prompting,
        segments: SegmentMaker,
        options: TranscriptionOptions,
        clips: Sequence[tuple[int, int]],
        timeline: Timeline,
        timer: WordTimer | None = None,
        pauses: Sequence[int] = (),
    ) -> None:
        self.speech = speech
        self.reader = reader
        self.decoder = decoder
        self.prompting = prompting
        self.segments = segments
        self.options = options
        self.clips = clips
        self.timeline = timeline
        self.timer = timer
        self.pauses = pauses
        #: The last window that was encoded: the first one is read for its language, then decoded.
        self._last: tuple[Window, WindowSource, EncoderOutput] | None = None

    @property
    def timestamp_begin(self) -> int | None:
        """The token of 0 seconds; None: windows are not cut by timestamps."""
        return None if self.options.without_timestamps else self.speech.timestamp_begin

    def encoded(self, window: Window) -> tuple[WindowSource, EncoderOutput]:
        if self._last is None or self._last[0] != window:
            source = self.reader.read(window)
            self._last = window, source, self.decoder.encode([source])
        return self._last[1:]

    def words_in(self, encoded: EncoderOutput, decoded: DecodedPieces) -> list[list[Word]] | None:
        """The words of a window's pieces; None: nobody asked for them."""
        return None if self.timer is None else self.timer.words(encoded, [decoded])[0]

    def whole(self, windows: Sequence[Window]) -> Callable[[int], WindowSource] | None:
        """For :meth:`.WindowDecoder.decode`: whole windows, where these are fitted."""
        if not self.reader.is_fitted:
            return None
        return lambda number: self.reader.whole(windows[number])

    def spoken_in(self, windows: Iterable[Window]) -> Iterator[DetectedLanguage]:
        """What is spoken in each window, one after the other."""
        for window in windows:
            source, encoded = self.encoded(window)
            yield languages_in(self.decoder.first_logits([source], encoded), self.speech)[0]

    def detect_language(self) -> DetectedLanguage | None:
        """The language of the recording; None: there is nothing to hear, or nothing to choose."""
        windows = fixed_windows(self.clips, self.reader.window_frames)
        if not self.speech.languages or not self.clips:
            return None
        return detect(self.spoken_in(windows), self.options)


def sequential(recognition: Recognition, language: str | None) -> Iterator[Done]:
    """Decode window by window; a cancelled call ends before a window that is not whole."""
    reader, options = recognition.reader, recognition.options
    for first, last in recognition.clips:
        seek = first
        while seek < last:
            window = Window(seek, min(reader.window_frames, last - seek))
            if reader.is_silent(window):
                seek += window.size
                yield Done([], seek)
                continue
            source, encoded = recognition.encoded(window)
            if options.multilingual:
                (spoken,) = recognition.spoken_in([window])
                language = spoken.language
            prompt = recognition.prompting.of_window(language, first=seek == 0)
            found = recognition.decoder.decode(
                [source], [prompt], encoded, recognition.whole([window])
            )
            if found is None:
                return
            segments: list[Segment] = []
            seconds = window.size * reader.frame_seconds
            if not found[0].is_silence:
                pieces, seconds = split(found[0].tokens, seconds, recognition.timestamp_begin)
                texts = [piece.tokens for piece in pieces]
                recognition.prompting.remember(texts, found[0].temperature)
                words = recognition.words_in(
                    encoded, DecodedPieces(window, found[0].tokens, pieces, language)
                )
                segments = recognition.segments.of_window(window, found[0], pieces, words)
            # A window that goes nowhere would be decoded for ever.
            seek += round(seconds / reader.frame_seconds) or window.size
            yield Done(segments, min(seek, last))
