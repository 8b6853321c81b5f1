"""The part of the CUDA runtime that running engines needs, through ``cuda.bindings.runtime``.

Each call is checked. Memory that is asked for comes from a pool and goes back to it: all work
of an engine is on one stream, so a buffer may be used again as soon as its last use is
enqueued, and nothing is freed before the stream is done. A stream must not be waited for while
it is captured, by any thread.

Source: NVIDIA, "CUDA Runtime API" (memory, stream and graph management) and the cuda-bindings
documentation: every function returns a tuple that starts with the error.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError

#: What TensorRT asks of the addresses that it is given.
ALIGNMENT = 256


@dataclass(frozen=True)
class DeviceProperties:
    """The GPU of this machine; ``compute_capability`` such as ``8.7``, sizes in bytes."""

    name: str
    compute_capability: str
    total_bytes: int


def load_cuda() -> Cuda:
    """The CUDA runtime of this machine.

    Raises:
        BackendError: cuda-bindings is not installed, or there is no GPU or driver.
    """
    try:
        module = importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        raise BackendError(
            f"cuda-bindings cannot be imported ({error}): pip install 'cuda-bindings'"
            " of this machine's CUDA version (12 or 13)"
        ) from None
    return Cuda(module)


class Cuda:
    """Checked calls on GPU 0. ``module`` is ``cuda.bindings.runtime``."""

    def __init__(self, module: Any) -> None:
        self._module = module
        kinds = module.cudaMemcpyKind
        self._to_device = kinds.cudaMemcpyHostToDevice
        self._to_host = kinds.cudaMemcpyDeviceToHost
        self._within = kinds.cudaMemcpyDeviceToDevice
        if not self.call("cudaGetDeviceCount"):
            raise BackendError("CUDA finds no GPU on this machine")

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the runtime; what it returns beside the error.

        Raises:
            BackendError: the call failed, with CUDA's reason.
        """
        error, *values = getattr(self._module, name)(*arguments)
        if int(error) != 0:
            # CUDA would report it once more, to TensorRT and to whoever asks for its last error.
            self._module.cudaGetLastError()
            raise BackendError(self._reason(name, error))
        return values[0] if len(values) == 1 else tuple(values)

    def gpu(self) -> DeviceProperties:
        """Name, compute capability and memory of the GPU."""
        properties = self.call("cudaGetDeviceProperties", 0)
        name = (
            properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        )
        capability = f"{properties.major}.{properties.minor}"
        return DeviceProperties(name.rstrip("\0"), capability, int(properties.totalGlobalMem))

    def free_bytes(self, meminfo: Path = Path("/proc/meminfo")) -> int:
        """Device memory that can be had now.

        A GPU that shares the system's memory counts files that the kernel keeps in memory as
        taken, though it lets go of them when memory is asked for, so there the kernel's own
        estimate counts (NVIDIA, "CUDA for Tegra": cudaMemGetInfo).
        """
        free, _ = self.call("cudaMemGetInfo")
        if getattr(self.call("cudaGetDeviceProperties", 0), "integrated", 0):
            free = max(free, _available(meminfo))
        return int(free)

    def new_stream(self) -> Any:
        return self.call("cudaStreamCreateWithFlags", self._module.cudaStreamNonBlocking)

    def free_stream(self, stream: Any) -> None:
        self.call("cudaStreamDestroy", stream)

    def allocate(self, size: int) -> int:
        return int(self.call("cudaMalloc", size))

    def free(self, address: int) -> None:
        self.call("cudaFree", address)

    def allocate_pinned(self, size: int) -> int:
        return int(self.call("cudaHostAlloc", size, self._module.cudaHostAllocDefault))

    def free_pinned(self, address: int) -> None:
        self.call("cudaFreeHost", address)

    def upload(self, to: int, source: int, size: int, stream: Any) -> None:
        self.call("cudaMemcpyAsync", to, source, size, self._to_device, stream)

    def download(self, to: int, source: int, size: int, stream: Any) -> None:
        self.call("cudaMemcpyAsync", to, source, size, self._to_host, stream)

    def copy(self, to: int, source: int, size: int, stream: Any) -> None:
        self.call("cudaMemcpyAsync", to, source, size, self._within, stream)

    def set_bytes(self, address: int, value: int, size: int, stream: Any) -> None:
        self.call("cudaMemsetAsync", address, value, size, stream)

    def set_column(self, address: int, pitch: int, value: int, rows: int, stream: Any) -> None:
        """One byte of each of ``rows`` rows that are ``pitch`` bytes apart."""
        self.call("cudaMemset2DAsync", address, pitch, value, 1, rows, stream)

    def wait(self, stream: Any) -> None:
        self.call("cudaStreamSynchronize", stream)

    @contextlib.contextmanager
    def captured(self, stream: Any) -> Iterator[list[Any]]:
        """Capture what the block enqueues into a graph, the list's one element; nothing is run.

        Only this thread's calls are captured or restricted meanwhile.
        """
        mode = self._module.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)
        graphs: list[Any] = []
        try:
            yield graphs
        except BaseException:
            # The first error is the one that matters.
            error, graph = self._module.cudaStreamEndCapture(stream)
            if int(error) == 0:
                self._module.cudaGraphDestroy(graph)
            self._module.cudaGetLastError()
            raise
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            graphs.append(self.call("cudaGraphInstantiate", graph, 0))
        finally:
            self.call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        self.call("cudaGraphLaunch", graph, stream)

    def free_graph(self, graph: Any) -> None:
        self.call("cudaGraphExecDestroy", graph)

    def _reason(self, name: str, error: Any) -> str:
        _, text = self._module.cudaGetErrorString(error)
        reason = text.decode() if isinstance(text, bytes) else str(text)
        hint = ""
        if str(getattr(error, "name", "")) in ("cudaErrorInsufficientDriver", "cudaErrorNoDevice"):
            hint = "; is there an NVIDIA GPU with a driver that is new enough? (nvidia-smi)"
        return f"{name} failed: {reason} ({int(error)}){hint}"


