"""The encoder as a session on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ...bundle.manifest import GraphInfo
from ...bundle.reader import Bundle
from .encoded import array_of, bind_array
from .session import open_session, run_error
from .unpacked import unpacked_model


class OrtEncoder:
    """See :class:`seq2edge.runtime.backends.encoder_graph.EncoderGraph`.

    Args:
        ort: the onnxruntime module.
        bundle: the opened bundle.
        info: the graph.
        num_threads: threads of an operator; None: all cores.
    """

    description = ""

    def __init__(self, ort: Any, bundle: Bundle, info: GraphInfo, num_threads: int | None) -> None:
        # Its idle threads would otherwise spin while the decoder runs.
        entries = {"session.force_spinning_stop": "1"}
        model = unpacked_model(bundle, info)
        self._session = open_session(ort, bundle, info, num_threads, entries, model=model)
        self._info = info

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], object]:
        """See :class:`seq2edge.runtime.backends.encoder_graph.EncoderGraph`."""
        binding = self._session.io_binding()
        for name, array in arrays.items():
            bind_array(binding.bind_input, name, array)
        for spec in self._info.outputs:
            binding.bind_output(spec.name)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # the bindings raise several unrelated classes
            raise run_error("encoder", error) from None
        values = binding.get_outputs()
        outputs = {
            spec.name: array_of(value, spec.dtype)
            for spec, value in zip(self._info.outputs, values, strict=True)
        }
        return outputs, values
