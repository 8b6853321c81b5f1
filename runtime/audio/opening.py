"""One way to all audio: files of any format, file-like objects, bytes, arrays."""

from __future__ import annotations

import io
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .containers import DecodedAudio, too_long
from .encodings import scaled
from .source import SAMPLING_RATE, ArrayAudio, Audio, NativeAudio
from .wav import MAGICS, CompressedWavError, WavFile

AudioInput = str | os.PathLike[str] | BinaryIO | bytes | bytearray | memoryview | NDArray[Any]

#: Bytes of a file that tell its format, the offset where they are, and what it is called. A
#: file's name is never asked.
_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"fLaC", "FLAC audio"),
    (0, b"OggS", "an Ogg file (Vorbis, Opus)"),
    (0, b"ID3", "MP3 audio"),
    (4, b"ftyp", "an MP4 file (m4a, mp4, mov)"),
    (0, b"\x1a\x45\xdf\xa3", "a Matroska file (mkv, webm)"),
    (0, b"FORM", "AIFF audio"),
    (0, b"caff", "Core Audio"),
    (0, b".snd", "AU audio"),
    (0, b"#!AMR", "AMR audio"),
    (0, b"wvpk", "WavPack audio"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, bytes.fromhex("3026b2758e66cf11"), "Windows Media"),
    (0, b"FLV\x01", "Flash video"),
    (8, b"AVI ", "an AVI file"),
)
_SNIFFED = 4096
_IN_MEMORY = 1 << 24


def open_audio(
    source: AudioInput,
    *,
    sampling_rate: int | None = None,
    target_sampling_rate: int = SAMPLING_RATE,
    max_seconds: float | None = None,
) -> Audio:
    """A recording, to be read at a model's rate in any parts.

    >>> with open_audio("call.wav") as audio:
    ...     samples = audio.read(0, audio.num_samples)

    WAV needs nothing but numpy and is read in pieces, so its length does not matter. Other formats
    need PyAV (``pip install av``). A format is recognized by the file's content.

    Args:
        source: a file's path; a binary file-like object, from where it stands (one that cannot
            seek, such as a pipe, is copied to a temporary file first); the bytes of a file; or
            an array of samples, [n] or [n, channels] (or the reverse: the longer axis is time),
            whose channels' mean is taken: integers are scaled by their type's range, floats have
            full scale at 1.
        sampling_rate: Hz of an array; None: ``target_sampling_rate``. Files say theirs.
        target_sampling_rate: Hz of what is read.
        max_seconds: of a file that is longer no more is decoded than it takes to know; None: any
            length.

    Raises:
        InputError: a file that is missing, not readable, empty, no audio, broken or longer than
            ``max_seconds``; an array that is no audio; ``sampling_rate`` for a file.
        MissingDependencyError: a format that needs PyAV, which is not installed.
    """
    if isinstance(source, np.ndarray):
        rate = target_sampling_rate if sampling_rate is None else sampling_rate
        samples = ArrayAudio(_mono(source), rate)
        return Audio(samples, "the array", sampling_rate=target_sampling_rate)
    if sampling_rate is not None:
        raise InputError("sampling_rate is for arrays; a file says its own")
    with ExitStack() as opened:
        stream, name = _stream(source, opened)
        native = _native(stream, name, target_sampling_rate, max_seconds)
        if max_seconds is not None and native.num_samples > max_seconds * native.sampling_rate:
            raise too_long(name, max_seconds)
        if isinstance(native, DecodedAudio):
            opened.close()  # all of it has been decoded
            opened.callback(native.close)
        return Audio(native, name, sampling_rate=target_sampling_rate, close=opened.pop_all().close)


def _stream(source: Any, opened: ExitStack) -> tuple[BinaryIO, str]:
    """A seekable stream and its name; ``opened`` closes what is not the caller's."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), "the audio"
    if isinstance(source, (str, os.PathLike)):
        name = str(source)
        try:
            stream: Any = opened.enter_context(Path(source).open("rb"))  # noqa: SIM115
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror}") from None
        except ValueError as error:  # a NUL in the name
            raise InputError(f"cannot read {name!r}: {error}") from None
    else:
        stream, name = source, _name_of(source)
    if stream.seekable():
        return cast("BinaryIO", stream), name
    import shutil  # here: most sources are files or arrays
    import tempfile

    copy = opened.enter_context(
        tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
    )
    try:
        shutil.copyfileobj(stream, copy)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    copy.seek(0)
    return cast("BinaryIO", copy), name


def _name_of(source: Any) -> str:
    """What to call a file-like object."""
    if not (callable(getattr(source, "read", None)) and hasattr(source, "seekable")):
        raise InputError(
            "audio is a path, a binary file, bytes or a numpy array, not"
            f" {type(source).__name__} {source!r:.40}"
        )
    given = getattr(source, "name", None)
    name = given if isinstance(given, str) else "the audio"
    if isinstance(source, io.TextIOBase):
        raise InputError(f"{name} is open as text; open it with mode 'rb'")
    return name


def _native(
    stream: BinaryIO, name: str, sampling_rate: int, max_seconds: float | None
) -> NativeAudio:
    try:
        start = stream.tell()
        head = stream.read(_SNIFFED)
        stream.seek(start)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    if not head:
        raise InputError(f"{name} is empty")
    if head[:4] in MAGICS and head[8:12] in (b"WAVE", b""):
        try:
            return WavFile(stream, name)
        except CompressedWavError as error:
            kind = str(error).removeprefix(f"{name} is ")
            stream.seek(start)
    else:
        kind = _kind(head, name)
    return DecodedAudio(stream, name, kind, sampling_rate, max_seconds)


def _kind(head: bytes, name: str) -> str:
    """What a file is that begins with ``head``.

    Raises:
        InputError: nothing that holds audio, as far as is known here.
    """
    for offset, magic, kind in _FORMATS:
        if head[offset : offset + len(magic)] == magic:
            return kind
    if head[0] == 0xFF and len(head) > 1 and head[1] & 0xE0 == 0xE0:  # a frame's sync word
        return "AAC audio" if head[1] & 0xF6 == 0xF0 else "MP3 audio"
    begin = f"it begins with {head[:12]!r}"
    if b"\0" not in head:
        with_text = "a text file" if _is_text(head) else "no audio file"
        raise InputError(f"{name} is {with_text}, or of a format that is not known: {begin}")
    raise InputError(f"{name} is no audio file, or of a format that is not known: {begin}")


def _is_text(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a character that the piece cuts
    return True


def _mono(array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2):
        raise InputError(
            "an array of audio has the shape [samples] or [samples, channels] and integers or"
            f" floats, not {list(array.shape)} {array.dtype}"
        )
    if array.ndim == 1:
        return scaled(array)
    # As transformers and soundfile have it, either way round: there are fewer channels.
    samples = array if array.shape[0] >= array.shape[1] else array.T
    mean: NDArray[np.float32] = scaled(samples).mean(axis=1, dtype=np.float64).astype(np.float32)
    return mean
