"""How much memory there is for engines, on a GPU of its own and on one that shares the system's."""

from __future__ import annotations

from pathlib import Path

import pytest

from seq2edge.runtime.backends.tensorrt.cuda import Cuda

from .fake_cuda import FakeCuda

MEMINFO = "MemTotal:  8000 kB\nMemFree:  100 kB\nMemAvailable:  6000 kB\nCached:  5900 kB\n"


@pytest.mark.parametrize(
    ("integrated", "meminfo", "expected"),
    [
        (0, MEMINFO, 500_000),
        (1, MEMINFO, 6000 * 1024),  # files that the kernel keeps are no obstacle
        (1, MEMINFO.replace("6000", "200"), 500_000),
        (1, "MemAvailable: none\n", 500_000),
        (1, None, 500_000),
    ],
)
def test_memory_that_the_kernel_lets_go_of_counts_where_it_is_shared(
    integrated: int, meminfo: str | None, expected: int, tmp_path: Path
) -> None:
    fake = FakeCuda(500_000)
    fake._gpu.integrated = integrated
    file = tmp_path / "meminfo"
    if meminfo is not None:
        file.write_text(meminfo)
    assert Cuda(fake).free_bytes(file) == expected
