"""Whatever holds sound can be opened; what holds none is refused in one line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import InputError
from seq2edge.runtime.audio import open_audio

Wav = Callable[..., bytes]
Tone = Callable[..., Any]


def whole(source: Any, **options: Any) -> Any:
    with open_audio(source, **options) as audio:
        return audio.read(0, audio.num_samples)


def encoded(sound: Any, rate: int, container: str, codec: str, bits: int | None = None) -> bytes:
    """A file of another format, written by PyAV."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        if bits:
            stream.bit_rate = bits
        frame = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
        frame.rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return file.getvalue()


def test_a_path_bytes_and_files_are_the_same(tmp_path: Path, tone: Tone, wav: Wav) -> None:
    sound = tone(440, 0.05)
    data = wav(sound)
    path = tmp_path / "a recording"  # no extension
    path.write_bytes(data)
    padded = io.BytesIO(b"before" + data)
    padded.seek(6)
    with path.open("rb") as file:
        for source in (path, str(path), data, bytearray(data), io.BytesIO(data), padded, file):
            np.testing.assert_array_equal(whole(source), sound)
        assert not file.closed  # it is the caller's


def test_a_pipe_is_read_to_its_end(tone: Tone, wav: Wav) -> None:
    sound = tone(440, 0.5)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb") as target:

        def write() -> None:
            target.write(wav(sound, size=0xFFFFFFFF, riff_size=0xFFFFFFFF))
            target.close()

        thread = threading.Thread(target=write)
        thread.start()
        np.testing.assert_array_equal(whole(source), sound)
        thread.join()


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "f2", "f4", "f8"])
def test_arrays_are_scaled_by_their_type(kind: str, tone: Tone) -> None:
    sound = tone(440, 0.05)
    integers = kind[0] in "iu"
    full = 2.0 ** (8 * int(kind[1]) - 1)
    stored = sound.astype(np.float64)
    if integers:
        stored = np.round(stored * full) + (full if kind[0] == "u" else 0)
    found = whole(stored.astype(kind))
    tolerance = 1 / full if integers and kind[1] != "4" else {"f2": 1e-3}.get(kind, 1e-7)
    np.testing.assert_allclose(found, sound, rtol=0, atol=tolerance)


def test_channels_of_arrays_are_averaged_either_way_round(tone: Tone) -> None:
    both = np.stack([tone(300, 0.05), tone(500, 0.05)])
    for array in (both, both.T):
        np.testing.assert_allclose(whole(array), both.mean(axis=0), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("container", "codec", "bits"),
    [
        ("flac", "flac", None),
        ("mp3", "libmp3lame", 128_000),
        ("ogg", "libopus", 96_000),
        ("adts", "aac", 128_000),
        ("matroska", "aac", 128_000),
        ("aiff", "pcm_s16be", None),
        ("wav", "adpcm_ms", None),
    ],
)
def test_other_formats_are_recognized_by_their_content(
    container: str, codec: str, bits: int | None, tone: Tone, tmp_path: Path
) -> None:
    pytest.importorskip("av", reason="the extra audio is not installed")
    path = tmp_path / "recording.txt"
    path.write_bytes(encoded(tone(440, 1.5, 48000), 48000, container, codec, bits))
    found = whole(path)
    # Codecs may shift the sound; its spectrum stays.
    middle = found[4000:20000] * np.hanning(16000)
    spectrum = np.abs(np.fft.rfft(middle))
    assert spectrum.argmax() == 440
    level = 2 * spectrum[435:446].sum() / np.hanning(16000).sum() / 2
    assert level == pytest.approx(0.5, rel=0.05)
    with open_audio(path) as audio:
        np.testing.assert_array_equal(audio.read(9000, 9100), found[9000:9100])


def test_without_pyav_one_line_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "recording.wav"
    path.write_bytes(b"fLaC" + bytes(100))
    script = (
        "import sys; sys.modules['av'] = None\n"
        "from seq2edge.runtime import MissingDependencyError\n"
        "from seq2edge.runtime.audio import open_audio\n"
        "try: open_audio(sys.argv[1])\n"
        "except MissingDependencyError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        f"{path} is FLAC audio; reading it needs av: pip install av, or convert it to WAV first\n"
    )


def broken(kind: str, wav: Wav) -> Any:
    sound = np.zeros(1000, np.float32)
    sound[400] = np.nan if kind == "nan" else np.inf if kind == "infinite" else 0
    return {
        "nan": wav(sound),
        "infinite": wav(sound),
        "nan array": np.full(100, np.nan),
        "empty": b"",
        "no samples": wav(sound[:0]),
        "no samples in an array": np.zeros(0),
        "text": b"It was the best of times, it was the worst of times." * 9,
        "text of other alphabets": "Это было лучшее изо всех времён. ".encode() * 500,
        "zeros": bytes(1000),
        "noise": b"\x17\x8a\0\x99" * 99,
        "a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "broken flac": b"fLaC" + bytes(100),
        "broken mp3": b"ID3" + bytes(100),
        "a missing file": Path("/nonexistent.wav"),
        "a folder": Path("/"),
        "NUL in a name": "a\0b.wav",
        "an open text file": io.StringIO("text"),
        "a number": 5,
        "complex numbers": np.zeros(100, complex),
        "booleans": np.zeros(100, bool),
        "three axes": np.zeros((2, 100, 3)),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", r"a sample that is no sound \(nan, at 0.03 s\)"),
        ("infinite", r"a sample that is no sound \(inf, at 0.03 s\)"),
        ("nan array", "the array holds a sample that is no sound"),
        ("empty", "the audio is empty"),
        ("no samples", "holds no audio samples"),
        ("no samples in an array", "the array is empty: it holds no audio samples"),
        ("text", "is a text file, or"),
        ("text of other alphabets", "is a text file, or"),
        ("zeros", "is no audio file"),
        ("noise", "is no audio file"),
        ("a picture", "is no audio file"),
        ("broken flac", "cannot be decoded"),
        ("broken mp3", "cannot be decoded"),
        ("a missing file", "cannot read /nonexistent.wav: No such file"),
        ("a folder", "cannot read /: Is a directory"),
        ("NUL in a name", "cannot read"),
        ("an open text file", "open it with mode 'rb'"),
        ("a number", "audio is a path, a binary file, bytes or a numpy array, not int 5"),
        ("complex numbers", "integers or floats"),
        ("booleans", "integers or floats"),
        ("three axes", "integers or floats"),
    ],
)
def test_what_is_no_audio_is_refused(kind: str, message: str, wav: Wav) -> None:
    if kind.startswith("broken"):
        pytest.importorskip("av", reason="the extra audio is not installed")
    with pytest.raises(InputError, match=message) as error:
        whole(broken(kind, wav))
    assert "\n" not in str(error.value)


def test_a_rate_is_for_arrays(wav: Wav) -> None:
    with pytest.raises(InputError, match="for arrays"):
        open_audio(wav(np.zeros(100, np.int16)), sampling_rate=8000)


def test_hours_take_no_memory(tmp_path: Path, wav: Wav) -> None:
    """Two hours of silence in stereo at 48 kHz, as a sparse file."""
    path = tmp_path / "silence.wav"
    size = 2 * 3600 * 48000 * 4
    with path.open("wb") as file:
        file.write(wav(np.zeros((0, 2), np.int16), 48000, size=size))
        file.truncate(44 + size)
    tracemalloc.start()
    with open_audio(path) as audio:
        assert audio.duration == 7200
        assert audio.num_samples == 7200 * 16000
        for second in (0, 3600, 7190):
            assert not audio.read(second * 16000, (second + 10) * 16000).any()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20