class Buffer:
    """Memory from a pool; back in the pool when nothing refers to it."""

    def __init__(self, pool: MemoryPool, address: int, size: int) -> None:
        self._pool, self.address, self.size = pool, address, size

    def __del__(self) -> None:
        self._pool.take_back(self)


class MemoryPool:
    """Device memory, or page-locked host memory, for the work of one stream.

    Args:
        allocate: an address from a number of bytes.
        free: gives an address back.
        wait: returns when the stream is done, so that nothing uses what was given back.
    """

    def __init__(
        self,
        allocate: Callable[[int], int],
        free: Callable[[int], None],
        wait: Callable[[], None],
    ) -> None:
        self._allocate, self._release, self._wait = allocate, free, wait
        # The garbage collector may give a buffer back while this thread takes one.
        self._lock = threading.RLock()
        self._free: list[tuple[int, int]] = []  # (size, address)
        self._all: set[int] = set()
        self._closed = False

    def take(self, size: int) -> Buffer:
        """At least ``size`` bytes of any content, at an address that TensorRT takes.

        What others have given back is freed if there would be too little.

        Raises:
            BackendError: there is not so much left.
        """
        size = aligned(max(size, 1))
        with self._lock:
            # Nothing much larger, which a larger request would miss.
            fits = [entry for entry in self._free if size <= entry[0] <= 2 * size]
            if fits:
                entry = min(fits)
                self._free.remove(entry)
                return Buffer(self, entry[1], entry[0])
            try:
                address = self._allocate(size)
            except BackendError:
                if not self._free:
                    raise
                self._shrink()
                address = self._allocate(size)
            self._all.add(address)
            return Buffer(self, address, size)

    def take_back(self, buffer: Buffer) -> None:
        """Let others have it."""
        with self._lock:
            if not self._closed:
                self._free.append((buffer.size, buffer.address))

    def close(self) -> None:
        """Free everything; the stream must be done."""
        with self._lock:
            self._closed = True
            addresses, self._all, self._free = self._all, set(), []
            for address in addresses:
                self._release(address)

    def _shrink(self) -> None:
        self._wait()
        while self._free:
            _, address = self._free.pop()
            self._all.remove(address)
            self._release(address)


class Device:
    """One stream of GPU 0, and the memory for what is done on it."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.stream = cuda.new_stream()
        self.memory = MemoryPool(cuda.allocate, cuda.free, self.wait)
        self.pinned = MemoryPool(cuda.allocate_pinned, cuda.free_pinned, self.wait)

    def wait(self) -> None:
        """Return when everything on the stream is done."""
        self.cuda.wait(self.stream)

    def close(self) -> None:
        """Free everything; buffers that are still held are good for nothing any more."""
        try:
            self.wait()
        finally:
            self.memory.close()
            self.pinned.close()
            self.cuda.free_stream(self.stream)


def aligned(size: int) -> int:
    """``size``, or what comes to the next address that TensorRT takes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def host_bytes(buffer: Buffer) -> NDArray[np.uint8]:
    """Page-locked memory as an array; good for as long as the buffer is kept."""
    memory = (ctypes.c_uint8 * buffer.size).from_address(buffer.address)
    return np.ctypeslib.as_array(memory)


def _available(meminfo: Path) -> int:
    """Bytes that the kernel could give out, of /proc/meminfo; 0 if it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in meminfo.read_text("ascii", "replace").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.removesuffix(" kB")) * 1024
    return 0
