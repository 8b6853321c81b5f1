"""Samples without a header, from a pipe."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import InputError
from seq2edge.runtime.audio import open_audio, read_pcm
from seq2edge.runtime.audio.pcm import ENCODINGS

Tone = Callable[..., Any]


def stored(sound: Any, encoding: str) -> bytes:
    if encoding == "s24le":
        return b"".join(
            int(v).to_bytes(3, "little", signed=True) for v in (sound * 2**23).astype(int)
        )
    if encoding == "u8":
        return np.round(sound * 128 + 128).astype(np.uint8).tobytes()
    if encoding == "f32le":
        return sound.astype("<f4").tobytes()
    bits = int(encoding[1:3])
    kind = f"{'>' if encoding.endswith('be') else '<'}i{bits // 8}"
    return (sound.astype(float) * 2 ** (bits - 1)).astype(kind).tobytes()


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if "law" not in name])
def test_samples_are_what_was_written(encoding: str, tone: Tone) -> None:
    sound = tone(440, 0.25)
    chunks = list(read_pcm(io.BytesIO(stored(sound, encoding)), encoding=encoding))
    assert len(chunks) > 1
    found = np.concatenate(chunks)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, sound, rtol=0, atol=1 / 128 if encoding == "u8" else 2**-15)


def test_other_rates_and_channels_are_as_from_a_file(tone: Tone) -> None:
    both = np.stack([tone(300, 0.5, 44100), tone(500, 0.5, 44100)], axis=1)
    data = both.astype("<f4").tobytes()
    found = read_pcm(io.BytesIO(data), sampling_rate=44100, channels=2, encoding="f32le")
    audio = open_audio(both, sampling_rate=44100)
    np.testing.assert_array_equal(np.concatenate(list(found)), audio.read(0, audio.num_samples))


def test_a_chunk_comes_as_soon_as_it_is_there() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source:
        chunks = read_pcm(source, chunk_seconds=1)
        os.write(writing, bytes(3201))  # a tenth of a second, and half of a sample
        assert len(next(chunks)) == 1600
        os.write(writing, bytes(1))
        assert len(next(chunks)) == 1
        os.close(writing)
        assert list(chunks) == []


def test_an_end_within_a_sample_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="ends within a sample, 1 bytes after"):
        assert sum(map(len, read_pcm(io.BytesIO(bytes(2001))))) == 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "mp3"}, "unknown encoding 'mp3': it can be s16le"),
        ({"channels": 0}, "at least one channel"),
        ({"sampling_rate": 0}, "sampling rate of 0 Hz"),
        ({"chunk_seconds": 0}, "longer than 0 s"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_pcm(io.BytesIO(b""), **options)


def test_samples_that_are_no_numbers() -> None:
    data = np.array([0, np.nan], "<f4").tobytes()
    with pytest.raises(InputError, match="standard input holds a sample that is no sound"):
        list(read_pcm(io.BytesIO(data), encoding="f32le"))
