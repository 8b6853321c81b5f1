"""Tokens to words, and words to times."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..backends import Backend, EncoderOutput
from ..bundle.manifest import Manifest
from ..errors import InputError
from .alignment import token_ends
from .options import TranscriptionOptions
from .prompt import control_tokens, speech_info
from .timestamps import Piece
from .transcription import Word
from .windows import Window, WindowReader

#: Languages that are written without spaces.
_SPACELESS = ("zh", "ja", "th", "lo", "my", "yue")
#: What the decoding of tokens has where a character is not complete.
_INCOMPLETE = "\ufffd"
_ALIGNMENT = "alignment"


@dataclass(frozen=True)
class DecodedPieces:
    """What was decoded of a window.

    Attributes:
        window: the part of the recording.
        tokens: all that was decoded, without the end token.
        pieces: its segments, of whose tokens ``tokens`` are made; more may follow.
        language: code of what was spoken; None: English.
    """

    window: Window
    tokens: Sequence[int]
    pieces: Sequence[Piece]
    language: str | None


@dataclass(frozen=True)
class TokenWord:
    """A word as its text and its tokens."""

    text: str
    tokens: list[int]


class WordTimer:
    """Finds the words of decoded windows and their times.

    Args:
        backend, manifest: of a speech bundle.
        decode: from text tokens to their text.
        reader: of the recording.
        options: the task, and which punctuation belongs to which word.

    Raises:
        InputError: the bundle has no alignment graph.
    """

    def __init__(
        self,
        backend: Backend,
        manifest: Manifest,
        decode: Callable[[Sequence[int]], str],
        reader: WindowReader,
        options: TranscriptionOptions,
    ) -> None:
        if _ALIGNMENT not in manifest.graphs:
            raise InputError(
                "word_timestamps need the model's alignment heads, and the bundle has none: its"
                " checkpoint's generation_config.json did not name alignment_heads"
            )
        self._backend = backend
        self._decode = decode
        self._reader = reader
        self._options = options
        self._start = manifest.special_tokens.decoder_start
        self._eos = manifest.special_tokens.eos[0]
        self._speech = speech_info(manifest)

    def words(
        self, encoded: EncoderOutput, windows: Sequence[DecodedPieces]
    ) -> list[list[list[Word]]]:
        """The words of each piece of each window, with times in seconds of the window.

        Args:
            encoded: the encoder's output for the windows.
            windows: what was decoded of each, in the same order.
        """
        if not any(window.tokens for window in windows):
            return [[[] for _ in window.pieces] for window in windows]
        before = [self._control(window) for window in windows]
        rows = [[*control, *window.tokens] for control, window in zip(before, windows, strict=True)]
        ids = np.full((len(rows), max(map(len, rows))), self._eos, np.int64)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        outputs = self._backend.run_graph(_ALIGNMENT, {"input_ids": ids}, encoded)
        found = []
        for number, window in enumerate(windows):
            # From the last control token, which predicts the first token, to the last one. A
            # timestamp that comes first takes that part: it needs nothing before it.
            first, last = len(before[number]) - 1, len(rows[number])
            if window.tokens and window.tokens[0] >= self._eos:
                first += 1
            positions = max(1, window.window.size // self._speech.frames_per_position)
            weights = outputs["alignment_weights"][number][:, first:last, :positions]
            ends = np.zeros(1, np.int64) if last <= first else token_ends(weights)
            if first == len(before[number]):
                ends = np.concatenate(([0], ends))
            probabilities = np.exp(outputs["logprobs"][number][len(before[number]) - 1 :])
            found.append(self._in_pieces(window, ends, probabilities))
        return found

    def _control(self, window: DecodedPieces) -> list[int]:
        options = self._options
        return control_tokens(
            self._start, self._speech, window.language, options.task, options.without_timestamps
        )

    def _in_pieces(
        self, window: DecodedPieces, starts: NDArray[np.int64], probabilities: NDArray[np.float32]
    ) -> list[list[Word]]:
        """The words of each piece.

        Args:
            window: what was decoded.
            starts: [tokens + 1] positions at which its tokens begin, and the last one ends.
            probabilities: of its tokens.
        """
        options, found, place = self._options, [], 0
        seconds = starts * self._speech.frames_per_position * self._reader.frame_seconds
        for piece in window.pieces:
            places = [
                place + number for number, token in enumerate(piece.tokens) if token < self._eos
            ]
            place += len(piece.tokens)
            text, words = [window.tokens[number] for number in places], []
            for word in split_words(text, self._decode, window.language or "en"):
                mine, places = places[: len(word.tokens)], places[len(word.tokens) :]
                start, end = seconds[mine[0]], seconds[mine[-1] + 1]
                probability = float(probabilities[mine].mean())
                words.append(Word(float(start), float(end), word.text, probability))
            found.append(merged(words, options.prepend_punctuations, options.append_punctuations))
        return found


def split_words(
    tokens: Sequence[int], decode: Callable[[Sequence[int]], str], language: str
) -> list[TokenWord]:
    """Words of text tokens: by spaces, or where there are none, by characters.

    Signs of punctuation are words of their own.
    """
    characters = _split_characters(tokens, decode)
    if language in _SPACELESS:
        return characters
    words: list[TokenWord] = []
    for part in characters:
        begins = part.text.startswith(" ") or part.text.strip() in string.punctuation
        if begins or not words:
            words.append(part)
        else:
            last = words[-1]
            words[-1] = TokenWord(last.text + part.text, last.tokens + part.tokens)
    return words


def _split_characters(
    tokens: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> list[TokenWord]:
    """The least groups of tokens that are whole characters."""
    whole = decode(tokens)
    words: list[TokenWord] = []
    group: list[int] = []
    done = 0
    for token in tokens:
        group.append(token)
        text = decode(group)
        place = text.find(_INCOMPLETE)
        # The text itself may hold that sign.
        if place < 0 or whole[done + place : done + place + 1] == _INCOMPLETE:
            words.append(TokenWord(text, group))
            done += len(text)
            group = []
    if group:
        words.append(TokenWord(decode(group), group))
    return words


def merged(words: Sequence[Word], prepended: str, appended: str) -> list[Word]:
    """Words with their punctuation, whose times they do not take over."""
    left: list[Word] = []
    for word in reversed(words):
        sign = word.word.strip()
        if left and word.word.startswith(" ") and sign and sign in prepended:
            left[-1] = replace(left[-1], word=word.word + left[-1].word)
        else:
            left.append(word)
    found: list[Word] = []
    for word in reversed(left):
        if found and word.word and word.word in appended and not found[-1].word.endswith(" "):
            found[-1] = replace(found[-1], word=found[-1].word + word.word)
        else:
            found.append(word)
    return found
