"""Another sampling rate: a polyphase filter, whose parts join without a seam.

The filter is a sinc in a Kaiser window (J. F. Kaiser, R. W. Schafer, "On the use of the I0-sinh
window for spectrum analysis", 1980), flat to 91.3 % of the lower rate's Nyquist frequency and 120
dB down from that frequency on: the figures of soxr's "high quality". Sample n stands for the time
n / rate at both rates, and ``ceil(n * rate_out / rate_in)`` samples come out of n.

Outputs are computed in chunks at fixed places, always with arrays of the same shape. So a part of
a recording is, bit for bit, the same part of the whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from math import ceil, gcd, pi

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..errors import InputError

FloatArray = NDArray[np.float32]
#: Reads samples ``start`` to ``stop`` of the input, both within it.
Reader = Callable[[int, int], FloatArray]

_PASSBAND = 0.913
_ATTENUATION = 120.0  # dB
_BETA = 0.1102 * (_ATTENUATION - 8.7)
#: Outputs of a chunk, about: short for live audio, long enough for a matrix product.
_CHUNK = 2400
#: Entries of the largest matrix: 8 MB.
_LARGEST_MATRIX = 1 << 21
#: Phases of the table that replaces a larger one. Linear interpolation between them errs by 1.3e-7.
_PHASES = 1024
#: Samples that are read and filtered at once.
_PIECE = 1 << 20
_RATES = range(100, 1_000_001)


def resampler(rate_in: int, rate_out: int, name: str = "the audio") -> Resampler:
    """What turns samples at ``rate_in`` Hz into samples at ``rate_out`` Hz.

    Raises:
        InputError: a rate that no recording has; the message calls the recording ``name``.
    """
    for rate in (rate_in, rate_out):
        if rate not in _RATES:
            raise InputError(
                f"{name} has a sampling rate of {rate} Hz; it must be a whole number from"
                f" {_RATES.start} to {_RATES.stop - 1}"
            )
    return _resampler(int(rate_in), int(rate_out))


class Resampler(ABC):
    """From rate M to rate L, without a common factor.

    Attributes:
        changes: whether the rates differ.
    """

    changes = True

    def __init__(self, up: int, down: int) -> None:
        self._up, self._down = up, down

    def num_outputs(self, num_inputs: int) -> int:
        """Samples that come out of so many."""
        return -(-num_inputs * self._up // self._down)

    def read(self, reader: Reader, num_inputs: int, start: int, stop: int) -> FloatArray:
        """Outputs ``start`` to ``stop``, both within them, of an input of ``num_inputs``.

        Around the input there is silence.
        """
        size = self.outputs_per_chunk
        found = np.empty(stop - start, np.float32)
        per_piece = max(1, _PIECE * self._up // self._down // size)
        last = -(-stop // size)
        for first in range(start // size, last, per_piece):
            chunks = range(first, min(first + per_piece, last))
            begin, end = self.window(chunks[0])[0], self.window(chunks[-1])[1]
            inside = slice(min(max(begin, 0), num_inputs), max(0, min(end, num_inputs)))
            samples = np.zeros(end - begin, np.float32)
            if inside.start < inside.stop:
                samples[inside.start - begin : inside.stop - begin] = reader(
                    inside.start, inside.stop
                )
            for chunk in chunks:
                a, b = self.window(chunk)
                outputs = self.filter(chunk, samples[a - begin : b - begin])
                low, high = max(start, chunk * size), min(stop, (chunk + 1) * size)
                found[low - start : high - start] = outputs[
                    low - chunk * size : high - chunk * size
                ]
        return found

    @property
    @abstractmethod
    def outputs_per_chunk(self) -> int: ...

    @abstractmethod
    def window(self, chunk: int) -> tuple[int, int]:
        """Start and stop of the inputs of a chunk; they may lie outside of the input."""

    @abstractmethod
    def filter(self, chunk: int, window: FloatArray) -> FloatArray:
        """The outputs of a chunk, [outputs_per_chunk], of the inputs of its window."""


class StreamResampler:
    """Resamples audio that arrives in chunks; what comes out is the whole's, in order.

    Args:
        resampler: from the audio's rate to the wanted one.
    """

    def __init__(self, resampler: Resampler) -> None:
        self._resampler = resampler
        self._chunk = 0
        self._start = resampler.window(0)[0]
        # Silence comes before the first sample.
        self._samples = np.zeros(-self._start, np.float32)
        self._received = 0

    def push(self, samples: FloatArray) -> FloatArray:
        """The outputs, [n], that are complete with ``samples`` [m]."""
        if not self._resampler.changes:  # no need to wait for a whole chunk
            return samples
        self._received += len(samples)
        self._samples = np.concatenate([self._samples, samples])
        outputs = []
        while True:
            begin, end = self._resampler.window(self._chunk)
            if end - self._start > len(self._samples):
                break
            window = self._samples[begin - self._start : end - self._start]
            outputs.append(self._resampler.filter(self._chunk, window))
            self._chunk += 1
        begin = self._resampler.window(self._chunk)[0]
        self._samples = self._samples[max(0, begin - self._start) :].copy()
        self._start = max(begin, self._start)
        return np.concatenate([np.zeros(0, np.float32), *outputs])

    def finish(self) -> FloatArray:
        """The outputs that are left, with silence after the last sample."""
        size, received = self._resampler.outputs_per_chunk, self._received
        left = self._resampler.num_outputs(received) - self._chunk * size
        outputs = [np.zeros(0, np.float32)]
        while left > sum(map(len, outputs)):
            end = self._resampler.window(self._chunk)[1]
            outputs.append(
                self.push(np.zeros(max(0, end - self._start - len(self._samples)), np.float32))
            )
        return np.concatenate(outputs)[: max(0, left)]


class _Same(Resampler):
    """Nothing to do."""

    changes = False
    outputs_per_chunk = _CHUNK

    def read(self, reader: Reader, num_inputs: int, start: int, stop: int) -> FloatArray:  # noqa: ARG002
        return reader(start, stop)

    def window(self, chunk: int) -> tuple[int, int]:
        return chunk * _CHUNK, (chunk + 1) * _CHUNK

    def filter(self, chunk: int, window: FloatArray) -> FloatArray:  # noqa: ARG002
        return window


class _Matrix(Resampler):
    """Blocks of R * L outputs are the product of R * M + taps inputs with one matrix."""

    def __init__(self, up: int, down: int) -> None:
        super().__init__(up, down)
        self._reach = _reach(up, down)
        # As many repeats as make a block about as long as its margin, which is read twice.
        repeats = max(1, round(2 * self._reach / down), -(-256 // up))
        self._step, self._outputs = repeats * down, repeats * up
        self._blocks = max(1, round(_CHUNK / self._outputs))
        times = np.arange(self._outputs) * down / up
        inputs = np.arange(self.width(up, down, repeats)) - self._reach
        self._matrix = _filters(times[None, :] - inputs[:, None], up, down)

    @staticmethod
    def width(up: int, down: int, repeats: int = 1) -> int:
        """Rows of the matrix: the inputs of a block."""
        return repeats * down + 2 * _reach(up, down)

    @property
    def outputs_per_chunk(self) -> int:
        return self._blocks * self._outputs

    def window(self, chunk: int) -> tuple[int, int]:
        start = chunk * self._blocks * self._step - self._reach
        return start, start + (self._blocks - 1) * self._step + len(self._matrix)

    def filter(self, chunk: int, window: FloatArray) -> FloatArray:  # noqa: ARG002
        blocks = sliding_window_view(window, len(self._matrix))[:: self._step]
        outputs: FloatArray = np.ascontiguousarray(blocks) @ self._matrix
        return outputs.ravel()


class _Phases(Resampler):
    """For rates with hardly a common factor, whose matrix would be too large.

    Each output's filter is interpolated between the two nearest of a table's.
    """

    outputs_per_chunk = _CHUNK

    def __init__(self, up: int, down: int) -> None:
        super().__init__(up, down)
        self._reach = _reach(up, down)
        inputs = np.arange(2 * self._reach + 1) - self._reach
        phases = np.arange(_PHASES + 1) / _PHASES
        # In parts: rates that a damaged header says (a million hertz) make long filters.
        self._part = max(1, _LARGEST_MATRIX // len(inputs))
        parts = [phases[first : first + self._part] for first in range(0, len(phases), self._part)]
        self._table = np.concatenate(
            [_filters(part[None, :] - inputs[:, None], up, down).T for part in parts]
        )

    def window(self, chunk: int) -> tuple[int, int]:
        first = chunk * _CHUNK * self._down // self._up
        last = ((chunk + 1) * _CHUNK - 1) * self._down // self._up
        # One more, so that windows of all chunks have this length or one less.
        return first - self._reach, last + self._reach + 1

    def filter(self, chunk: int, window: FloatArray) -> FloatArray:
        numbers = range(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        first = chunk * _CHUNK * self._down // self._up
        # Whole numbers of any size in Python: a position in hours of audio is exact.
        places = np.array([n * self._down - first * self._up for n in numbers])
        starts, rest = np.divmod(places, self._up)
        phase, share = np.divmod(rest * (_PHASES / self._up), 1)
        rows = phase.astype(np.int64)
        share = share.astype(np.float32)[:, None]
        windows = sliding_window_view(window, self._table.shape[1])
        outputs = np.empty(_CHUNK, np.float32)
        for start in range(0, _CHUNK, self._part):
            part = slice(start, start + self._part)
            low, high = self._table[rows[part]], self._table[rows[part] + 1]
            filters = low * (1 - share[part]) + high * share[part]
            outputs[part] = np.einsum("nk,nk->n", windows[starts[part]], filters)
        return outputs


@lru_cache(maxsize=4)
def _resampler(rate_in: int, rate_out: int) -> Resampler:
    common = gcd(rate_in, rate_out)
    up, down = rate_out // common, rate_in // common
    if up == down:
        return _Same(up, down)
    if up * _Matrix.width(up, down) > _LARGEST_MATRIX:
        return _Phases(up, down)
    return _Matrix(up, down)


def _cutoff(up: int, down: int) -> float:
    """The lower rate's Nyquist frequency, in cycles per input sample."""
    return 0.5 * min(1.0, up / down)


def _reach(up: int, down: int) -> int:
    """Inputs on each side of an output that count: half of the filter's length."""
    transition = 2 * pi * _cutoff(up, down) * (1 - _PASSBAND)
    return ceil((_ATTENUATION - 7.95) / (2.285 * transition) / 2) + 1


def _filters(distances: NDArray[np.float64], up: int, down: int) -> FloatArray:
    """Filters in columns: the weight of an input so far (in inputs) from an output.

    Each one's weights sum up to 1, so a constant stays what it is at every phase.
    """
    frequency = 2 * _cutoff(up, down) * (1 + _PASSBAND) / 2
    reach = _reach(up, down) - 1
    inside = np.abs(distances) < reach
    near = distances[inside]
    weights = np.zeros(distances.shape)
    weights[inside] = np.sinc(frequency * near) * np.i0(_BETA * np.sqrt(1 - (near / reach) ** 2))
    filters: FloatArray = (weights / weights.sum(axis=0)).astype(np.float32)
    return filters
