"""Engines beside the encoder's and the decoder's: each is opened when it is first run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from ....bundle.manifest import Manifest
from ....errors import BackendError
from ...sizes import sizes_of
from ..cuda import Buffer
from .context import Runner
from .decoder import TensorRTEncoderOutput
from .stream_context import StreamContext
from .tensors import BlockLayout, Mirror, fill


class OtherEngines:
    """Graphs run from and to numpy arrays, with memory of their own while they run.

    Args:
        manifest: the bundle's.
        shared: the stream and its turns.
        open_runner: from a graph's name to its runner and the memory of its activations.
    """

    def __init__(
        self,
        manifest: Manifest,
        shared: StreamContext,
        open_runner: Callable[[str], tuple[Runner, Buffer]],
    ) -> None:
        self._manifest = manifest
        self._shared = shared
        self._open = open_runner
        self._runners: dict[str, tuple[Runner, Buffer]] = {}

    def run(
        self,
        name: str,
        inputs: Mapping[str, NDArray[Any]],
        encoded: TensorRTEncoderOutput | None,
    ) -> dict[str, NDArray[Any]]:
        """See :meth:`seq2edge.runtime.backends.base.Backend.run_graph`."""
        shared, device = self._shared, self._shared.device
        info = self._manifest.graphs[name]
        given = [spec for spec in info.inputs if spec.name in inputs]
        if encoded is None and len(given) < len(info.inputs):
            missing = next(spec.name for spec in info.inputs if spec.name not in inputs)
            raise BackendError(f"the graph {name} needs the input {missing}")
        sizes = sizes_of(info.inputs, inputs, self._manifest.speech)
        if encoded is not None:
            sizes |= {"batch": encoded.batch_size, "source": encoded.length}
        with shared.lock():
            runner = self._runner(name)
            layout = BlockLayout.of(given, sizes)
            staged = Mirror(
                layout, device.memory.take(layout.size), device.pinned.take(layout.size)
            )
            fill(staged, {spec.name: inputs[spec.name] for spec in given})
            staged.upload(device)
            tensors = staged.tensors()
            if encoded is not None:
                crossed = encoded.cross.tensors()
                tensors |= {s.name: crossed[s.name] for s in info.inputs if s.name in crossed}
            found = shared.block(BlockLayout.of(info.outputs, sizes))
            runner.bind(object(), tensors, found.tensors())
            runner.enqueue()
            results = shared.results(found, [spec.name for spec in info.outputs])
            results.download(device)
            device.wait()
            return {name: array.copy() for name, array in results.host.items()}

    def close(self) -> None:
        """Let go of the engines; within a turn."""
        for runner, _ in self._runners.values():
            runner.close()
        self._runners.clear()

    def _runner(self, name: str) -> Runner:
        if name not in self._runners:
            self._runners[name] = self._open(name)
        return self._runners[name][0]
