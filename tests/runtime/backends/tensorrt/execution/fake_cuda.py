# ruff: noqa: ARG002, N802, N815 (names and arguments are CUDA's own)
"""A CUDA runtime without a GPU that does nothing before it must, and checks every call.

What is enqueued runs when its stream is waited for, not before, so a missing wait shows; device
memory is never zeroed, so what was not written shows; and memory that is still in use, or an
address outside of what was allocated, is an error.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

_POISON = 0xFF  # NaN in every floating-point type


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2


class _CopyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


@dataclass
class Operation:
    """Work on a stream, and the memory that it needs until it is done."""

    run: Callable[[], None]
    memory: list[tuple[int, int]]


@dataclass
class Stream:
    number: int
    pending: list[Operation] = field(default_factory=list)
    captured: list[Operation] | None = None

    def __int__(self) -> int:
        return self.number


@dataclass
class Graph:
    operations: list[Operation]
    alive: bool = True


class FakeCuda:
    """Stands for the module ``cuda.bindings.runtime``; ``calls`` counts its functions' names."""

    cudaMemcpyKind = _CopyKind
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0

    def __init__(self, memory: int = 1 << 30, name: str = "Orin", sm: tuple[int, int] = (8, 7)):
        self.calls: Counter[str] = Counter()
        self.total = memory
        self._gpu = SimpleNamespace(
            name=name.encode(), major=sm[0], minor=sm[1], totalGlobalMem=memory
        )
        self._streams: dict[int, Stream] = {}
        self._device: dict[int, Any] = {}
        self._pinned: dict[int, Any] = {}
        self.graphs: list[Graph] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cuda") and name[4].isupper():
            object.__getattribute__(self, "calls")[name] += 1
        return object.__getattribute__(self, name)

    # What a test asks.

    @property
    def device_bytes(self) -> int:
        return sum(len(memory) for memory in self._device.values())

    @property
    def allocations(self) -> int:
        return len(self._device) + len(self._pinned)

    def stream(self, number: int) -> Stream:
        return self._streams[number]

    def check_device(self, address: int, size: int) -> None:
        """It lies within one piece of device memory."""
        assert self._inside(self._device, address, size), f"{size} bytes at {address:#x}"

    def enqueue(self, stream: Stream, operation: Operation) -> None:
        (stream.pending if stream.captured is None else stream.captured).append(operation)

    # CUDA's functions, as cuda-bindings has them.

    def cudaGetDeviceCount(self) -> Any:
        return Error.cudaSuccess, 1

    def cudaGetDeviceProperties(self, device: int) -> Any:
        assert device == 0
        return Error.cudaSuccess, self._gpu

    def cudaMemGetInfo(self) -> Any:
        return Error.cudaSuccess, self.total - self.device_bytes, self.total

    def cudaGetErrorString(self, error: Error) -> Any:
        return Error.cudaSuccess, b"out of memory" if error == 2 else b"no error"

    def cudaMalloc(self, size: int) -> Any:
        assert size > 0
        if self.device_bytes + size > self.total:
            return Error.cudaErrorMemoryAllocation, None
        return Error.cudaSuccess, self._allocate(self._device, size)

    def cudaHostAlloc(self, size: int, flags: int) -> Any:
        return Error.cudaSuccess, self._allocate(self._pinned, size)

    def cudaFree(self, address: int) -> Any:
        return self._free(self._device, address)

    def cudaFreeHost(self, address: int) -> Any:
        return self._free(self._pinned, address)

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        stream = Stream(len(self._streams) + 1)
        self._streams[stream.number] = stream
        return Error.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: Stream) -> Any:
        assert not stream.pending
        return (Error.cudaSuccess,)

    def cudaGetLastError(self) -> Any:
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: Stream) -> Any:
        assert stream.captured is None, "a stream that is captured cannot be waited for"
        pending, stream.pending = stream.pending, []
        for operation in pending:
            operation.run()
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(
        self, to: int, source: int, size: int, kind: _CopyKind, stream: Stream
    ) -> Any:
        for address, on_device in (
            (to, kind != _CopyKind.cudaMemcpyDeviceToHost),
            (source, kind != _CopyKind.cudaMemcpyHostToDevice),
        ):
            memory = self._device if on_device else self._pinned
            assert self._inside(memory, address, size), f"{kind.name} of {size} at {address:#x}"
        apart = to + size <= source or source + size <= to
        assert apart, "copies must not overlap"
        self.enqueue(
            stream,
            Operation(lambda: ctypes.memmove(to, source, size), [(to, size), (source, size)]),
        )
        return (Error.cudaSuccess,)

    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: Stream) -> Any:
        self.check_device(address, size)
        self.enqueue(
            stream, Operation(lambda: ctypes.memset(address, value, size), [(address, size)])
        )
        return (Error.cudaSuccess,)

    def cudaMemset2DAsync(
        self, address: int, pitch: int, value: int, width: int, height: int, stream: Stream
    ) -> Any:
        assert width <= pitch
        size = pitch * (height - 1) + width
        self.check_device(address, size)

        def run() -> None:
            for row in range(height):
                ctypes.memset(address + row * pitch, value, width)

        self.enqueue(stream, Operation(run, [(address, size)]))
        return (Error.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: Stream, mode: int) -> Any:
        assert stream.captured is None
        stream.captured = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Stream) -> Any:
        assert stream.captured is not None
        graph, stream.captured = Graph(stream.captured), None
        return Error.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: Graph, flags: int) -> Any:
        assert graph.alive
        executable = Graph(graph.operations)
        self.graphs.append(executable)
        return Error.cudaSuccess, executable

    def cudaGraphDestroy(self, graph: Graph) -> Any:
        graph.alive = False
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, graph: Graph) -> Any:
        self.graphs.remove(graph)
        return (Error.cudaSuccess,)

    def cudaGraphLaunch(self, graph: Graph, stream: Stream) -> Any:
        assert graph in self.graphs
        assert stream.captured is None
        for operation in graph.operations:
            for address, size in operation.memory:
                everywhere = self._device | self._pinned
                assert self._inside(everywhere, address, size), "the graph uses freed memory"
        stream.pending += graph.operations
        return (Error.cudaSuccess,)

    # How it does it.

    @staticmethod
    def _allocate(memory: dict[int, Any], size: int) -> int:
        # Over-allocated so that the address is as well aligned as CUDA's.
        raw = ctypes.create_string_buffer(size + 256)
        address = -(-ctypes.addressof(raw) // 256) * 256
        ctypes.memset(address, _POISON, size)
        memory[address] = _Memory(raw, size)
        return address

    def _free(self, memory: dict[int, Any], address: int) -> Any:
        assert address in memory, "freed twice, or never allocated"
        size = len(memory[address])
        for stream in self._streams.values():
            for operation in stream.pending:
                for start, length in operation.memory:
                    apart = start + length <= address or address + size <= start
                    assert apart, "freed while it is enqueued"
        del memory[address]
        return (Error.cudaSuccess,)

    @staticmethod
    def _inside(memory: dict[int, Any], address: int, size: int) -> bool:
        return any(
            start <= address and address + size <= start + len(piece)
            for start, piece in memory.items()
        )


@dataclass
class _Memory:
    raw: Any
    size: int

    def __len__(self) -> int:
        return self.size
