"""Samples without a header, as microphones and ``ffmpeg -f s16le -`` give them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .encodings import Encoding, alaw, integers, mulaw, to_mono
from .resample import StreamResampler, resampler
from .source import SAMPLING_RATE, check_samples

FloatArray = NDArray[np.float32]

#: By ffmpeg's names.
ENCODINGS: dict[str, Callable[[], Encoding]] = {
    "s16le": lambda: integers(2, "<", signed=True),
    "s16be": lambda: integers(2, ">", signed=True),
    "s24le": lambda: integers(3, "<", signed=True),
    "s32le": lambda: integers(4, "<", signed=True),
    "u8": lambda: integers(1, "<", signed=False),
    "f32le": lambda: Encoding(4, lambda data: np.frombuffer(data, "<f4")),
    "alaw": alaw,
    "mulaw": mulaw,
}


def read_pcm(
    stream: BinaryIO,
    name: str = "standard input",
    *,
    sampling_rate: int = SAMPLING_RATE,
    encoding: str = "s16le",
    channels: int = 1,
    chunk_seconds: float = 0.1,
) -> Iterator[FloatArray]:
    """Chunks [n] float32 of mono audio at :data:`.SAMPLING_RATE`, as the stream gives them.

    >>> for chunk in read_pcm(sys.stdin.buffer, sampling_rate=48000): ...

    Args:
        stream: binary; it is not closed.
        name: what error messages call it.
        sampling_rate: Hz of what the stream holds.
        encoding: of a sample, by ffmpeg's names (:data:`ENCODINGS`).
        channels: interleaved; their mean is taken.
        chunk_seconds: read so much at once, or less if that is all there is.

    Raises:
        InputError: an unknown encoding, a rate or number of channels that makes no sense, a
            stream that cannot be read, samples that are not numbers.
    """
    if encoding not in ENCODINGS:
        raise InputError(f"unknown encoding {encoding!r}: it can be {', '.join(ENCODINGS)}")
    if channels < 1:
        raise InputError(f"there must be at least one channel, not {channels}")
    if not chunk_seconds > 0:
        raise InputError(f"a chunk must be longer than {chunk_seconds} s")
    resampling = StreamResampler(resampler(sampling_rate, SAMPLING_RATE, name))
    return _chunks(
        stream, name, sampling_rate, ENCODINGS[encoding](), channels, chunk_seconds, resampling
    )


def _chunks(
    stream: BinaryIO,
    name: str,
    sampling_rate: int,
    encoding: Encoding,
    channels: int,
    chunk_seconds: float,
    resampling: StreamResampler,
) -> Iterator[FloatArray]:
    frame = encoding.size * channels
    wanted = max(1, round(sampling_rate * chunk_seconds)) * frame
    done, rest = 0, b""
    while data := _read(stream, wanted - len(rest), name):
        data = rest + data
        whole = len(data) // frame * frame
        data, rest = data[:whole], data[whole:]
        samples = to_mono(encoding.decode(data), channels)
        check_samples(samples, done, sampling_rate, name)
        done += len(samples)
        outputs = resampling.push(samples)
        if len(outputs):
            yield outputs
    if rest:
        warnings.warn(
            f"{name} ends within a sample, {len(rest)} bytes after the last whole one, which are"
            f" left out: are samples of {8 * encoding.size} bits, and {channels} at a time, right?",
            stacklevel=2,
        )
    outputs = resampling.finish()
    if len(outputs):
        yield outputs


def _read(stream: BinaryIO, count: int, name: str) -> bytes:
    # A buffered reader waits for all of ``count``; what is there already is enough.
    read = getattr(stream, "read1", stream.read)
    try:
        data: bytes = read(count) or b""
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    return data
