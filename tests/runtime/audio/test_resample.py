"""Resampling keeps what is below both Nyquist frequencies, and nothing else.

On such tones soxr 1.1.0's HQ has a ripple of up to 0.009 dB and images and aliases from -126 dB on;
scipy 1.17.1's resample_poly a ripple of 0.9 dB, and an alias right above Nyquist of -6 dB.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seq2edge.runtime import InputError
from seq2edge.runtime.audio import open_audio
from seq2edge.runtime.audio.resample import StreamResampler, resampler

Tone = Callable[..., Any]
#: 47999 has no factor in common with 16000, and takes another way.
RATES = [8000, 11025, 24000, 44100, 48000, 96000, 47999]


def resampled(sound: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    audio = open_audio(sound, sampling_rate=rate)
    return audio.read(0, audio.num_samples)


def decibels(ratio: float) -> float:
    return float(20 * np.log10(ratio + 1e-12))


@pytest.mark.parametrize("rate", RATES)
def test_tones_below_nyquist_are_kept(rate: int, tone: Tone) -> None:
    for share in (0.02, 0.3, 0.7, 0.91):
        frequency = share * min(rate, 16000) / 2
        sound = tone(frequency, 0.5, rate)
        found = resampled(sound, rate)
        assert len(found) == -(-len(sound) * 16000 // rate)
        found, expected = found[:8000], tone(frequency, 0.5)
        inner = slice(1000, -1000)  # outside of the recording there is silence
        error = np.abs(found - expected)[inner].max() / 0.5
        assert decibels(error) < -100


@pytest.mark.parametrize("rate", [rate for rate in RATES if rate > 16000])
def test_tones_above_nyquist_are_gone(rate: int, tone: Tone) -> None:
    for frequency in (8005, 8400, 10000):
        found = resampled(tone(frequency, 0.5, rate), rate)[1000:-1000]
        assert decibels(np.abs(found).max() / 0.5) < -100


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 47999])
def test_parts_are_the_same_bits(rate: int) -> None:
    sound = np.random.default_rng(0).standard_normal(rate * 2).astype(np.float32)
    audio = open_audio(sound, sampling_rate=rate)
    whole = audio.read(0, audio.num_samples)
    for start, stop in ((0, 1), (5000, 5001), (12345, 23456), (31000, 40000)):
        np.testing.assert_array_equal(audio.read(start, stop), whole[start:stop])


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 47999])
@pytest.mark.parametrize("seconds", [0.0, 0.01, 1.0])
def test_a_stream_gives_the_whole_s_samples(rate: int, seconds: float) -> None:
    sound = np.random.default_rng(0).standard_normal(round(rate * seconds)).astype(np.float32)
    stream = StreamResampler(resampler(rate, 16000))
    parts = [stream.push(sound[start : start + 501]) for start in range(0, len(sound), 501)]
    found = np.concatenate([*parts, stream.finish()])
    expected = resampled(sound, rate) if len(sound) else sound
    np.testing.assert_array_equal(found, expected)


def test_a_constant_stays_what_it_is() -> None:
    for rate in (22050, 48000):
        found = resampled(np.full(rate, 0.25, np.float32), rate)[1000:-1000]
        np.testing.assert_allclose(found, 0.25, rtol=1e-6)


def test_long_filters_take_little_memory() -> None:
    """Found by mutated recordings: a header that says a million hertz took a gigabyte."""
    tracemalloc.start()
    try:
        audio = open_audio(np.full(100_000, 0.25, np.float32), sampling_rate=999_979)
        found = audio.read(0, audio.num_samples)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(found[300:-300], 0.25, rtol=1e-5)
    assert peak < 300 << 20


@pytest.mark.parametrize("rate", [0, -1, 50, 10_000_000])
def test_rates_that_no_recording_has(rate: int) -> None:
    with pytest.raises(InputError, match=f"sampling rate of {rate} Hz"):
        open_audio(np.zeros(100, np.float32), sampling_rate=rate)
