"""Sounds, and the bytes of files that hold them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Samples = NDArray[np.float32]


@pytest.fixture
def tone() -> Callable[..., Samples]:
    """A sine of ``frequency`` Hz."""

    def make(frequency: float, seconds: float, rate: int = 16000, amplitude: float = 0.5) -> Any:
        times = np.arange(round(seconds * rate)) / rate
        return (amplitude * np.sin(2 * np.pi * frequency * times)).astype(np.float32)

    return make


@pytest.fixture
def wav() -> Callable[..., bytes]:
    return wav_bytes


def wav_bytes(
    samples: NDArray[Any],
    rate: int = 16000,
    *,
    codec: int | None = None,
    width: int | None = None,
    order: str = "<",
    extensible: bool = False,
    before: bytes = b"",
    size: int | None = None,
    riff_size: int | None = None,
    magic: bytes | None = None,
) -> bytes:
    """A WAV file of samples [n] or [n, channels], stored as they are, or as 3 bytes of int32.

    Args:
        before: chunks between the header and the format.
        size, riff_size: what the file says of its sizes; None: the truth.
    """
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    stored = samples.dtype.newbyteorder(order)
    data = samples.astype(stored).tobytes()
    if width == 3:  # the upper bytes of 4
        four = np.frombuffer(data, np.uint8).reshape(-1, 4)
        data = (four[:, 1:] if order == "<" else four[:, :3]).tobytes()
    width = width or samples.dtype.itemsize
    codec = codec or (3 if samples.dtype.kind == "f" else 1)
    frame = width * channels
    form = struct.pack(
        f"{order}HHIIHH",
        0xFFFE if extensible else codec,
        channels,
        rate,
        rate * frame,
        frame,
        8 * width,
    )
    if extensible:
        form += struct.pack(f"{order}HHIH", 22, 8 * width, 0, codec)
        form += bytes.fromhex("000000001000800000aa00389b71")
    chunks = before + struct.pack(f"{order}4sI", b"fmt ", len(form)) + form
    body = chunks + struct.pack(f"{order}4sI", b"data", len(data) if size is None else size) + data
    magic = magic or (b"RIFF" if order == "<" else b"RIFX")
    total = 4 + len(body) if riff_size is None else riff_size
    return magic + struct.pack(f"{order}I", total) + b"WAVE" + body
