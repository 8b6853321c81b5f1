"""WAV files (RIFF, RF64, BW64, and RIFX in big-endian order), read in pieces with numpy alone.

After "Multimedia Programming Interface and Data Specifications 1.0" (IBM, Microsoft, 1991),
WAVE_FORMAT_EXTENSIBLE (mmreg.h), RF64 (EBU Tech 3306) and G.711's two laws.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .encodings import Encoding, alaw, integers, mulaw, to_mono

#: First bytes of a file, with the order of its numbers.
MAGICS = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">"}

_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
#: What WAVE_FORMAT_EXTENSIBLE's sub-format has after the format's number.
_GUID_END = bytes.fromhex("000000001000800000aa00389b71")
#: Compressed formats by number, as their makers call them.
_COMPRESSED = {
    0x0002: "Microsoft ADPCM",
    0x0011: "IMA ADPCM",
    0x0031: "GSM 6.10",
    0x0040: "G.721 ADPCM",
    0x0042: "G.723.1",
    0x0045: "G.726 ADPCM",
    0x0050: "MPEG audio",
    0x0055: "MP3",
    0x00FF: "AAC",
    0x0161: "Windows Media Audio",
    0x1610: "AAC",
    0xF1AC: "FLAC",
    0x704F: "Opus",
}
#: A size that says nothing: of a stream whose writer could not go back, or of RF64.
_UNKNOWN = 0xFFFFFFFF
#: Writers of streams without a length say 2 GiB, less a few bytes.
_ENDLESS = 0x7FFFF000


class CompressedWavError(InputError):
    """A WAV file with a codec's data inside; libraries for other formats may read it."""


@dataclass(frozen=True)
class _Format:
    encoding: Encoding
    channels: int
    sampling_rate: int


class WavFile:
    """A WAV file's samples at its own rate, as the mean of its channels.

    A file that says it is longer than it is gives what it has, with a warning. Sizes that programs
    leave there when they write to a pipe (0, 0xFFFFFFFF, nearly 2 GiB) mean to the file's end.

    Args:
        stream: binary and seekable; the file begins where it stands. It is not closed.
        name: what error messages call it.

    Raises:
        InputError: no WAV file, a header that is cut off or makes no sense.
        CompressedWavError: an encoding other than PCM, float, A-law and mu-law.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self._name = stream, name
        base = stream.tell()
        end = stream.seek(0, 2)
        stream.seek(base)
        self._order = MAGICS.get(stream.read(4))
        if self._order is None:
            raise InputError(f"{name} is no WAV file")
        riff_size, kind = struct.unpack(f"{self._order}I4s", self._exactly(8))
        if kind != b"WAVE":
            raise InputError(f"{name} is no WAV file but of type {kind!r}")
        self._format, self._start, size = self._chunks(end)
        frame = self._format.encoding.size * self._format.channels
        there = end - self._start
        never_filled_in = size == 0 and base + 8 + riff_size <= self._start
        if never_filled_in or size == _UNKNOWN or there < size >= _ENDLESS:
            size = there
        if size > there:
            seconds = [count / frame / self.sampling_rate for count in (size, there)]
            warnings.warn(
                f"{name} is cut off: its header says {seconds[0]:.2f} s of audio, and"
                f" {seconds[1]:.2f} s are there, which are read",
                stacklevel=2,
            )
        self._frame = frame
        self.num_samples = min(size, there) // frame

    @property
    def sampling_rate(self) -> int:
        """Hz."""
        return self._format.sampling_rate

    @property
    def channels(self) -> int:
        return self._format.channels

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples ``start`` to ``stop``, or to the end: [n] float32, full scale 1.

        Raises:
            InputError: the file cannot be read.
        """
        stop = min(stop, self.num_samples)
        if stop <= start:
            return np.zeros(0, np.float32)
        try:
            self._stream.seek(self._start + start * self._frame)
            data = self._stream.read((stop - start) * self._frame)
        except OSError as error:
            raise InputError(f"cannot read {self._name}: {error.strerror}") from None
        if len(data) < (stop - start) * self._frame:
            raise InputError(f"{self._name} became shorter while it was read")
        return to_mono(self._format.encoding.decode(data), self._format.channels)

    def _chunks(self, end: int) -> tuple[_Format, int, int]:
        """The format, and place and size of the samples; the size is as the file says."""
        form: _Format | None = None
        long_size: int | None = None
        while True:
            header = self._stream.read(8)
            if len(header) < 8:
                part = "its samples" if form else "its format"
                raise InputError(
                    f"{self._name} is a WAV file that ends before {part}: its header is cut off"
                )
            name, size = struct.unpack(f"{self._order}4sI", header)
            begin = self._stream.tell()
            if name == b"data":
                if form is None:
                    raise InputError(f"{self._name} has samples before it says of what format")
                return form, begin, size if size != _UNKNOWN or long_size is None else long_size
            if name == b"fmt ":
                form = self._read_format(size)
            elif name == b"ds64":
                long_size = struct.unpack(f"{self._order}QQQ", self._exactly(24))[1]
            self._stream.seek(min(begin + size + size % 2, end))  # chunks start at even places

    def _read_format(self, size: int) -> _Format:
        fields = f"{self._order}HHIIHH"
        if size < 16:
            raise InputError(f"{self._name} has a WAV header that makes no sense: {size} bytes")
        data = self._exactly(min(size, 40))
        number, channels, rate, _, frame, bits = struct.unpack_from(fields, data)
        if number == _EXTENSIBLE and len(data) >= 40:
            number = struct.unpack_from(f"{self._order}H", data, 24)[0]
            if data[26:40] != _GUID_END:
                raise CompressedWavError(f"{self._name} is a WAV file of an unknown codec")
        if number not in (_PCM, _FLOAT, _ALAW, _MULAW):
            codec = _COMPRESSED.get(number, f"codec 0x{number:04x}")
            raise CompressedWavError(f"{self._name} is a WAV file with {codec} inside")
        if channels == 0 or rate == 0:
            raise InputError(
                f"{self._name} has a WAV header that makes no sense: {channels} channels at"
                f" {rate} Hz"
            )
        # A sample of 20 bits is in the upper ones of 24, or of as many as a frame has room for.
        width = frame // channels if frame % channels == 0 and frame else -(-bits // 8)
        return _Format(self._encoding(number, width, bits), channels, rate)

    def _encoding(self, number: int, width: int, bits: int) -> Encoding:
        order = self._order or "<"
        if number == _PCM and width in (1, 2, 3, 4) and bits <= 8 * width:
            return integers(width, order, signed=width > 1)
        if number == _FLOAT and width in (4, 8):
            return Encoding(width, lambda data: np.frombuffer(data, f"{order}f{width}"))
        if number in (_ALAW, _MULAW) and width == 1:
            return alaw() if number == _ALAW else mulaw()
        kind = "float" if number == _FLOAT else "integer"
        raise InputError(
            f"{self._name} has {kind} samples of {bits} bits in {width} bytes; 8, 16, 24 and 32"
            " bit integers and 32 and 64 bit floats can be read"
        )

    def _exactly(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            raise InputError(f"{self._name} is a WAV file whose header is cut off")
        return data
