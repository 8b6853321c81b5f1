"""A loop that does nothing but load memory into vector registers, in machine code.

numpy's reductions compute with what they read: from a cache that a core has to itself they reach
0.4 to 0.75 x the rate of a compiled loop. A bound that is easy to beat is none, and a device has no
compiler. So the loop is here in bytes, as an assembler makes them (a test compares), for the three
instruction sets that matter. Others are measured with numpy.

The code lies in a file in memory that is mapped as a library's would be: never writable and
executable at once, and a processor with a separate instruction cache (arm64) is told by the kernel.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seq2edge.deploy.doctor.reading import fields, read_lines

#: Bytes of one turn of the loop: what is read is a multiple of it.
BLOCK = 512


@dataclass(frozen=True)
class Loop:
    """One instruction set's. Arguments: first byte, the byte after the last one, passes.

    Attributes:
        name: of the reader, in reports.
        machine: as ``uname -m`` has it.
        feature: of the processor, as Linux names it; "": all have it.
        code: position-independent; it touches no memory but what it loads.
        assembly: the same, to be read.
    """

    name: str
    machine: str
    feature: str
    code: bytes
    assembly: str


def _x86(register: str, width: int) -> str:
    """Eight registers in turn, each of ``width`` bytes."""
    loads = [
        f"vmovups {register}{index % 8}, [rax + {width * index}]" for index in range(BLOCK // width)
    ]
    lines = ["1: mov rax, rdi", f"2: {loads[0]}", *loads[1:], f"add rax, {BLOCK}"]
    return "\n".join([*lines, "cmp rax, rsi", "jb 2b", "dec rdx", "jne 1b", "vzeroupper", "ret"])


def _arm64() -> str:
    """Eight pairs of registers in turn, none of which a caller wants back (v8 to v15)."""
    pairs = [(first, first + 1) for first in (0, 2, 4, 6, 16, 18, 20, 22)]
    loads = [
        "ldp q{}, q{}, [x3, #{}]".format(*pairs[index % 8], 32 * index)
        for index in range(BLOCK // 32)
    ]
    lines = ["1: mov x3, x0", f"2: {loads[0]}", *loads[1:], f"add x3, x3, #{BLOCK}"]
    return "\n".join([*lines, "cmp x3, x1", "b.lo 2b", "subs x2, x2, #1", "b.ne 1b", "ret"])


#: The first one that a processor has is used.
LOOPS = (
    Loop(
        "512-bit loads",
        "x86_64",
        "avx512f",
        bytes.fromhex(
            "4889f862f17c48100062f17c4810480162f17c4810500262f17c4810580362f17c4810600462f17c481068"
            "0562f17c4810700662f17c481078074805000200004839f072be48ffca75b6c5f877c3"
        ),
        _x86("zmm", 64),
    ),
    Loop(
        "256-bit loads",
        "x86_64",
        "avx2",
        bytes.fromhex(
            "4889f8c5fc1000c5fc104820c5fc105040c5fc105860c5fc10a080000000c5fc10a8a0000000c5fc10b0c0"
            "000000c5fc10b8e0000000c5fc108000010000c5fc108820010000c5fc109040010000c5fc109860010000"
            "c5fc10a080010000c5fc10a8a0010000c5fc10b0c0010000c5fc10b8e00100004805000200004839f07282"
            "48ffca0f8576ffffffc5f877c3"
        ),
        _x86("ymm", 32),
    ),
    Loop(
        "pairs of 128-bit loads",
        "aarch64",
        "asimd",
        bytes.fromhex(
            "e30300aa600440ad620c41ad641442ad661c43ad704444ad724c45ad745446ad765c47ad600448ad620c49"
            "ad64144aad661c4bad70444cad724c4dad74544ead765c4fad630008917f0001ebc3fdff54420400f161fd"
            "ff54c0035fd6"
        ),
        _arm64(),
    ),
)


class VectorLoads:
    """A :class:`Loop` that can be run; without the interpreter's lock."""

    def __init__(self, loop: Loop) -> None:
        """Map the code.

        Raises:
            OSError: this system maps no code that a program brings along.
        """
        self.name = loop.name
        file = os.memfd_create("vector-loads")
        try:
            os.write(file, loop.code)
            executable = mmap.PROT_READ | mmap.PROT_EXEC
            self._code = mmap.mmap(file, len(loop.code), mmap.MAP_PRIVATE, executable)
        finally:
            os.close(file)
        address = np.frombuffer(self._code, np.uint8).ctypes.data
        signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        self._run: Callable[[int, int, int], None] = signature(address)

    def read(self, address: int, size: int, passes: int) -> None:
        """Load ``size`` bytes, a multiple of :data:`BLOCK`, so many times, once at least."""
        if size < BLOCK or size % BLOCK or passes < 1:
            raise ValueError(f"{passes} times {size} bytes: not a multiple of {BLOCK}")
        self._run(address, address + size, passes)


def vector_loads() -> VectorLoads | None:
    """The loop of this processor; None: there is none, or it may not be mapped."""
    machine = platform.machine()
    features = _features()
    for loop in LOOPS:
        if loop.machine == machine and loop.feature in features:
            try:
                return VectorLoads(loop)
            except (OSError, AttributeError):  # a hardened kernel; a system without memfd_create
                return None
    return None


def _features() -> Collection[str]:
    """What all cores have, by Linux's names: ``flags`` on x86, ``Features`` on arm64."""
    lines = read_lines(Path("/proc/cpuinfo"))
    cores = [set(value.split()) for key, value in fields(lines) if key in ("flags", "Features")]
    return set.intersection(*cores) if cores else set()
