"""From a bundle to its engines on this machine's GPU."""

from __future__ import annotations

import logging

from ....bundle.reader import Bundle
from ....errors import BackendError
from ..cuda import load_cuda
from ..engine_cache import find_engines
from ..library import load_library
from .engine import TensorRTBackend

_log = logging.getLogger(__name__)


def load_tensorrt(bundle: Bundle, *, engine: str, device: str | None = None) -> TensorRTBackend:
    """Open the engines that ``seq2edge build`` left beside the bundle for this machine.

    Args:
        engine: ``tensorrt`` or ``tensorrt-rtx``.
        device: ``cuda``, which is the default.

    Raises:
        BackendError: TensorRT, CUDA or the GPU is missing, there are no engines for them, or
            they do not fit into the device's memory.
    """
    if device not in (None, "cuda"):
        raise BackendError(f"{engine} runs on device 'cuda', not {device!r}")
    library = load_library(engine)
    cuda = load_cuda()
    folder, engines = find_engines(bundle, library, cuda.gpu())
    _log.info("running the engines in %s", folder)
    return TensorRTBackend(bundle, folder, engines, library, cuda)
