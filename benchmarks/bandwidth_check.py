"""The bandwidth that ``bench --roofline`` measures beside a loop that a C compiler makes.

``python -m seq2edge.benchmarks.bandwidth_check`` compiles a sum over 64-bit words (as STREAM's
kernels, but only reading) for this processor, reads the same buffers with both in turns, and prints
GB/s and their ratio: above 1, the measured bandwidth is the higher one. It needs a C compiler.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from seq2edge.runtime.errors import MissingDependencyError, Seq2EdgeError

from .bandwidth import NUMPY_READERS, Reader, aligned_words, cpu_readers, parts_of

#: Bytes: in a core's own cache, in all cores' cache, around it, beyond any.
SIZES = (800_000, 3_000_000, 16_000_000, 150_000_000)
_ROUNDS = 15
_READ_BYTES = 32_000_000
_SOURCE = """
#include <stddef.h>
#include <stdint.h>
uint64_t sum(const uint64_t *words, size_t count, size_t passes) {
  uint64_t sums[64] = {0}, all = 0;
  for (size_t pass = 0; pass < passes; pass++) {
    for (size_t i = 0; i < count; i += 64)
      for (int k = 0; k < 64; k++) sums[k] += words[i + k];
    __asm__ volatile("" ::: "memory");
  }
  for (int k = 0; k < 64; k++) all += sums[k];
  return all;
}
"""


def compiled_reader(folder: Path, compiler: str = "cc") -> Reader:
    """A reader that the compiler makes, in a library in ``folder``.

    Raises:
        MissingDependencyError: there is no such compiler, or it fails.
    """
    library = folder / "sum.so"
    options = ["-O3", "-march=native", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    try:
        done = subprocess.run([compiler, *options], input=_SOURCE, text=True, capture_output=True)
    except OSError as error:
        raise MissingDependencyError(f"cannot run the C compiler {compiler}: {error}") from None
    if done.returncode:
        raise MissingDependencyError(f"{compiler} fails: {done.stderr.strip().splitlines()[-1]}")
    function = ctypes.CDLL(str(library)).sum
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    function.restype = ctypes.c_uint64
    return lambda words, passes: function(words.ctypes.data, len(words), passes)


def rates_of(
    readers: dict[str, Reader], size: int, threads: int, rounds: int = _ROUNDS
) -> dict[str, list[float]]:
    """Bytes per second by reader, one per round, in turns."""
    words = aligned_words(size, threads)
    parts, passes = parts_of(words, threads), max(1, _READ_BYTES // words.nbytes)
    rates: dict[str, list[float]] = {name: [] for name in readers}
    with ThreadPoolExecutor(threads) as pool:
        for number in range(rounds + 1):
            for name, reader in readers.items():
                start = time.perf_counter()
                list(pool.map(reader, parts, [passes] * threads))
                seconds = time.perf_counter() - start
                if number:  # the first round is for nothing
                    rates[name].append(passes * words.nbytes / seconds)
    return rates


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", nargs="+", type=int, default=sorted({1, cores}))
    parser.add_argument("--compiler", default="cc")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="seq2edge-bandwidth-") as folder:
        try:
            compiled = compiled_reader(Path(folder), options.compiler)
        except Seq2EdgeError as error:
            print(error, file=sys.stderr)
            return 2
        ours = cpu_readers()
        readers = {"compiled": compiled, **ours, **NUMPY_READERS}
        print(f"GB/s, best and median of {_ROUNDS} rounds in turns; x: best by the compiled loop's")
        print(f"{'threads':>7} {'MB':>6} " + "".join(f"{name:>26}" for name in readers))
        for threads in options.threads:
            for size in SIZES:
                rates = rates_of(readers, size, threads)
                against = max(rates["compiled"])
                cells = [
                    f"{max(some) / 1e9:.1f} {statistics.median(some) / 1e9:.1f}"
                    f" {max(some) / against:.2f} x"
                    for some in rates.values()
                ]
                print(f"{threads:7} {size / 1e6:6.1f} " + "".join(f"{c:>26}" for c in cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
