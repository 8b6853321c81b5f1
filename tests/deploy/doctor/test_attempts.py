"""Engines that are tried in processes of their own, the real ones and ones that crash."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import pytest

from seq2edge.deploy.doctor import cpu_model, examine
from seq2edge.deploy.doctor.attempt import MODEL
from seq2edge.deploy.doctor.commands import Finished, attempt, run_command
from seq2edge.deploy.doctor.libraries import examine_onnxruntime

#: An onnxruntime whose CUDA provider takes its process with it, whose TensorRT provider runs on
#: the CPU without a word, whose third one computes nonsense, and whose fourth one leaves nodes to
#: the CPU where that is allowed.
_BROKEN = """
import os, signal
__version__ = "1.99.0"
def get_available_providers():
    return ["CUDAExecutionProvider", "TensorrtExecutionProvider", "OddProvider",
            "LazyProvider", "CPUExecutionProvider"]
class SessionOptions:
    entries = {}
    def add_session_config_entry(self, key, value): self.entries[key] = value
class InferenceSession:
    def __init__(self, model, options, providers, enable_fallback):
        print("loading", providers)
        if providers == ["CUDAExecutionProvider"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        if options.entries.get("session.disable_cpu_ep_fallback") and "Lazy" in providers[0]:
            raise RuntimeError("nodes were assigned to the default CPU provider")
        self.providers = providers
    def get_providers(self):
        return [name for name in self.providers if "Tensorrt" not in name] or ["CPU"]
    def run(self, outputs, feeds):
        x = feeds["x"]
        return [x if "Odd" in self.providers[0] else 2 * x @ x]
"""


def test_the_model_is_what_it_says() -> None:
    import numpy as np
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(MODEL)
    onnx.checker.check_model(model, full_check=True)
    x = np.array([[1, 2], [3, 4]], np.float32)
    np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, {"x": x})[0], 2 * x @ x)
    assert [node.op_type for node in model.graph.node] == ["Add", "MatMul"]


def test_a_library_that_crashes_is_reported_and_the_others_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text(_BROKEN)
    there = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), there])))
    found = examine_onnxruntime(run_command)
    assert found.version == "1.99.0"
    providers = {entry.name: entry for entry in found.providers}
    assert providers["CUDAExecutionProvider"].problem == "crashed (SIGSEGV)"
    assert providers["TensorrtExecutionProvider"].runs is False
    lacking = providers["TensorrtExecutionProvider"].problem or ""
    assert "libonnxruntime_providers_tensorrt.so: cannot open shared object file" in lacking
    assert "computes" in (providers["OddProvider"].problem or "")
    assert "assigned to the default CPU" in (providers["LazyProvider"].problem or "")
    assert providers["CPUExecutionProvider"].runs is True


@pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH came with Python 3.11")
def test_a_module_in_the_current_folder_is_not_taken_for_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not this one')\n")
    monkeypatch.chdir(tmp_path)
    assert examine_onnxruntime(run_command).version == version("onnxruntime")


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f"sleep 60 & echo $! > {child}; wait"
    start = time.monotonic()
    done = run_command(["sh", "-c", script], 0.5)
    assert done.timed_out
    assert time.monotonic() - start < 30
    number = int(child.read_text())
    for _ in range(100):
        state = Path(f"/proc/{number}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("what the command had started still runs")


@pytest.mark.parametrize(
    ("done", "problem"),
    [
        (Finished(-11), "crashed (SIGSEGV)"),
        (Finished(1, "", "a\nImportError: libcudart.so.12"), "ImportError: libcudart.so.12"),
        (Finished(3), "ended with exit code 3 and no answer"),
        (Finished(-9, timed_out=True), "gave no answer within 120 s"),
        (Finished(0, '{"problem": "a\\n b"}'), "a b"),
    ],
)
def test_why_there_is_no_answer(done: Finished, problem: str) -> None:
    assert attempt(lambda *_: done, "onnxruntime") == ({}, problem)


def test_a_program_that_is_not_there_is_no_error() -> None:
    assert run_command(["seq2edge-no-such-program"], 1) == Finished(None)


def test_this_machine() -> None:
    found = examine()
    assert found.python == platform.python_version()
    assert found.system == f"{platform.system()} {platform.release()}"
    assert found.cpu.architecture == platform.machine()
    assert found.cpu.logical_cores == os.cpu_count()
    assert found.cpu.usable_cores == len(os.sched_getaffinity(0))
    assert found.memory.total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.cpu.model == cpu_model()
    assert found.onnxruntime.version == version("onnxruntime")
    assert found.onnxruntime.runs("CPUExecutionProvider")
    for backend in ("tensorrt-rtx", "tensorrt"):
        library = found.library(backend)
        try:
            assert library.version == version(backend)
            assert (library.attention, library.cache_update) == (True, True)
        except PackageNotFoundError:
            assert library.version is None or find_spec(backend.replace("-", "_"))


def test_the_programs_that_are_run_are_of_this_python() -> None:
    answer, problem = attempt(run_command, "onnxruntime")
    assert problem is None
    done = run_command([sys.executable, "-c", "import onnxruntime as o; print(o.__version__)"], 60)
    assert answer["version"] == done.out.strip()
