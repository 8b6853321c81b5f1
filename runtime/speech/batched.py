"""Several windows in one batch, each decoded as a recording of its own.

Windows end where somebody pauses, if the intervals of speech are known, else after 30 s: then a
word may be cut. Source: Bain et al. 2023, "WhisperX", section 2.2 (VAD cut and merge).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from .language import languages_in
from .sequential import Done, Recognition
from .timestamps import Piece, split
from .windows import Window, fixed_windows
from .words import DecodedPieces


def batched(recognition: Recognition, language: str | None, batch_size: int) -> Iterator[Done]:
    """Decode batches of windows; a cancelled call ends before a batch that is not whole."""
    windows = iter(_windows(recognition))
    while batch := list(islice(windows, batch_size)):
        done = _decoded(recognition, batch, language)
        if done is None:
            return
        yield done


def _decoded(
    recognition: Recognition, windows: Sequence[Window], language: str | None
) -> Done | None:
    reader, decoder, options = recognition.reader, recognition.decoder, recognition.options
    longest = max(window.size for window in windows)
    sources = [reader.read(window, longest) for window in windows]
    encoded = decoder.encode(sources)
    languages = [language] * len(windows)
    if options.multilingual:
        logits = decoder.first_logits(sources, encoded)
        languages = [found.language for found in languages_in(logits, recognition.speech)]
    prompts = [recognition.prompting.of_window(each) for each in languages]
    results = decoder.decode(sources, prompts, encoded, recognition.whole(windows))
    if results is None:
        return None
    decoded = []
    for window, found, spoken in zip(windows, results, languages, strict=True):
        seconds = window.size * reader.frame_seconds
        pieces: list[Piece] = []
        if not found.is_silence:
            # No other window hears again what follows the last pair of timestamps.
            pieces, _ = split(found.tokens, seconds, recognition.timestamp_begin, rest=True)
        decoded.append(DecodedPieces(window, found.tokens, pieces, spoken))
    words = None if recognition.timer is None else recognition.timer.words(encoded, decoded)
    segments = []
    for number, (each, found) in enumerate(zip(decoded, results, strict=True)):
        mine = None if words is None else words[number]
        segments += recognition.segments.of_window(each.window, found, each.pieces, mine)
    return Done(segments, windows[-1].start + windows[-1].size)


def _windows(recognition: Recognition) -> Iterator[Window]:
    most = recognition.reader.window_frames
    windows = (
        _merged(recognition.pauses, most)
        if recognition.pauses
        else fixed_windows(recognition.clips, most)
    )
    return (window for window in windows if not recognition.reader.is_silent(window))


def _merged(ends: Sequence[int], most: int) -> Iterator[Window]:
    """As much speech as fits in a window; longer speech without a pause is cut.

    Args:
        ends: frames where speech ends, ascending; it begins where the one before ends.
        most: frames of a window.
    """
    start = last = 0
    for end in ends:
        if end - start > most and last > start:
            yield Window(start, last - start)
            start = last
        while end - start > most:
            yield Window(start, most)
            start += most
        last = end
    if last > start:
        yield Window(start, last - start)
