"""Log-mel features of a recording of any length, read in pieces.

They are those of transformers' WhisperFeatureExtractor of the whole recording, which holds all of
it at once. A feature depends on its own surroundings and on one number of the whole recording: what
is more than 2 below the loudest one is raised to that. So a first pass finds the loudest, and parts
are extracted when they are asked for.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from ..audio import AudioSource
from ..backends import Backend
from ..bundle.speech_info import SpeechInfo
from ..errors import BundleError

Features = NDArray[np.float32]

#: What of the features below the recording's loudest is kept: 8 in log10, which they are 1/4 of.
_RANGE = 2.0
#: A feature of digital silence: log10 of the extractor's floor 1e-10, on the features' scale.
_SILENCE = np.float32((-10 + 4) / 4)
#: Frames that are kept together: 30 s.
_PIECE = 3000
#: Frames that the graph is run for at once. It takes 11 kB for each: 34 MB for all of a piece.
_AT_ONCE = 1000
#: Frames beside a piece whose samples its own frames read (200 of them with a hop of 160).
_MARGIN = 2
#: Pieces that are kept: a window lies in two, and the next one begins in the second.
_KEPT = 3


class LogMel:
    """Features of any part of a recording. Not for two threads at once.

    A recording that fits into one window counts as followed by silence to the window's end, as
    transformers pads it, and a longer one ends where it ends.

    Args:
        backend: of a bundle with a graph ``features``.
        speech: the bundle's.
        audio: the recording, at the model's rate.
        since: the first frame that will be asked for; samples before its surroundings
            (:meth:`first_sample`) are not read. For audio that arrives and is forgotten.
        loudest: the largest feature before ``since``.
    """

    def __init__(
        self,
        backend: Backend,
        speech: SpeechInfo,
        audio: AudioSource,
        *,
        since: int = 0,
        loudest: float = -np.inf,
    ) -> None:
        self._backend, self._audio = backend, audio
        self._mels, self._hop = speech.mel_bins or 0, speech.hop_length
        #: Whole frames of the recording.
        self.num_frames = audio.num_samples // self._hop
        window = (speech.window_frames or 0) * self._hop
        self._is_short = audio.num_samples <= window
        #: Where a short recording ends with its silence.
        self._end = window
        self._pieces: OrderedDict[tuple[int, bool], Features] = OrderedDict()
        self._since, self._before = since, loudest
        self._loudest: float | None = None

    @staticmethod
    def first_sample(since: int, speech: SpeechInfo) -> int:
        """The first sample that frames from ``since`` on need."""
        return max(0, since // _PIECE * _PIECE - _MARGIN) * speech.hop_length

    @property
    def loudest(self) -> float:
        """The largest feature of the recording."""
        if self._loudest is None:
            pieces = range(self._since // _PIECE, -(-max(1, self.num_frames) // _PIECE))
            found = [float(self._piece(piece, self._is_short).max()) for piece in pieces]
            self._loudest = max([self._before, *found])
        return self._loudest

    def window(self, start: int, num_frames: int, *, pad: str = "features") -> Features:
        """Frames ``start`` to ``start + num_frames``: [mels, num_frames] float32.

        Args:
            pad: what follows the recording: ``features`` of 0, or silent ``audio``.

        Raises:
            InputError: samples that are not numbers, or a file that cannot be read.
            BackendError: the engine failed.
        """
        silent = pad == "audio"
        floor = np.float32(self.loudest - _RANGE)
        stop = start + num_frames
        last = stop if silent else min(stop, self.num_frames)
        found = np.zeros((self._mels, num_frames), np.float32)
        for piece in range(start // _PIECE, -(-last // _PIECE)):
            first = piece * _PIECE
            begin, end = max(start, first), min(last, first + _PIECE)
            values = self._piece(piece, silent or self._is_short)[:, begin - first : end - first]
            found[:, begin - start : end - start] = np.maximum(values, floor)
        return found

    def _piece(self, piece: int, silent: bool) -> Features:
        """All frames of a piece, [mels, n], before those that are too low are raised.

        Args:
            silent: whether silence follows the recording; else the last piece is shorter.
        """
        first = piece * _PIECE
        stop = first + _PIECE
        near_end = stop + _MARGIN > self.num_frames
        key = (piece, silent and near_end)
        if key in self._pieces:
            self._pieces.move_to_end(key)
            return self._pieces[key]
        if silent:
            last = min(
                stop, max(first, self.num_frames + _MARGIN)
            )  # the rest is nothing but silence
            values = np.full((self._mels, _PIECE), _SILENCE, np.float32)
            if last > first:
                values[:, : last - first] = self._extract(first, last, silent)
        else:
            values = self._extract(first, min(stop, self.num_frames), silent)
        self._pieces[key] = values
        if len(self._pieces) > _KEPT:
            self._pieces.popitem(last=False)
        return values

    def _extract(self, first: int, stop: int, silent: bool) -> Features:
        """Frames ``first`` to ``stop``."""
        values = np.empty((self._mels, stop - first), np.float32)
        for begin in range(first, stop, _AT_ONCE):
            end = min(stop, begin + _AT_ONCE)
            values[:, begin - first : end - first] = self._run(begin, end, silent)
        return values

    def _run(self, first: int, stop: int, silent: bool) -> Features:
        """Frames ``first`` to ``stop`` by the graph, which takes what it gets for a recording."""
        begin = max(0, first - _MARGIN)
        end = (stop + _MARGIN) * self._hop
        if self._is_short and stop * self._hop <= self._end:
            end = min(end, self._end)
        samples = self._audio.read(begin * self._hop, end)
        if silent:
            samples = np.pad(samples, (0, end - begin * self._hop - len(samples)))
        found = self._backend.run_graph("features", {"audio": samples[None]})["log_mel"][0]
        promised = (self._mels, len(samples) // self._hop)
        if found.shape != promised:
            raise BundleError(
                f"the graph of features gives {found.shape[0]} x {found.shape[1]} values for"
                f" {len(samples)} samples, where speech.mel_bins and speech.hop_length of the"
                f" manifest promise {promised[0]} x {promised[1]}"
            )
        values: Features = found[:, first - begin : stop - begin]
        return values
