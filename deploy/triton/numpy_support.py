"""Which numpy the Python backend of a Triton server can work with.

Up to Triton 24.10 its stub is built with pybind11 2.10, which knows numpy 1's arrays only. With
numpy 2 a model is loaded and READY, and the first request ends its process (python_backend, pull
request 384; server, issue 8301). Triton tells a model no version, but pybind11 looks up
``numpy.core.multiarray`` by a name that stands in the stub's file; 2.12 and newer put it together
from parts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seq2edge.runtime import BackendError

_NUMPY_1 = b"numpy.core.multiarray"
#: The stub embeds Python: it is this process.
_THIS_PROGRAM = Path("/proc/self/exe")


def check_numpy(program: Path = _THIS_PROGRAM, numpy: str = np.__version__) -> None:
    """Refuse a stub for numpy 1 where numpy is a newer one. A file that cannot be read passes.

    Raises:
        BackendError: the first request would end the process.
    """
    if int(numpy.partition(".")[0]) < 2:
        return
    try:
        built_for_numpy_1 = _NUMPY_1 in program.read_bytes()
    except OSError:
        return
    if built_for_numpy_1:
        raise BackendError(
            f"the Python backend of this Triton is built for numpy 1, and numpy is {numpy}: the"
            " first request would end the model's process. Install an older one in the server's"
            " Python (pip install numpy==1.26.4), or take Triton 24.11 or newer"
        )
