"""The most probable tokens of a step, found on the device that has computed its logits.

Beam search looks at a few of them; of 64 beams and 32,128 tokens all logits are 8 MB a step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError
from ..base import Ids
from .buffers import DeviceArray
from .session import Provider

#: An ONNX model (IR 7, opset 13) of one node: y, i = TopK(x, k), of x [b, q, v] float32 and k [1]
#: int64; i is int64. It is the same for all bundles, and so of none of them.
MODEL = bytes.fromhex(
    "08073a7c0a120a01780a016b1201791201692204546f704b1201675a1a0a017812150a130801120f0a031201620a"
    "031201710a031201765a0f0a016b120a0a08080712040a020801621a0a017912150a130801120f0a031201620a03"
    "1201710a0312016b621a0a016912150a130807120f0a031201620a031201710a0312016b42040a00100d"
)


def open_top_logits(ort: Any, providers: list[Provider]) -> Any:
    """A session of :data:`MODEL`.

    Raises:
        BackendError: ONNX Runtime refuses it.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    try:
        return ort.InferenceSession(MODEL, options, providers=providers, enable_fallback=0)
    except Exception as error:  # the bindings raise several unrelated classes
        raise BackendError(f"onnxruntime cannot find the largest logits: {error}") from None


class TopLogits:
    """The ``num_best`` largest of each row of ``logits``, whose memory stays.

    Args:
        ort: the onnxruntime module.
        device: ``cuda`` or ``cpu``.
        session: see :func:`open_top_logits`.
        logits: [B, Q, V] float32 on the device.
        num_best: N, at most V.
    """

    def __init__(
        self, ort: Any, device: str, session: Any, logits: DeviceArray, num_best: int
    ) -> None:
        self._session = session
        shape = (*logits.shape[:2], num_best)
        self._values = DeviceArray(ort, device, shape, "float32")
        self._token_ids = DeviceArray(ort, device, shape, "int64")
        self._binding = session.io_binding()
        logits.bind(self._binding.bind_input, "x")
        self._binding.bind_cpu_input("k", np.array([num_best]))
        self._values.bind(self._binding.bind_output, "y")
        self._token_ids.bind(self._binding.bind_output, "i")

    @property
    def nbytes(self) -> int:
        return self._values.nbytes + self._token_ids.nbytes

    def find(self) -> tuple[NDArray[np.float32], Ids]:
        """[B, Q, N] each, in falling order: what ``logits`` hold, and of which tokens."""
        self._session.run_with_iobinding(self._binding)
        return self._values.read(), self._token_ids.read()
