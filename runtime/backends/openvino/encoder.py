"""A bundle's encoder in OpenVINO."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...bundle.manifest import GraphInfo
from ...bundle.reader import Bundle
from ...errors import BackendError
from .library import PRECISIONS, check_device, load_library, precision_of, reason, version

_log = logging.getLogger(__name__)

#: Inputs that share a scale where OpenVINO rounds them for products with int8 weights. Of 32 (its
#: default), 64, 128 and 384 this took the least time of Whisper's encoders (docs/results).
_INPUTS_PER_SCALE = 128
#: Environment variable that names a folder for compiled encoders; unset: none is kept.
CACHE = "SEQ2EDGE_OPENVINO_CACHE"


class OpenVinoEncoder:
    """See :class:`seq2edge.runtime.backends.encoder_graph.EncoderGraph`. Threads may share it.

    Attributes:
        description: the library's version, device and precision.
        from_cache: it was not compiled, but taken from the folder of :data:`CACHE`.
    """

    def __init__(self, compiled: Any, info: GraphInfo, device: str) -> None:
        self._compiled, self._info = compiled, info
        self.from_cache = bool(compiled.get_property("LOADED_FROM_CACHE"))
        self.description = f"openvino {version()} on {device.lower()}, {precision_of(compiled)}"

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], object]:
        """See :class:`seq2edge.runtime.backends.encoder_graph.EncoderGraph`."""
        import openvino

        # A request of its own: its outputs stay where they are for as long as it lives.
        request = self._compiled.create_infer_request()
        try:
            for name, array in arrays.items():
                request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
            request.infer()
        except Exception as error:  # the bindings raise RuntimeError and subclasses of others'
            raise BackendError(f"openvino failed in the encoder: {reason(error)}") from None
        outputs = {spec.name: request.get_tensor(spec.name).data for spec in self._info.outputs}
        return outputs, (request, arrays)


def open_encoder(
    bundle: Bundle,
    info: GraphInfo,
    num_threads: int | None,
    *,
    device: str | None = None,
    precision: str | None = None,
) -> OpenVinoEncoder:
    """Compile the graph ``info`` of a bundle, which has been checked when it was opened.

    Args:
        num_threads: threads within an operator, on the CPU; None: all cores.
        device: one of those that OpenVINO finds here, such as ``cpu``, ``gpu`` or ``npu``; None:
            the CPU.
        precision: one of :data:`PRECISIONS`; None: the device's own choice (bfloat16 on CPUs
            that have it).

    What is compiled is kept in a folder of the bundle's own below the one that :data:`CACHE` names,
    where OpenVINO takes it from the next time. It is as large as the encoder's weights.

    Raises:
        MissingDependencyError: openvino is not installed.
        BackendError: there is no such device or precision, or OpenVINO refuses the graph; the
            folder cannot be made.
    """
    if precision is not None and precision not in PRECISIONS:
        raise BackendError(
            f"unknown precision {precision!r}; openvino has: {', '.join(PRECISIONS)}"
        )
    core = load_library()
    name = check_device(core, device)
    path = bundle.path(info.file)
    _log.debug("opening %s: openvino on %s", info.file, name)
    try:
        model = core.read_model(os.fspath(path))
        settings = _settings(name, num_threads, precision) | _cache(bundle)
        compiled = core.compile_model(model, name, settings)
    except BackendError:
        raise
    except Exception as error:  # the bindings raise RuntimeError and subclasses of others'
        raise BackendError(f"openvino cannot load {path}: {reason(error)}") from None
    encoder = OpenVinoEncoder(compiled, info, name)
    found = precision_of(compiled)
    if precision not in (None, found):
        raise BackendError(
            f"openvino's device {name.lower()} does not compute in {precision}: it would take"
            f" {found}"
        )
    return encoder


def _settings(device: str, num_threads: int | None, precision: str | None) -> dict[str, Any]:
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision
    if device == "CPU":
        settings |= {
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _INPUTS_PER_SCALE,
            # Beside a decoder's threads, which are on no core of their own.
            "ENABLE_CPU_PINNING": False,
        }
        if num_threads is not None:
            settings["INFERENCE_NUM_THREADS"] = num_threads
    return settings


def _cache(bundle: Bundle) -> dict[str, str]:
    """Where OpenVINO keeps what it compiles of the bundle: by its manifest, which has all hashes.

    Raises:
        BackendError: the folder cannot be made.
    """
    root = os.environ.get(CACHE)
    if not root:
        return {}
    key = hashlib.sha256(bundle.manifest.to_bytes()).hexdigest()[:32]
    folder = Path(root).expanduser() / key
    try:
        # Nobody else may put there what is run here.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(
            f"cannot make {folder}, which {CACHE} asks for: {error.strerror}"
        ) from None
    return {"CACHE_DIR": os.fspath(folder)}
