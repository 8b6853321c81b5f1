"""What speech recognition reads: mono samples at a model's rate, any part of them at any time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..closing import ClosesOnExit
from ..errors import InputError
from .resample import resampler

Samples = NDArray[np.float32]

#: Hz; what speech models are trained on.
SAMPLING_RATE = 16000
#: Samples beyond this are no sound: full scale is 1, and integers kept as floats stay below it.
_LARGEST = 2.0**32
#: Samples at its own rate that are checked and resampled at once.
_PIECE = 1 << 20


class AudioSource(Protocol):
    """A recording of which any part can be read."""

    @property
    def num_samples(self) -> int:
        """Its length at :data:`SAMPLING_RATE`."""
        ...

    def read(self, start: int, stop: int) -> Samples:
        """Samples ``start`` to ``stop``, or to the end: [n] float32, mono, full scale 1."""
        ...


class NativeAudio(Protocol):
    """A recording as it is stored: :class:`AudioSource` at a rate of its own."""

    @property
    def sampling_rate(self) -> int: ...

    @property
    def num_samples(self) -> int: ...

    def read(self, start: int, stop: int) -> Samples: ...


class Audio(ClosesOnExit):
    """A recording at ``sampling_rate``; :func:`.open_audio` makes it. Not for two threads at once.

    It reads in pieces what it is asked for, so hours of audio take no memory. A part is the same
    whatever else was read.

    Args:
        native: the samples as they are stored.
        name: what error messages call it.
        sampling_rate: Hz of what is read from here.
        close: called by :meth:`close`.

    Raises:
        InputError: there are no samples, or the stored rate is no rate.
    """

    def __init__(
        self,
        native: NativeAudio,
        name: str,
        *,
        sampling_rate: int = SAMPLING_RATE,
        close: Callable[[], None] | None = None,
    ) -> None:
        if native.num_samples == 0:
            raise InputError(f"{name} is empty: it holds no audio samples")
        self.name = name
        self.sampling_rate = sampling_rate
        self._native = native
        self._close = close
        self._resampler = resampler(native.sampling_rate, sampling_rate, name)

    @property
    def num_samples(self) -> int:
        return self._resampler.num_outputs(self._native.num_samples)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self._native.num_samples / self._native.sampling_rate

    def read(self, start: int, stop: int) -> Samples:
        """Samples ``start`` to ``stop``, or to the end: [n] float32, mono, full scale 1.

        Raises:
            InputError: samples there are not numbers (NaN, infinite), or the file cannot be read.
        """
        start, stop = max(0, start), min(stop, self.num_samples)
        if stop <= start:
            return np.zeros(0, np.float32)
        return self._resampler.read(self._checked, self._native.num_samples, start, stop)

    def _checked(self, start: int, stop: int) -> Samples:
        samples = self._native.read(start, stop)
        check_samples(samples, start, self._native.sampling_rate, self.name)
        return samples

    def close(self) -> None:
        """Close the file. The audio cannot be read afterwards."""
        if self._close is not None:
            self._close()

    def __repr__(self) -> str:
        return f"Audio({self.name!r}, {self.duration:.2f} s)"


class ArrayAudio:
    """Samples in memory: [n] float32, mono."""

    def __init__(self, samples: Samples, sampling_rate: int) -> None:
        self._samples = samples
        self.sampling_rate = sampling_rate

    @property
    def num_samples(self) -> int:
        return len(self._samples)

    def read(self, start: int, stop: int) -> Samples:
        return self._samples[start:stop]


def check_samples(samples: Samples, start: int, sampling_rate: int, name: str) -> None:
    """Refuse samples that are no sound; the first of them is number ``start``.

    Raises:
        InputError: one that is NaN, infinite, or beyond 2 ** 32; it says where.
    """
    # One pass for all three: NaN is in the maximum, and not at most anything.
    if not len(samples) or max(-samples.min(), samples.max()) <= _LARGEST:
        return
    bad = int(np.argmin(np.abs(samples) <= _LARGEST))
    second = (start + bad) / sampling_rate
    raise InputError(
        f"{name} holds a sample that is no sound ({samples[bad]:g}, at {second:.2f} s); samples"
        " must be finite numbers, with full scale at 1"
    )
