"""Silero's voice detector: the ONNX model of the package silero-vad, on ONNX Runtime.

The package imports torch, so it is never imported: only its model's file is found and read.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..dependencies import needs
from ..errors import MissingDependencyError

FloatArray = NDArray[np.float32]

#: Takes many frames a run.
_MODEL = "silero_vad_16k_sequence.onnx"
#: Samples of the frame before that each frame begins with.
_CONTEXT = 64
_INSTALL = "pip install --no-deps 'silero-vad>=6.2' (it asks for torch, which is not used)"


def is_installed() -> bool:
    """Whether the package is there, and ONNX Runtime, with a model that can be used."""
    return _model_file() is not None and find_spec("onnxruntime") is not None


class SileroVad:
    """A :class:`.Detector`.

    Raises:
        MissingDependencyError: the package silero-vad or onnxruntime is not installed.
    """

    def __init__(self) -> None:
        path = _model_file()
        if path is None:
            raise MissingDependencyError(f"the voice detector silero needs silero-vad: {_INSTALL}")
        with needs("the voice detector silero", "cpu"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def probabilities(self, frames: Iterator[FloatArray]) -> Iterator[float]:
        """One for each frame of 512 samples; ``frames`` are pieces of them, [n, 512], in order."""
        hidden = cell = np.zeros((1, 1, 128), np.float32)
        before = np.zeros((1, _CONTEXT), np.float32)
        for piece in frames:
            context = np.concatenate([before, piece[:-1, -_CONTEXT:]])
            before = piece[-1:, -_CONTEXT:]
            inputs = {"input": np.hstack([context, piece]), "h": hidden, "c": cell}
            found, hidden, cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
            yield from found.tolist()


def _model_file() -> Path | None:
    spec = find_spec("silero_vad")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "data" / _MODEL
        if path.is_file():
            return path
    return None
