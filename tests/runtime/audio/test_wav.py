"""Every kind of WAV file gives the samples that were written into it."""

from __future__ import annotations

import io
import struct
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import InputError
from seq2edge.runtime.audio import open_audio

Wav = Callable[..., bytes]
Tone = Callable[..., Any]


def read(data: bytes) -> Any:
    audio = open_audio(data)
    return audio.read(0, audio.num_samples)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("kind", ["i2", "i3", "i4", "f4", "f8"])
def test_samples_are_what_was_written(
    kind: str, extensible: bool, order: str, tone: Tone, wav: Wav
) -> None:
    sound = tone(440, 0.05)
    full = {"i2": 2**15, "i3": 2**31, "i4": 2**31}.get(kind)
    stored = sound.astype(np.float64) * full if full else sound
    stored = stored.astype({"i2": "i2", "i3": "i4", "i4": "i4"}.get(kind, kind))
    found = read(wav(stored, width=3 if kind == "i3" else None, order=order, extensible=extensible))
    assert found.dtype == np.float32
    tolerance = {"i2": 2**-15, "i3": 2**-23}.get(kind, 1e-7)
    np.testing.assert_allclose(found, sound, rtol=0, atol=tolerance)


def test_8_bits_are_unsigned(tone: Tone, wav: Wav) -> None:
    sound = tone(440, 0.05)
    found = read(wav(np.round(sound * 128 + 128).astype(np.uint8)))
    np.testing.assert_allclose(found, sound, rtol=0, atol=1 / 128)


@pytest.mark.parametrize(
    ("codec", "codes", "values"),
    [  # G.711, tables 1 and 2: the ends of each law's range, and the codes of silence
        (7, [0x80, 0x00, 0xFF, 0x7F, 0xEF], [8031 / 8192, -8031 / 8192, 0, 0, 33 / 8192]),
        (6, [0xAA, 0x2A, 0xD5, 0x55], [4032 / 4096, -4032 / 4096, 1 / 4096, -1 / 4096]),
    ],
)
def test_telephone_codes(codec: int, codes: list[int], values: list[float], wav: Wav) -> None:
    found = read(wav(np.array(codes, np.uint8), codec=codec))
    np.testing.assert_array_equal(found, np.float32(values))


def test_channels_are_averaged(tone: Tone, wav: Wav) -> None:
    left, right = tone(300, 0.05), tone(500, 0.05)
    found = read(wav(np.stack([left, right, 0 * left], axis=1)))
    np.testing.assert_allclose(found, (left + right) / 3, rtol=0, atol=1e-7)


def test_a_file_of_the_standard_library(tmp_path: Path, tone: Tone) -> None:
    sound = tone(440, 0.05)
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((sound * 32768).astype("<i2").tobytes())
    with open_audio(path) as audio:
        assert audio.duration == 0.05
        np.testing.assert_allclose(audio.read(0, 800), sound, rtol=0, atol=2**-15)


def test_other_chunks_are_skipped(tone: Tone, wav: Wav) -> None:
    sound = tone(440, 0.05)
    odd = b"LIST" + struct.pack("<I", 5) + b"notes" + b"\0"  # padded to an even size
    np.testing.assert_array_equal(read(wav(sound, before=odd)), sound)
    np.testing.assert_array_equal(read(wav(sound) + odd), sound)


def test_rf64_has_its_size_in_another_chunk(tone: Tone, wav: Wav) -> None:
    sound = tone(440, 0.05)
    for magic in (b"RF64", b"BW64"):
        sizes = b"ds64" + struct.pack("<IQQQI", 28, 0, 4 * len(sound), len(sound), 0)
        data = wav(sound, before=sizes, size=0xFFFFFFFF, riff_size=0xFFFFFFFF, magic=magic)
        np.testing.assert_array_equal(read(data + b"LIST\4\0\0\0more"), sound)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF - 36])
def test_what_was_written_to_a_pipe_goes_on_to_its_end(size: int, tone: Tone, wav: Wav) -> None:
    sound = tone(440, 0.05)
    np.testing.assert_array_equal(read(wav(sound, size=size, riff_size=size)), sound)


def test_a_file_that_is_cut_off_gives_what_it_has(tone: Tone, wav: Wav) -> None:
    sound = tone(440, 0.1)
    data = wav(sound)[:-1601]
    with pytest.warns(UserWarning, match=r"cut off: its header says 0.10 s .* 0.07 s are there"):
        found = read(data)
    np.testing.assert_array_equal(found, sound[:1199])


@pytest.mark.parametrize("length", [4, 12, 20, 30, 40])
def test_a_header_that_is_cut_off(length: int, tone: Tone, wav: Wav) -> None:
    with pytest.raises(InputError, match="cut off"):
        open_audio(wav(tone(440, 0.05))[:length])


def test_an_empty_file_is_not_one_from_a_pipe(wav: Wav) -> None:
    with pytest.raises(InputError, match="holds no audio samples"):
        open_audio(wav(np.zeros(0, np.int16), riff_size=48) + b"LIST\4\0\0\0more")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({(22, "<H"): 0}, "0 channels at 16000 Hz"),
        ({(24, "<I"): 0}, "1 channels at 0 Hz"),
        ({(24, "<I"): 3_000_000}, "sampling rate of 3000000 Hz"),
        ({(32, "<H"): 5}, "integer samples of 16 bits in 5 bytes"),
        ({(16, "<I"): 14}, "makes no sense: 14 bytes"),
    ],
)
def test_headers_that_make_no_sense(
    changes: dict[tuple[int, str], int], message: str, wav: Wav
) -> None:
    data = bytearray(wav(np.zeros(100, np.int16)))
    for (place, form), value in changes.items():
        struct.pack_into(form, data, place, value)
    with pytest.raises(InputError, match=message):
        open_audio(data)


def test_parts_are_the_whole_s(tone: Tone, wav: Wav) -> None:
    data = wav(np.stack([tone(300, 0.5, 44100), tone(700, 0.5, 44100)], axis=1), 44100)
    whole = read(data)
    audio = open_audio(io.BytesIO(data))
    parts = [audio.read(start, start + 777) for start in range(0, audio.num_samples, 777)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
