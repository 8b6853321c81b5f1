"""A bundle's graphs beside the encoder and the decoder, each opened when it is first run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.reader import Bundle
from ...errors import BackendError
from .session import CPU, Provider, open_session, run_error

#: Those that a backend runs itself, all the time.
OWN_GRAPHS = ("encoder", "decoder", "logsumexp")


class OtherGraphs:
    """Sessions by name of a graph; from and to numpy arrays.

    Args:
        ort: the onnxruntime module.
        bundle: the opened bundle.
        num_threads: threads of an operator; None: all cores.
        providers: execution providers of a graph by its name.
    """

    def __init__(
        self,
        ort: Any,
        bundle: Bundle,
        num_threads: int | None,
        providers: Callable[[str], Sequence[Provider]] = lambda _name: (CPU,),
    ) -> None:
        self._ort, self._bundle = ort, bundle
        self._num_threads, self._providers = num_threads, providers
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._closed = False

    def run(
        self,
        name: str,
        inputs: Mapping[str, NDArray[Any]],
        bind_encoded: Callable[[Any, str], None] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run a graph; see :meth:`seq2edge.runtime.backends.base.Backend.run_graph`.

        ``bind_encoded`` takes an IOBinding and the name of an output of the encoder to bind.
        """
        session = self._session(name)
        info = self._bundle.manifest.graphs[name]
        binding = session.io_binding()
        for spec in info.inputs:
            if spec.name in inputs:
                array = np.ascontiguousarray(inputs[spec.name], spec.dtype)
                binding.bind_cpu_input(spec.name, array)
            elif bind_encoded is not None:
                bind_encoded(binding, spec.name)
            else:
                raise BackendError(f"the graph {name} needs the input {spec.name}")
        for spec in info.outputs:
            binding.bind_output(spec.name)
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # the bindings raise several unrelated classes
            raise run_error(f"graph {name}", error) from None
        names = [spec.name for spec in info.outputs]
        return dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))

    def close(self) -> None:
        """Let go of the sessions."""
        self._closed = True
        self._sessions.clear()

    def _session(self, name: str) -> Any:
        graphs = self._bundle.manifest.graphs
        if name not in graphs or name in OWN_GRAPHS:
            raise BackendError(f"{self._bundle.directory} has no graph {name!r} to run by itself")
        with self._lock:
            if self._closed:
                raise BackendError("the model was closed; load it again")
            if name not in self._sessions:
                # Its idle threads would otherwise spin while the decoder runs.
                self._sessions[name] = open_session(
                    self._ort,
                    self._bundle,
                    graphs[name],
                    self._num_threads,
                    {"session.force_spinning_stop": "1"},
                    providers=self._providers(name),
                    plans_memory=False,
                )
            return self._sessions[name]
