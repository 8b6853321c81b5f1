"""How fast this processor multiplies matrices in ONNX Runtime: the other limit of a roofline.

A product of [512, 1024] and [1024, 1024] in float32, float16 (which ONNX Runtime computes in
float32 on many processors) and int8 (uint8 by int8 into int32), both operands being inputs. So the
second one is packed in each run, which takes a 512th of the work.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backends.onnxruntime.session import import_onnxruntime

_ROWS, _WIDTH = 512, 1024
#: Operations of one product.
_WORK = 2 * _ROWS * _WIDTH * _WIDTH
#: ONNX models of one node, as a test makes them with the onnx package, which a device lacks; by
#: precision.
MODELS = {
    "float32": (
        "CAgSADpbChEKAWEKAWISAWMiBk1hdE11bBIBZ1oVCgFhEhAKDggBEgoKAxIBbQoDEgFrWhUKAWISEAoOCAESCgoDEgFr"
        "CgMSAW5iFQoBYxIQCg4IARIKCgMSAW0KAxIBbkIECgAQDQ=="
    ),
    "float16": (
        "CAgSADpbChEKAWEKAWISAWMiBk1hdE11bBIBZ1oVCgFhEhAKDggKEgoKAxIBbQoDEgFrWhUKAWISEAoOCAoSCgoDEgFr"
        "CgMSAW5iFQoBYxIQCg4IChIKCgMSAW0KAxIBbkIECgAQDQ=="
    ),
    "int8": (
        "CAgSADpiChgKAWEKAWISAWMiDU1hdE11bEludGVnZXISAWdaFQoBYRIQCg4IAhIKCgMSAW0KAxIBa1oVCgFiEhAKDggD"
        "EgoKAxIBawoDEgFuYhUKAWMSEAoOCAYSCgoDEgFtCgMSAW5CBAoAEA0="
    ),
}


class Gemm:
    """Products that are run again and again.

    Args:
        threads: that take part.
        precisions: of :data:`MODELS`.

    Raises:
        BackendError: ONNX Runtime is not installed.
    """

    def __init__(self, threads: int, precisions: Iterable[str] = ("float32", "int8")) -> None:
        ort = import_onnxruntime()
        self.threads = threads
        self._products = {
            precision: multiply(ort, precision, _operands(precision), threads)
            for precision in precisions
        }
        for product in self._products.values():
            product()

    def measure(self) -> dict[str, float]:
        """Operations per second of one product each; its addition is an operation of its own."""
        rates = {}
        for precision, product in self._products.items():
            start = time.perf_counter()
            product()
            rates[precision] = _WORK / (time.perf_counter() - start)
        return rates


def multiply(ort: Any, precision: str, operands: tuple[Any, Any], threads: int) -> Any:
    """A function that runs one of :data:`MODELS` and gives the product."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that wait for more would take time from what is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(
        base64.b64decode(MODELS[precision]), options, providers=["CPUExecutionProvider"]
    )
    feeds = dict(zip("ab", operands, strict=True))
    return lambda: session.run(None, feeds)[0]


def _operands(precision: str) -> tuple[NDArray[Any], NDArray[Any]]:
    random = np.random.default_rng(0)
    shapes = (_ROWS, _WIDTH), (_WIDTH, _WIDTH)
    if precision == "int8":
        return (
            random.integers(0, 128, shapes[0]).astype(np.uint8),
            random.integers(-64, 64, shapes[1]).astype(np.int8),
        )
    first, second = (random.standard_normal(shape).astype(precision) for shape in shapes)
    return first, second
