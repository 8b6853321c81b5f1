"""How fast this processor multiplies matrices in ONNX Runtime: the other limit of a roofline.

A product of [512, 1024] and [1024, 1024] in float32, and in int8 (uint8 by int8 into int32), both
operands being inputs. So the second one is packed in each run, which takes a 512th of the work.
"""

from __future__ import annotations

import base64
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from seq2edge.runtime.backends.onnxruntime.session import import_onnxruntime

_ROWS, _WIDTH, _RUNS = 512, 1024, 15
#: ONNX models of one node, as a test makes them with the onnx package, which a device lacks.
MODELS = {
    "MatMul": (
        "CAgSADpbChEKAWEKAWISAWMiBk1hdE11bBIBZ1oVCgFhEhAKDggBEgoKAxIBbQoDEgFrWhUKAWISEAoOCAESCgoDEgFr"
        "CgMSAW5iFQoBYxIQCg4IARIKCgMSAW0KAxIBbkIECgAQDQ=="
    ),
    "MatMulInteger": (
        "CAgSADpiChgKAWEKAWISAWMiDU1hdE11bEludGVnZXISAWdaFQoBYRIQCg4IAhIKCgMSAW0KAxIBa1oVCgFiEhAKDggD"
        "EgoKAxIBawoDEgFuYhUKAWMSEAoOCAYSCgoDEgFtCgMSAW5CBAoAEA0="
    ),
}


@dataclass(frozen=True)
class GemmRates:
    """Operations per second, of which a multiplication with its addition is two.

    Attributes:
        float32, int8: medians.
        threads: that took part.
    """

    float32: float
    int8: float
    threads: int


def measure_gemm(threads: int) -> GemmRates:
    """Multiply for some tenths of a second.

    Raises:
        BackendError: ONNX Runtime is not installed.
    """
    ort = import_onnxruntime()
    random = np.random.default_rng(0)
    floats = (
        random.standard_normal((_ROWS, _WIDTH)).astype(np.float32),
        random.standard_normal((_WIDTH, _WIDTH)).astype(np.float32),
    )
    integers = (
        random.integers(0, 128, (_ROWS, _WIDTH)).astype(np.uint8),
        random.integers(-64, 64, (_WIDTH, _WIDTH)).astype(np.int8),
    )
    return GemmRates(
        float32=_rate(ort, "MatMul", floats, threads),
        int8=_rate(ort, "MatMulInteger", integers, threads),
        threads=threads,
    )


def multiply(ort: Any, model: str, operands: tuple[Any, Any], threads: int) -> Any:
    """A function that runs one of :data:`MODELS` and gives the product."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(
        base64.b64decode(MODELS[model]), options, providers=["CPUExecutionProvider"]
    )
    feeds = dict(zip("ab", operands, strict=True))
    return lambda: session.run(None, feeds)[0]


def _rate(ort: Any, model: str, operands: tuple[Any, Any], threads: int) -> float:
    run = multiply(ort, model, operands, threads)
    run()
    seconds = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return 2 * _ROWS * _WIDTH * _WIDTH / statistics.median(seconds)
