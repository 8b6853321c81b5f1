"""How memory is read: the loop is what its assembly says, and reads all of a buffer, no more."""

from __future__ import annotations

import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seq2edge.benchmarks import bandwidth, bandwidth_check
from seq2edge.benchmarks.bandwidth import HostMemory, aligned_words, cpu_readers, parts_of
from seq2edge.benchmarks.vector_loads import BLOCK, LOOPS, Loop, vector_loads

HERE = platform.machine()
needs_loop = pytest.mark.skipif(vector_loads() is None, reason=f"no loop for this {HERE}")


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_code_is_what_an_assembler_makes(loop: Loop, tmp_path: Path) -> None:
    prefix = "" if loop.machine == HERE else f"{loop.machine}-linux-gnu-"
    for program in (f"{prefix}as", f"{prefix}objcopy"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (binutils for {loop.machine})")
    syntax = ".intel_syntax noprefix\n" if loop.machine == "x86_64" else ""
    (tmp_path / "loop.s").write_text(f"{syntax}{loop.assembly}\n")
    made = tmp_path / "loop.o"
    subprocess.run([f"{prefix}as", tmp_path / "loop.s", "-o", made], check=True)
    code = tmp_path / "loop.bin"
    subprocess.run(
        [f"{prefix}objcopy", "-O", "binary", "-j", ".text", made, code],
        check=True,
    )
    assert code.read_bytes() == loop.code


def test_every_byte_of_a_block_is_loaded_once() -> None:
    for loop in LOOPS:
        width = {"zmm": 64, "ymm": 32}.get(loop.assembly.split("vmovups ")[-1][:3], 32)
        places = [int(place) for place in re.findall(r"(?:rax \+ |x3, #)(\d+)\]", loop.assembly)]
        assert places == list(range(0, BLOCK, width))


@needs_loop
def test_the_loop_reads_all_and_nothing_behind() -> None:
    # A file's pages are mapped as they are read; the page behind it would be a fault.
    size = 64 * mmap.PAGESIZE
    code = f"""
import mmap, os, re
import numpy as np
from seq2edge.benchmarks.vector_loads import vector_loads
file = os.memfd_create("buffer")
os.truncate(file, {size})
memory = mmap.mmap(file, {size}, mmap.MAP_SHARED, mmap.PROT_READ)
address = np.frombuffer(memory, np.uint8).ctypes.data
def resident():
    part = open("/proc/self/smaps").read().partition(f"{{address:x}}-")[2]
    return int(re.search(r"Rss: +(\\d+)", part)[1])
before = resident()
vector_loads().read(address, {size}, 2)
print(before, resident())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", str(size // 1024)]


@needs_loop
def test_sizes_that_the_loop_would_overrun_are_refused() -> None:
    loads = vector_loads()
    assert loads is not None
    for size, passes in ((BLOCK - 8, 1), (BLOCK + 8, 1), (0, 1), (BLOCK, 0)):
        with pytest.raises(ValueError, match="not a multiple"):
            loads.read(0, size, passes)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [8, 1000, 804_500])
def test_threads_share_a_buffer_without_a_rest(size: int, threads: int) -> None:
    words = aligned_words(size, threads)
    parts = parts_of(words, threads)
    assert len(parts) == threads
    assert all(part.nbytes >= BLOCK and part.nbytes % BLOCK == 0 for part in parts)
    assert sum(part.nbytes for part in parts) == words.nbytes
    assert abs(words.nbytes - size) <= threads * BLOCK


def test_other_processors_are_read_with_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "vector_loads", lambda: None)
    monkeypatch.setattr(bandwidth, "_MEMORY_BYTES", 100_000)
    monkeypatch.setattr(bandwidth, "_READ_BYTES", 100_000)
    memory = HostMemory(2)
    large, same_size = memory.measure(5_000)
    memory.close()
    assert set(large) == set(same_size) == {"maximum of uint64", "and of uint8"}
    assert min(*large.values(), *same_size.values()) > 0


def test_both_read_the_same_as_a_compiled_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here: cc")
    # The compiled loop's sum says that it reads what it is given.
    words = np.arange(256, dtype=np.uint64)
    compiled = bandwidth_check.compiled_reader(tmp_path)
    assert compiled(words, 3) == 3 * sum(range(256))  # type: ignore[func-returns-value]
    monkeypatch.setattr(bandwidth_check, "SIZES", (20_000,))
    monkeypatch.setattr(bandwidth_check, "_READ_BYTES", 20_000)
    assert bandwidth_check.main(["--threads", "1", "2"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()[1:]
    assert all(name in header for name in ("compiled", *cpu_readers()))
    assert [row.split()[0] for row in rows] == ["1", "2"]
    assert bandwidth_check.main(["--compiler", os.devnull]) == 2
