"""Resident memory of a fresh process that loads a bundle."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path

import pytest

from seq2edge.benchmarks.memory import STAGES, measure_memory, resident
from seq2edge.benchmarks.workload import Workload
from seq2edge.runtime import Bundle
from seq2edge.runtime.errors import BackendError, BundleError, InputError

WORK = Workload(source_length=5, new_tokens=4, threads=1)


def test_a_fresh_process_is_read_at_each_stage(bundle_of: Callable[[str], Path]) -> None:
    path = bundle_of("t5")
    report = measure_memory(path, WORK)
    files = Bundle.open(path).manifest.files.values()
    assert report.bundle_bytes == sum(file.size for file in files)
    assert tuple(report.stages) == STAGES
    for stage in report.stages.values():
        assert stage.total == stage.anonymous + stage.file_backed > 0
        assert stage.vm_rss == pytest.approx(stage.total, rel=0.1)
    totals = [report.stages[name].total for name in STAGES]
    # numpy and onnxruntime are imported after the first reading, and torch never.
    assert totals[0] + 10_000_000 < totals[1] < totals[2]
    assert totals[2] < 150_000_000
    assert report.ratio == pytest.approx(totals[2] / report.bundle_bytes)
    assert report.added_ratio == pytest.approx((totals[2] - totals[1]) / report.bundle_bytes)
    assert report.peak >= 0.95 * max(totals)


def test_the_parts_add_up(bundle_of: Callable[[str], Path]) -> None:
    report = measure_memory(bundle_of("t5"), WORK)
    assert sum(report.parts.values()) == pytest.approx(report.stages["generated"].total, rel=0.05)
    assert report.parts["libraries"] > 10_000_000
    assert report.parts["heap and anonymous maps"] > 0


def test_anonymous_and_file_backed_pages_are_told_apart(tmp_path: Path) -> None:
    size = 48_000_000
    file = tmp_path / "file"
    file.write_bytes(b"x" * size)
    before = resident()
    with (
        # An array might take pages that the process has free.
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held,
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as seen,
    ):
        held[:: mmap.PAGESIZE] = b"x" * len(range(0, size, mmap.PAGESIZE))
        assert seen[:: mmap.PAGESIZE].count(b"x") == len(range(0, size, mmap.PAGESIZE))
        after = resident()
    assert after.anonymous - before.anonymous == pytest.approx(size, rel=0.1)
    assert after.file_backed - before.file_backed == pytest.approx(size, rel=0.1)


def test_what_cannot_be_measured_is_one_line(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BundleError, match="no such bundle"):
        measure_memory(tmp_path / "none", WORK)
    with pytest.raises(InputError, match="more than the model's 80"):
        measure_memory(bundle_of("bart"), Workload(source_length=81))
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho first >&2\necho 'no memory left' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(broken))
    with pytest.raises(BackendError) as caught:
        measure_memory(bundle_of("t5"), WORK)
    assert str(caught.value) == (
        "memory was not measured, the fresh process failed: no memory left"
    )
