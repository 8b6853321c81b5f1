"""The encoder as a session on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ...bundle.manifest import GraphInfo
from ...bundle.reader import Bundle
from .encoded import bind_array
from .session import bound_run, open_session, run_error
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
        self._session = open_session(
            ort, bundle, info, num_threads, entries, model=model, plans_memory=False
        )
        self._outputs = [spec.name for spec in info.outputs]

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], object]:
        """See :class:`seq2edge.runtime.backends.encoder_graph.EncoderGraph`."""
        binding = self._session.io_binding()
        for name, array in arrays.items():
            bind_array(binding.bind_input, name, array)
        for name in self._outputs:
            binding.bind_output(name)
        try:
            bound_run(self._session, binding)()
        except Exception as error:  # the bindings raise several unrelated classes
            raise run_error("encoder", error) from None
        values = binding.get_outputs()
        # Views of the values' memory, which does not go with them.
        outputs = {name: value.numpy() for name, value in zip(self._outputs, values, strict=True)}
        return outputs, values
