"""Bytes to samples: how audio without compression is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Encoding:
    """Attributes:
    size: bytes of a sample.
    decode: bytes of whole samples to [n] numbers, full scale 1.
    """

    size: int
    decode: Callable[[bytes], NDArray[Any]]


def to_mono(samples: NDArray[Any], channels: int) -> FloatArray:
    """The mean of interleaved ``channels``: [n * channels] to [n] float32."""
    if channels == 1:
        return samples.astype(np.float32, copy=False)
    mean: FloatArray = samples.reshape(-1, channels).mean(axis=1, dtype=np.float64)
    return mean.astype(np.float32)


def scaled(samples: NDArray[Any]) -> FloatArray:
    """Integers of any type to [-1, 1), by their type's range; unsigned ones have silence at half.

    Floats are full scale 1 already.
    """
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    middle = half if samples.dtype.kind == "u" else 0.0
    if samples.dtype.itemsize <= 2:
        return (samples.astype(np.float32) - np.float32(middle)) / np.float32(half)
    exact: FloatArray = ((samples.astype(np.float64) - middle) / half).astype(np.float32)
    return exact


def integers(size: int, order: str, *, signed: bool) -> Encoding:
    """PCM of 1 to 4 bytes in ``order`` (``<`` or ``>``)."""
    if size == 3:
        return Encoding(3, lambda data: _three_bytes(data, order))
    kind = np.dtype(f"{order}{'i' if signed else 'u'}{size}")
    return Encoding(size, lambda data: scaled(np.frombuffer(data, kind)))


def alaw() -> Encoding:
    """G.711 A-law: 4 bits of mantissa, 3 of exponent, the even bits inverted; 13 bits in all."""
    codes = np.arange(256) ^ 0x55
    exponent, mantissa = (codes >> 4) & 7, codes & 15
    magnitude = np.where(
        exponent == 0, 2 * mantissa + 1, (2 * mantissa + 33) << np.maximum(exponent - 1, 0)
    )
    return _table(np.where(codes & 0x80, magnitude, -magnitude) / 4096)


def mulaw() -> Encoding:
    """G.711 mu-law: all bits inverted, and a bias of 33; 14 bits in all."""
    codes = np.arange(256) ^ 0xFF
    magnitude = ((2 * (codes & 15) + 33) << ((codes >> 4) & 7)) - 33
    return _table(np.where(codes & 0x80, -magnitude, magnitude) / 8192)


def _table(values: NDArray[np.float64]) -> Encoding:
    table = values.astype(np.float32)
    return Encoding(1, lambda data: table[np.frombuffer(data, np.uint8)])


def _three_bytes(data: bytes, order: str) -> FloatArray:
    """24 bits as the upper ones of 32."""
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, slice(1, 4) if order == "<" else slice(0, 3)] = np.frombuffer(data, np.uint8).reshape(
        -1, 3
    )
    return scaled(wide.view(f"{order}i4")[:, 0])
