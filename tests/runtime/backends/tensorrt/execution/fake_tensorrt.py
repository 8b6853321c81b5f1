"""A TensorRT without a GPU: its engines compute what ONNX Runtime computes on the CPU.

Plans are made-up bytes. Inputs are read and outputs written at the addresses that were set, when
the fake CUDA runs what is on the stream. Every call is checked against TensorRT's documentation
("Working with dynamic shapes", "CUDA graphs", IKVCacheUpdateLayer).
"""

from __future__ import annotations

import ctypes
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from seq2edge.runtime import Bundle
from seq2edge.runtime.backends.limits import Limits
from seq2edge.runtime.backends.tensorrt.builder.profile import Shape, profiles
from seq2edge.runtime.backends.tensorrt.builder.report import GraphReport
from seq2edge.runtime.backends.tensorrt.engine_cache import graph_hashes
from seq2edge.runtime.backends.tensorrt.engine_store import (
    EngineFile,
    EngineKey,
    EngineSet,
    EngineWriter,
    engine_graphs,
)
from seq2edge.runtime.backends.tensorrt.library import Library

from .fake_cuda import FakeCuda, Operation, Stream

VERSION = "10.16.0"
_ACTIVATIONS = 5000


def write_engines(bundle: Bundle, folder: Path, limits: Limits, *, in_place: bool) -> EngineSet:
    """A folder of engines for a GPU of compute capability 8.7."""
    key = EngineKey("tensorrt", VERSION, ("8.7",), None, limits, None, graph_hashes(bundle))
    files = {}
    with EngineWriter(folder) as writer:
        for graph in engine_graphs(bundle.manifest):
            updates = 2 if graph == "decoder" and in_place else 0
            report = GraphReport(1000, 900, _ACTIVATIONS, (), 0, updates, ())
            files[graph] = EngineFile(*writer.write(f"{graph}.engine", graph.encode()), report)
        made = EngineSet(key, files)
        writer.commit(made)
    return made


#: Milliseconds of the layers of every engine, by their names.
LAYER_MS = {"/layers.0/ffn/up/MatMul": 0.25, "__myl_FcMulAdd_myl0_17": 0.5}


class FakeTensorRT:
    """Stands for the module ``tensorrt``; ``contexts`` are those that were made."""

    ILogger = type("ILogger", (), {})
    IProfiler = type("IProfiler", (), {})
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)

    def __init__(self, cuda: FakeCuda, bundle: Bundle, limits: Limits, *, in_place: bool) -> None:
        self.cuda, self.bundle, self.limits, self.in_place = cuda, bundle, limits, in_place
        self.contexts: list[Context] = []
        #: What the next run, if any, is to answer in place of True.
        self.refuses = False

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        assert isinstance(logger, self.ILogger)
        return SimpleNamespace(deserialize_cuda_engine=self._deserialize)

    def library(self) -> Library:
        return Library("tensorrt", VERSION, self)

    def _deserialize(self, data: bytes) -> Any:
        graph = data.decode()
        return Engine(self, graph) if graph in self.bundle.manifest.graphs else None


class Engine:
    def __init__(self, trt: FakeTensorRT, graph: str) -> None:
        self.trt = trt
        self.info = trt.bundle.manifest.graphs[graph]
        self.profiles = profiles(self.info, trt.limits, trt.bundle.manifest.speech)
        self.num_optimization_profiles = len(self.profiles)
        self.device_memory_size_v2 = _ACTIVATIONS
        self._names = [spec.name for spec in (*self.info.inputs, *self.info.outputs)]
        self.num_io_tensors = len(self._names)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            trt.bundle.path(self.info.file), options, providers=["CPUExecutionProvider"]
        )

    def get_tensor_name(self, number: int) -> str:
        return self._names[number]

    def create_execution_context(self, strategy: int) -> Context:
        assert strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = Context(self)
        self.trt.contexts.append(context)
        return context


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.runs = 0
        self._profile = engine.profiles[0]
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._memory = (0, 0)
        self._enqueued: object = None
        #: Told of two layers of each run, as TensorRT's is.
        self.profiler: Any = None

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % 256 == 0
        assert size >= self.engine.device_memory_size_v2
        self._memory = (address, size)

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream
        self._profile = self.engine.profiles[profile]
        return True

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        small, _, large = self._profile[name]
        inside = all(a <= n <= b for a, n, b in zip(small, shape, large, strict=True))
        if inside:
            self._shapes[name] = tuple(shape)
        return inside

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0, f"{name} is not aligned"
        self._addresses[name] = address
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return stream != 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt = self.engine.trt
        if trt.refuses:
            return False
        stream: Stream = trt.cuda.stream(stream_handle)
        state = (tuple(self._shapes.items()), tuple(self._addresses.items()))
        if stream.captured is not None:
            assert state == self._enqueued, "captured before it was enqueued once"
        self._enqueued = state
        trt.cuda.check_device(*self._memory)
        inputs = {
            spec.name: self._tensor(spec.name, self._shapes[spec.name], spec.dtype)
            for spec in self.engine.info.inputs
        }
        memory = [self._memory]
        for name, array in inputs.items():
            memory.append((self._addresses[name], array.nbytes))
        for spec in self.engine.info.outputs:
            self._check_cache(spec.name, inputs)
        outputs = dict(self._addresses)
        self.runs += 1

        def run() -> None:
            names = [spec.name for spec in self.engine.info.outputs]
            # Copies: the real inputs are read before anything is written, too.
            given = {name: array.copy() for name, array in inputs.items()}
            for name, value in zip(names, self.engine.session.run(names, given), strict=True):
                trt.cuda.check_device(outputs[name], value.nbytes)
                ctypes.memmove(outputs[name], value.ctypes.data, value.nbytes)

        trt.cuda.enqueue(stream, Operation(run, memory))
        if self.profiler is not None:
            assert isinstance(self.profiler, trt.IProfiler)
            assert stream.captured is None, "a CUDA graph has no layers"
            for layer, ms in LAYER_MS.items():
                self.profiler.report_layer_time(layer, ms)
        return True

    def _tensor(self, name: str, shape: Shape, dtype: str) -> Any:
        address, kind = self._addresses[name], np.dtype(dtype)
        size = prod(shape) * kind.itemsize
        self.engine.trt.cuda.check_device(address, size)
        memory = (ctypes.c_uint8 * size).from_address(address)
        return np.frombuffer(memory, kind).reshape(shape)

    def _check_cache(self, name: str, inputs: dict[str, Any]) -> None:
        """IKVCacheUpdateLayer: input and output have one address; others must be apart."""
        past = name.replace("present_", "past_", 1)
        if past == name:
            return
        to, source, size = self._addresses[name], self._addresses[past], inputs[past].nbytes
        if self.engine.trt.in_place:
            assert to == source, f"{name} is not where {past} is"
        else:
            assert to + size <= source or source + size <= to, f"{name} overlaps {past}"
