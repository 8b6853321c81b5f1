"""Audio that is still arriving."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..audio import Samples
from ..audio.encodings import scaled
from ..audio.resample import StreamResampler, resampler
from ..audio.source import check_samples
from ..errors import InputError

_NAME = "the live audio"


class LiveAudio:
    """An :class:`.AudioSource` that grows at its end and forgets its beginning."""

    def __init__(self) -> None:
        self._samples = np.zeros(0, np.float32)
        #: The first sample that is still here.
        self.start = 0

    @property
    def num_samples(self) -> int:
        """So many have arrived."""
        return self.start + len(self._samples)

    def append(self, samples: Samples) -> None:
        self._samples = np.concatenate([self._samples, samples])

    def forget(self, before: int) -> None:
        """Samples before this one are not read again."""
        if before > self.start:
            self._samples = self._samples[before - self.start :].copy()
            self.start = before

    def read(self, start: int, stop: int) -> Samples:
        """Samples ``start`` to ``stop``, or to the present end: [n] float32."""
        if start < self.start:
            raise AssertionError(f"sample {start} is forgotten; {self.start} is the first one")
        return self._samples[start - self.start : max(start, stop) - self.start]


def received(chunks: Iterable[ArrayLike], sampling_rate: int, rate: int) -> Iterator[Samples]:
    """Chunks [n] of mono audio of any numeric type, as float32 at ``rate`` Hz.

    Raises:
        InputError: a chunk that is no audio, or a rate that is none.
    """
    resampling = StreamResampler(resampler(sampling_rate, rate, _NAME))
    return _received(chunks, resampling, sampling_rate)


def _received(
    chunks: Iterable[ArrayLike], resampling: StreamResampler, sampling_rate: int
) -> Iterator[Samples]:
    count = 0
    for chunk in chunks:
        array: NDArray[Any] = np.asarray(chunk)
        if array.ndim != 1 or (array.dtype.kind not in "iuf" and array.size):
            raise InputError(
                f"a chunk of audio is an array [samples] of integers or floats, not"
                f" {list(array.shape)} {array.dtype}"
            )
        samples = scaled(array)
        check_samples(samples, count, sampling_rate, _NAME)
        count += len(samples)
        yield resampling.push(samples)
    yield resampling.finish()
