"""Tables of sinusoidal positions, in the layouts that models are trained with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def sinusoids(length: int, width: int) -> FloatArray:
    """[length, width]: sine in even columns, cosine in odd ones, of falling frequencies.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.5.
    """
    frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(length)[:, None] * frequencies
    table = np.empty((length, width), np.float32)
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles[:, : width // 2])
    return table


def halved_sinusoids(length: int, width: int) -> FloatArray:
    """The same columns, all sines before all cosines (Marian, Pegasus)."""
    table = sinusoids(length, width)
    return np.concatenate([table[:, 0::2], table[:, 1::2]], axis=1)


def fairseq_sinusoids(length: int, width: int, first: int) -> FloatArray:
    """[length, width]: all sines before all cosines, row 0 for position ``first`` (M2M100).

    The frequencies are those of tensor2tensor: they reach 1/10000 in the last column of a half,
    and an odd width ends in zeros. In float32 throughout, as the reference computes them.
    """
    half = width // 2
    step = np.float32(math.log(10000) / max(half - 1, 1))
    frequencies = np.exp(np.arange(half, dtype=np.float32) * -step)
    angles = np.arange(first, first + length, dtype=np.float32)[:, None] * frequencies
    table = np.zeros((length, width), np.float32)
    table[:, :half] = np.sin(angles)
    table[:, half : 2 * half] = np.cos(angles)
    return table
