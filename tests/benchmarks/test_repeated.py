"""Runs that are repeated: several processes count as one, and a slower program is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from seq2edge.benchmarks import bench as bench_module
from seq2edge.benchmarks.bench import bench
from seq2edge.benchmarks.driver import Result, merged
from seq2edge.benchmarks.report.diff import diff_reports
from seq2edge.benchmarks.report.schema import read_report
from seq2edge.benchmarks.workload import Workload
from seq2edge.runtime import Bundle

WORK = Workload(source_length=4, new_tokens=4, runs=4, warmup=1, threads=1)


def test_samples_of_several_processes_stay_in_rounds() -> None:
    one = Result({"all": [1.0, 2.0]}, [[5]], {}, 10, load_ms=3.0, peak_bytes=7)
    two = replace(one, milliseconds={"all": [10.0, 20.0]}, load_ms=9.0, peak_bytes=8)
    three = replace(one, milliseconds={"all": [100.0, 200.0]}, load_ms=4.0, notes=("warm",))
    both = merged([one, two, three], 5)
    assert both.milliseconds == {"all": [1, 10, 100, 2, 20]}
    assert (both.load_ms, both.peak_bytes, both.processes) == (4.0, 8, 3)
    assert both.notes == ("warm",)
    other = merged([one, replace(one, tokens=[[6]])], 4)
    assert other.notes == ("its processes do not all generate the same tokens",)


def test_runs_are_shared_by_processes(bundle_of: Callable[[str], Path]) -> None:
    (entry,) = bench([bundle_of("t5")], [WORK], processes=2).entries
    assert entry.settings["processes"] == 2
    assert len(entry.measurements["all"].samples) == 4


def test_there_are_no_more_processes_than_fit(
    bundle_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bundle_of("t5"))
    monkeypatch.setattr(bench_module, "_LIBRARY_BYTES", 0)
    assert bench_module._fitting([bundle], WORK) == 3
    assert bench_module._fitting([bundle], replace(WORK, backend="tensorrt")) == 1
    monkeypatch.setattr(bench_module, "_LIBRARY_BYTES", 1 << 60)
    assert bench_module._fitting([bundle], WORK) == 1


#: Put before a process's own modules: generating takes longer, by a share of its time and seconds.
_SLOWER = """
import sys, time
class Slower:
    def find_spec(self, name, path, target=None):
        if name != "seq2edge.runtime.generation.generator":
            return None
        import importlib.util
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            run = module.Generator.run
            def slower(self, *args, **named):
                start = time.perf_counter()
                found = run(self, *args, **named)
                end = time.perf_counter() + SHARE * (time.perf_counter() - start) + SECONDS
                while time.perf_counter() < end:
                    pass
                return found
            module.Generator.run = slower
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Slower())
"""


def measured(bundle: Path, output: Path, shim: Path | None) -> None:
    """``seq2edge bench`` as a user runs it, with a program that may have become slower."""
    paths = [str(shim)] if shim else []
    paths += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    words = ("bench", bundle, "--runs", 12, "--warmup", 2, "--processes", 1, "--threads", 1)
    words = (*words, "--source-length", 4, "--new-tokens", 4, "--output", output)
    subprocess.run(
        [sys.executable, "-m", "seq2edge.cli.main", *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
        capture_output=True,
    )


def test_a_program_that_became_slower_is_found(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    # So much that no load on this machine hides it: tests time nothing.
    shim = _SLOWER.replace("SHARE", "0.0").replace("SECONDS", "0.15")
    (tmp_path / "sitecustomize.py").write_text(shim)
    files = [tmp_path / "before.json", tmp_path / "after.json"]
    for file, shim in zip(files, (None, tmp_path), strict=True):
        measured(bundle_of("t5"), file, shim)
    before, after = map(read_report, files)
    found = diff_reports(before, after)
    (change,) = (change for change in found.changes if change.measurement == "all")
    assert change.differs
    assert change.ratio > 1.5
    assert found.tokens == ()  # slower, and nothing else
    assert json.loads(files[1].read_text())["entries"][0]["tokens"]["verdict"] == "same"
