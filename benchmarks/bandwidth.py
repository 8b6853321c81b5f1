"""How fast memory can be read: this machine's, or a GPU's own.

A bandwidth is fair if it is hard to beat, so two buffers are read: one far larger than any cache,
and one as large as a decoder's weights, over and over as steps do, of which a cache may hold a
part.

- The CPU's reader is a loop of vector loads (:mod:`.vector_loads`), with as many threads as the
  engine uses, each over its own part of a buffer that holds data (pages never written are all one
  page, which stays in the cache) and lies in huge pages, where the kernel has them to give.
  Processors that the loop is not there for are read with two of numpy's reductions, of which the
  faster counts; from a cache they reach 0.4 to 0.75 x the loop's rate.
  ``python -m seq2edge.benchmarks.bandwidth_check`` compares with loops that a compiler makes.
- A GPU copies a buffer's first half onto its second, which moves as many bytes as the buffer has:
  each byte of the half is read once and written once. The time is that of enough copies until
  their stream is done. A kernel that only reads may be a little faster than copies.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seq2edge.runtime.backends.tensorrt.cuda import ALIGNMENT, Cuda

from .vector_loads import BLOCK, vector_loads

#: Of the machine's large buffer, and of what one reading of the other adds up to at least.
_MEMORY_BYTES, _READ_BYTES = 256_000_000, 32_000_000
#: The same of a GPU: ten times the largest cache of an H100 (50 MB); and copies are enqueued for
#: milliseconds, beside which one wait is nothing.
_DEVICE_BYTES, _COPIED_BYTES = 512_000_000, 8_000_000_000
#: Beyond so many copies of a small buffer one measures how fast copies are enqueued, no better.
_MOST_COPIES = 1000

_Words = NDArray[np.uint64]
#: Reads words so many times.
Reader = Callable[[_Words, int], None]
#: Of a huge page on x86 and arm64.
_PAGE = 1 << 21

#: Bytes per second, by reader.
Rates = dict[str, float]


class Memory(Protocol):
    """Memory that is measured again and again.

    Attributes:
        device: ``cpu``, or the GPU's name.
        threads: that read it; None: it is a GPU's.
    """

    @property
    def device(self) -> str: ...

    @property
    def threads(self) -> int | None: ...

    def measure(self, size: int) -> tuple[Rates, Rates]:
        """Rates of the large buffer, and of one of ``size`` bytes that stays the same one.

        Raises:
            BackendError: a GPU has no memory left for them.
        """
        ...

    def close(self) -> None: ...


class HostMemory:
    """This machine's memory, read by ``threads`` threads."""

    device = "cpu"

    def __init__(self, threads: int) -> None:
        self.threads: int = threads
        self._pool = ThreadPoolExecutor(threads)
        self._buffers: dict[int, _Words] = {}
        self._readers = cpu_readers()

    def measure(self, size: int) -> tuple[Rates, Rates]:
        """See :class:`Memory`."""
        return self._read(_MEMORY_BYTES), self._read(size)

    def close(self) -> None:
        self._pool.shutdown()
        self._buffers.clear()

    def _read(self, size: int) -> Rates:
        if size not in self._buffers:
            self._buffers[size] = aligned_words(size, self.threads)
        words = self._buffers[size]
        parts = parts_of(words, self.threads)
        # One reading of a small buffer would measure how fast threads wake up.
        passes = max(1, _READ_BYTES // words.nbytes)

        def seconds(reader: Reader, passes: int) -> float:
            start = time.perf_counter()
            list(self._pool.map(lambda part: reader(part, passes), parts))
            return time.perf_counter() - start

        # Once for nothing: the cores wake up, and a cache takes what it can hold.
        seconds(next(iter(self._readers.values())), 1)
        return {
            name: passes * words.nbytes / seconds(reader, passes)
            for name, reader in self._readers.items()
        }


def cpu_readers() -> dict[str, Reader]:
    """How this processor's memory is read, by name."""
    loads = vector_loads()
    if loads is None:
        return dict(NUMPY_READERS)
    read = loads.read
    return {loads.name: lambda words, passes: read(words.ctypes.data, words.nbytes, passes)}


def _repeated(reduce: Callable[[_Words], object]) -> Reader:
    def read(words: _Words, passes: int) -> None:
        for _ in range(passes):
            reduce(words)

    return read


#: Reductions that numpy runs in vector instructions, without the interpreter's lock. Not ``dot``,
#: which is a BLAS with threads of its own.
NUMPY_READERS: dict[str, Reader] = {
    "maximum of uint64": _repeated(lambda words: words.max()),
    "and of uint8": _repeated(lambda words: np.bitwise_and.reduce(words.view(np.uint8))),
}


def aligned_words(size: int, threads: int) -> _Words:
    """About ``size`` bytes at the start of a huge page, if there are any; each page was written.

    A multiple of what a loop reads at once, and a part of that for each thread.
    """
    count = max(size // BLOCK, threads) * (BLOCK // 8)
    memory = mmap.mmap(-1, 8 * count + _PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    everything = np.frombuffer(memory, np.uint8)
    start = -everything.ctypes.data % _PAGE
    words: _Words = everything[start : start + 8 * count].view(np.uint64)
    words[:] = 0x0102030405060708
    return words


def parts_of(words: _Words, threads: int) -> list[_Words]:
    """A part for each thread, each a multiple of a loop's block."""
    block = BLOCK // 8
    starts = [index * (len(words) // block) // threads * block for index in range(1, threads)]
    return np.split(words, starts)


class DeviceMemory:
    """GPU 0's memory; copies of ``cudaMemcpyAsync`` within it, on a stream of their own."""

    threads: None = None

    def __init__(self, cuda: Cuda) -> None:
        self.device: str = cuda.gpu().name
        self._cuda = cuda
        self._stream = cuda.new_stream()
        self._buffers: dict[int, int] = {}

    def measure(self, size: int) -> tuple[Rates, Rates]:
        """See :class:`Memory`."""
        return {"copy": self._rate(_DEVICE_BYTES)}, {"copy": self._rate(size)}

    def close(self) -> None:
        self._cuda.wait(self._stream)
        for address in self._buffers.values():
            self._cuda.free(address)
        self._buffers.clear()

    def _rate(self, size: int) -> float:
        # Both halves begin at an aligned address, as what an engine reads does.
        half = max(size // 2 // ALIGNMENT, 1) * ALIGNMENT
        if size not in self._buffers:
            self._buffers[size] = self._cuda.allocate(2 * half)
            self._cuda.set_bytes(self._buffers[size], 1, 2 * half, self._stream)
        address = self._buffers[size]

        def seconds(copies: int) -> float:
            start = time.perf_counter()
            for _ in range(copies):
                self._cuda.copy(address + half, address, half, self._stream)
            self._cuda.wait(self._stream)
            return time.perf_counter() - start

        # Once for nothing: the GPU wakes up, and a cache takes what it can hold.
        seconds(1)
        copies = min(max(1, _COPIED_BYTES // (2 * half)), _MOST_COPIES)
        return copies * 2 * half / seconds(copies)
