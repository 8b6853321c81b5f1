"""Sessions of ONNX Runtime: the library, its version, a graph that is opened, its errors."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...bundle.manifest import BLOCK_ENCODER, CPU_GRAPHS, CUDA_GRAPHS, GraphInfo, Manifest
from ...bundle.reader import Bundle
from ...errors import BackendError

_log = logging.getLogger(__name__)
_profile_prefix: ContextVar[str | None] = ContextVar("profile_prefix", default=None)

#: An execution provider's name with its options, as ``InferenceSession`` takes it.
Provider = tuple[str, dict[str, Any]]

CPU: Provider = ("CPUExecutionProvider", {})

#: Severities of ONNX Runtime's log (OrtLoggingLevel).
_WARNING, _FATAL = 2, 4

#: Up to so many bytes of weights per step, one thread is the default: a step of 2.9 MB took
#: 0.22 ms on one thread and 0.19 ms on two of an idle machine, but 0.16 and 0.63 ms beside
#: other work, because the threads wait for each other in every operator (docs/results).
_SINGLE_THREAD_BYTES = 4_000_000

#: How long idle threads of a session spin before they sleep; ONNX Runtime's own is 25 ms or more,
#: after a session was made and after each call. The host's part of a step is shorter than this.
_SPINNING = {"session.intra_op.spin_duration_us": "2000"}

#: Where data outside of a model lies that is loaded from memory.
_FOLDER = "session.model_external_initializers_file_folder_path"

#: First ONNX Runtime that runs an opset (its release notes); only what bundles use.
MINIMUM_VERSION = {24: (1, 25)}


def import_onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        BackendError: it is not installed, or cannot be imported.
        KeyboardInterrupt: also where its bindings have made an ImportError of it.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if _was_interrupted(error):
            raise KeyboardInterrupt from None
        raise BackendError(f"{error.name} is not installed: pip install onnxruntime") from None
    except ImportError as error:
        if _was_interrupted(error):
            raise KeyboardInterrupt from None
        raise BackendError(f"onnxruntime cannot be imported: {error}") from None
    return onnxruntime


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether an error came of Ctrl-C: what is imported may catch that and raise its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def check_version(installed: str, manifest: Manifest) -> None:
    """Refuse an ONNX Runtime that is too old for the bundle's operators.

    Raises:
        BackendError: which version is there, which is needed and what to do.
    """
    numbers = _version(installed)
    opset = max(graph.opset for graph in manifest.graphs.values())
    needed = max((v for o, v in MINIMUM_VERSION.items() if o <= opset), default=(0, 0))
    if numbers < needed:
        raise BackendError(
            f"this bundle uses ONNX opset {opset}, which needs onnxruntime >="
            f" {needed[0]}.{needed[1]}, and {installed} is installed; upgrade onnxruntime"
            " (Python 3.10 stops at 1.23: use Python 3.11 or newer, or write the bundle with"
            " 'seq2edge downgrade' on a workstation)"
        )


def cpu_graphs(manifest: Manifest, installed: str, *, encodes: bool = True) -> dict[str, GraphInfo]:
    """The graphs to run on a CPU, by their canonical names.

    Those that were made for it (``CPU_GRAPHS``), if the installed version runs all of them.

    Args:
        encodes: ONNX Runtime runs the encoder, too (``BLOCK_ENCODER``).
    """
    lowered = _named(manifest, CPU_GRAPHS)
    blocks = manifest.graphs.get(BLOCK_ENCODER)
    if blocks is not None and encodes:
        lowered["encoder"] = blocks
    return _where_new_enough(manifest, lowered, installed)


def cuda_graphs(manifest: Manifest, installed: str) -> dict[str, GraphInfo]:
    """The graphs to run by the CUDA provider; see :func:`cpu_graphs` (``CUDA_GRAPHS``)."""
    return _where_new_enough(manifest, _named(manifest, CUDA_GRAPHS), installed)


def canonical_graphs(manifest: Manifest) -> dict[str, GraphInfo]:
    """The graphs that were made for no device."""
    others = {*CPU_GRAPHS.values(), *CUDA_GRAPHS.values(), BLOCK_ENCODER}
    return {name: info for name, info in manifest.graphs.items() if name not in others}


def _named(manifest: Manifest, names: Mapping[str, str]) -> dict[str, GraphInfo]:
    """Those of ``names`` that are there, by their canonical names."""
    graphs = manifest.graphs
    return {name: graphs[lowered] for name, lowered in names.items() if lowered in graphs}


def _where_new_enough(
    manifest: Manifest, lowered: Mapping[str, GraphInfo], installed: str
) -> dict[str, GraphInfo]:
    """The canonical graphs, and ``lowered`` in their place if the installed version runs all."""
    graphs = canonical_graphs(manifest)
    needed = [info.minimum_onnxruntime for info in lowered.values()]
    if all(_version(installed) >= _version(least) for least in needed):
        graphs.update(lowered)
    elif needed:
        _log.warning(
            "the canonical graphs run: those made for this device, which are faster, need"
            " onnxruntime >= %s, and %s is installed",
            max(needed, key=_version),
            installed,
        )
    return graphs


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2]) if text else (0,)


@contextmanager
def profiled(prefix: str) -> Iterator[None]:
    """Sessions that are opened within profile every node, and write when they are closed.

    Each writes a file of JSON named ``PREFIX.GRAPH_TIME.json``.
    """
    token = _profile_prefix.set(prefix)
    try:
        yield
    finally:
        _profile_prefix.reset(token)


def open_session(
    ort: Any,
    bundle: Bundle,
    info: GraphInfo,
    num_threads: int | None,
    entries: Mapping[str, str] = MappingProxyType({}),
    *,
    providers: Sequence[Provider] = (CPU,),
    model: bytes | None = None,
    plans_memory: bool = True,
) -> Any:
    """An ``InferenceSession`` of one graph. ``entries`` are session configuration entries.

    ``model`` is what is loaded in place of the graph's file; data outside of it lies in the bundle.
    ``plans_memory`` False: nothing is kept of what a run took, for graphs that run seldom and take
    much. From the second run of the same shapes on, ONNX Runtime takes all values of a run from
    one block, beside the memory that the first run had (20 to 57 MB of Whisper's encoders).

    Raises:
        BackendError: ONNX Runtime refuses the graph.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = plans_memory
    prefix = _profile_prefix.get()
    if prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = f"{prefix}.{Path(info.file).stem}"
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    for key, value in {**_SPINNING, **entries}.items():
        options.add_session_config_entry(key, value)
    path = bundle.path(info.file)
    _log.debug("opening %s: %s", info.file, [name for name, _ in providers])
    if model is not None:
        options.add_session_config_entry(_FOLDER, os.fspath(bundle.directory))
    try:
        # Without enable_fallback=0 it would print and go on with fewer providers.
        session = ort.InferenceSession(
            os.fspath(path) if model is None else model,
            options,
            providers=list(providers),
            enable_fallback=0,
        )
    except Exception as error:  # the bindings raise several unrelated classes
        raise BackendError(f"onnxruntime cannot load {path}: {error}") from None
    if model is not None:
        session._model_bytes = None  # kept for set_providers, which nobody calls
    return session


def chosen_threads(num_threads: int | None, bundle: Bundle) -> int | None:
    """Threads of an operator; ``num_threads`` None: one for a small model, else None, all cores.

    Raises:
        BackendError: ``num_threads`` is below 1.
    """
    if num_threads is not None and num_threads < 1:
        raise BackendError(f"num_threads must be at least 1, not {num_threads}")
    small = main_graph(bundle).weight_bytes <= _SINGLE_THREAD_BYTES
    return 1 if num_threads is None and small else num_threads


def main_graph(bundle: Bundle) -> GraphInfo:
    """The graph that runs most often."""
    graphs = bundle.manifest.graphs
    return graphs["encoder" if bundle.manifest.single_stack == "encoder" else "decoder"]


@contextmanager
def quiet(ort: Any) -> Iterator[None]:
    """Keep off stderr what ONNX Runtime logs of providers that do not start.

    Its default logger has no getter; afterwards it says warnings again, as it does by default.
    """
    ort.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNING)


def bound_run(session: Any, binding: Any) -> Callable[[], None]:
    """A function that runs ``session`` with what is bound.

    ``InferenceSession.run_with_iobinding`` asks in every call whether a WebGPU graph is captured;
    the class that it wraps does not.
    """
    inner, bound = getattr(session, "_sess", None), getattr(binding, "_iobinding", None)
    if inner is None or bound is None:
        return partial(session.run_with_iobinding, binding)
    return partial(inner.run_with_iobinding, bound, None)


def give_back_memory() -> None:
    """Return to the system what loading has freed; glibc would keep it.

    An int4 bundle of 41 MB, whose encoder is unpacked while it loads, held 187 MB without it
    and 130 MB with it (docs/results).
    """
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    if trim is not None:
        trim(0)


def run_error(graph: str, error: Exception) -> BackendError:
    return BackendError(f"onnxruntime failed in the {graph}: {str(error).strip()}")
