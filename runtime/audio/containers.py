"""Compressed audio and video files, through PyAV (FFmpeg's libraries): the extra ``audio``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..dependencies import needs
from ..errors import InputError
from .encodings import scaled, to_mono
from .resample import StreamResampler, resampler
from .source import check_samples

FloatArray = NDArray[np.float32]

#: Bytes of decoded audio that stay in memory, 17 minutes; what is longer goes to a file in the
#: system's temporary folder, because a compressed file cannot be read from any place.
_IN_MEMORY = 1 << 26
_SAMPLE = 4


class DecodedAudio:
    """The first audio stream of a file, decoded at once and kept as 32-bit floats, mono.

    Args:
        stream: binary and seekable.
        name: what error messages call it.
        kind: what it holds, for the message without PyAV, such as "FLAC audio".
        sampling_rate: Hz that it is resampled to.
        max_seconds: decoding ends with an error where there is more; None: there may be any.

    Raises:
        MissingDependencyError: PyAV is not installed.
        InputError: nothing that PyAV can decode, no audio in it, or too much of it.
    """

    def __init__(
        self,
        stream: BinaryIO,
        name: str,
        kind: str,
        sampling_rate: int,
        max_seconds: float | None = None,
    ) -> None:
        with needs(
            f"{name} is {kind}; reading it", "audio", instead=", or convert it to WAV first"
        ):
            import av
        import tempfile  # here: most sources are WAV files or arrays

        self.sampling_rate = sampling_rate
        # The samples' memory, for as long as this object lives.
        self._samples = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        count = 0
        most = math.inf if max_seconds is None else max_seconds * sampling_rate
        try:
            with av.open(stream, mode="r", metadata_errors="ignore") as container:
                for samples in _resampled(container, name, sampling_rate):
                    self._samples.write(samples.astype("<f4").tobytes())
                    count += len(samples)
                    if count > most:
                        break  # a small file may hold days of silence
        except (av.FFmpegError, ValueError) as error:
            raise InputError(f"{name} cannot be decoded: {_reason(error)}") from None
        if max_seconds is not None and count > most:
            self._samples.close()
            raise too_long(name, max_seconds)
        self.num_samples = count

    def read(self, start: int, stop: int) -> FloatArray:
        """Samples ``start`` to ``stop``, or to the end: [n] float32, full scale 1."""
        self._samples.seek(start * _SAMPLE)
        data = self._samples.read(max(0, stop - start) * _SAMPLE)
        return np.frombuffer(data, "<f4").astype(np.float32, copy=False)

    def close(self) -> None:
        self._samples.close()


def _resampled(container: Any, name: str, sampling_rate: int) -> Iterator[FloatArray]:
    """Pieces of the audio at ``sampling_rate``."""
    if not container.streams.audio:
        raise InputError(f"{name} has no audio in it")
    resampling: StreamResampler | None = None
    rate = done = 0
    for frame in container.decode(audio=0):
        if frame.sample_rate != rate:  # at the start; a broadcast may change it later as well
            if resampling is not None:
                yield resampling.finish()
            rate = frame.sample_rate
            resampling = StreamResampler(resampler(rate, sampling_rate, name))
        array = frame.to_ndarray()  # [channels, n], or [1, n * channels] where they interleave
        channels = frame.layout.nb_channels
        samples = scaled(array)
        mono = (
            to_mono(samples.T.ravel(), channels)
            if frame.format.is_planar
            else to_mono(samples.ravel(), channels)
        )
        check_samples(mono, done, rate, name)
        done += len(mono)
        assert resampling is not None
        yield resampling.push(mono)
    if resampling is not None:
        yield resampling.finish()


def too_long(name: str, max_seconds: float) -> InputError:
    """The error of a recording of which there is too much."""
    return InputError(f"{name} is longer than {max_seconds:g} s")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
