"""Layers whose inputs have outliers that one int8 scale for all of them cannot hold.

The second feed-forward products of Whisper's last encoder layers read a few values of several
hundred among values below 1 (tiny.en 570, base 224): a step of int8 is then as large as the rest of
the input. Over any sound, speech or not, their signal is 10 to 19 dB above the rounding, that of
all other layers 22 to 40 dB. With one scale per tensor there, base gets words wrong.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.bundle.reader import Bundle

from ..calibration.capture import Key, TappedGraph
from ..recipe.layers import Kind, Layer

#: Decibels that the signal must be above the rounding.
LEAST_SIGNAL = 20.0
_LEVELS = 255


def signal_decibels(values: NDArray[np.float32], weight: NDArray[np.float32]) -> float:
    """Power of a layer's outputs above what rounding its inputs to uint8 makes of them.

    The rounding's error is even within a step and the same in all channels; a channel counts as
    much as the layer makes of it.

    Args:
        values: [.., D], what the layer reads.
        weight: [D, N].
    """
    step = (max(float(values.max()), 0.0) - min(float(values.min()), 0.0)) / _LEVELS
    rows = values.reshape(-1, values.shape[-1])
    power = np.square(rows, dtype=np.float64).mean(axis=0)
    counts = np.square(weight, dtype=np.float64).sum(axis=1)
    signal, error = float(power @ counts), float(counts.sum()) * step * step / 12
    return 10 * math.log10(signal / error) if signal and error else math.inf


def outlier_layers(
    bundle: Bundle, layers: Sequence[Layer], inputs: Sequence[Mapping[str, NDArray[Any]]]
) -> dict[str, float]:
    """The encoder's linear layers whose input int8 does not hold, and their decibels.

    Args:
        bundle: a float32 bundle.
        layers: of its graphs.
        inputs: of the encoder, without a batch axis, for each window of sound.
    """
    read: dict[Key, list[Layer]] = {}
    for layer in layers:
        for use in layer.uses:
            if use.graph == "encoder" and layer.kind is Kind.LINEAR:
                read.setdefault((use.graph, use.input_name), []).append(layer)
    #: Of the worst window: each is rounded with a scale of its own.
    found = {layer.name: math.inf for readers in read.values() for layer in readers}

    def observe(key: Key, values: NDArray[np.float32]) -> None:
        for layer in read[key]:
            found[layer.name] = min(found[layer.name], signal_decibels(values, layer.matrix()))

    with tempfile.TemporaryDirectory(prefix="seq2edge-") as folder:
        names = {name for _, name in read}
        encoder = TappedGraph(bundle, "encoder", Path(folder), only=names)
        for window in inputs:
            encoder.run({name: array[None] for name, array in window.items()}, observe)
    return {name: round(value, 1) for name, value in found.items() if value < LEAST_SIGNAL}
