"""A voice detector that needs no model: how far a frame is above the background's level."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .source import SAMPLING_RATE

FloatArray = NDArray[np.float32]

#: Hz; voices are there, hum and most of rumble and hiss are not.
_BAND = (200, 4000)
#: A frame this many dB above the background is speech with probability 0.5, and the logistic
#: function's scale in dB.
_MARGIN, _SLOPE = 9.0, 1.5
#: dB of full scale. Background is never taken for lower, or the noise of converters would count as
#: speech, nor for higher: a command without a pause would be its own background.
_LOWEST, _HIGHEST = -70.0, -40.0
#: Frames on each side in which the background is looked for: 15 s.
_AROUND = 469
#: Frames whose middle level counts, so that no single one is the background: the last frame is
#: filled up with silence.
_SMOOTH = 5


class EnergyGate:
    """A :class:`.Detector`. Its background is the quietest level within 15 s, before and after.

    So it hears speech in even noise, but takes music, or noise that comes and goes, for speech.
    """

    def probabilities(self, frames: Iterator[FloatArray]) -> Iterator[float]:
        """One for each frame of 512 samples; ``frames`` are pieces of them, [n, 512], in order."""
        # 4 bytes a frame: half a megabyte an hour.
        found = [_levels(piece) for piece in frames]
        if found:
            levels = np.concatenate(found)
            above = levels - _background(levels) - np.float32(_MARGIN)
            yield from (1 / (1 + np.exp(-above.astype(np.float64) / _SLOPE))).tolist()


def _levels(frames: FloatArray) -> FloatArray:
    """Power of frames [n, size] in the band, [n] in dB of full scale."""
    size = frames.shape[1]
    low, high = (round(hertz * size / SAMPLING_RATE) for hertz in _BAND)
    window = np.hanning(size).astype(np.float32)
    spectrum = np.fft.rfft(frames * window, axis=1)[:, low:high]
    power = 2 * (np.abs(spectrum) ** 2).sum(axis=1) / (size * (window**2).sum())
    levels: FloatArray = (10 * np.log10(power + 1e-12)).astype(np.float32)
    return levels


def _background(levels: FloatArray) -> FloatArray:
    """The lowest level around each frame, [n]."""
    runs = sliding_window_view(np.pad(levels, _SMOOTH // 2, mode="reflect"), _SMOOTH)
    smooth = np.median(runs, axis=1)
    wide = np.pad(smooth, _AROUND, constant_values=np.inf)
    return np.clip(_sliding_minimum(wide, 2 * _AROUND + 1), _LOWEST, _HIGHEST)


def _sliding_minimum(values: FloatArray, width: int) -> FloatArray:
    """Minima of all runs of ``width``; doubling the run each time takes log2(width) passes."""
    found, length = values, 1
    while length < width:
        step = min(length, width - length)
        found = np.minimum(found[:-step], found[step:])
        length += step
    return found
