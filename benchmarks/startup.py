"""The time that importing the runtime adds to importing numpy and tokenizers.

``python -m seq2edge.benchmarks.startup`` starts fresh interpreters, the two kinds in turn, and
prints medians and their difference.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

_ROUNDS = 15
_BASE = "import numpy, tokenizers"


def _seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    base: list[float] = []
    runtime: list[float] = []
    for _ in range(_ROUNDS):
        base.append(_seconds(_BASE))
        runtime.append(_seconds(f"{_BASE}; import seq2edge.runtime"))
    added = statistics.median(r - b for r, b in zip(runtime, base, strict=True))
    print(f"numpy and tokenizers    {1e3 * statistics.median(base):7.1f} ms")
    print(f"and seq2edge.runtime    {1e3 * statistics.median(runtime):7.1f} ms")
    print(f"added (median of pairs) {1e3 * added:7.1f} ms")


if __name__ == "__main__":
    main()
