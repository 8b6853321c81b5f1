"""A step on a GPU beside the GPU's own bandwidth. CUDA, TensorRT and the clock are fakes."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seq2edge.benchmarks import bandwidth, latency, roofline, stepper
from seq2edge.benchmarks.bandwidth import DeviceMemory
from seq2edge.benchmarks.fixed_length import engine_version
from seq2edge.benchmarks.roofline import measure_rooflines
from seq2edge.benchmarks.workload import Workload
from seq2edge.runtime import Bundle
from seq2edge.runtime.backends.limits import Limits
from seq2edge.runtime.backends.tensorrt import library as tensorrt_library
from seq2edge.runtime.backends.tensorrt.cuda import Cuda
from seq2edge.runtime.backends.tensorrt.execution import load
from seq2edge.runtime.errors import BackendError, InputError

from ..runtime.backends.tensorrt.execution.fake_cuda import FakeCuda, Operation, Stream
from ..runtime.backends.tensorrt.execution.fake_tensorrt import FakeTensorRT, write_engines

LIMITS = Limits(max_batch=2, max_source_length=24, max_target_length=32, max_num_tokens=4)
WORK = Workload(source_length=5, new_tokens=12, batch_size=2, runs=2, warmup=1, backend="tensorrt")
LARGE = 1 << 20
#: What the fake moves in a second of its own time, each byte read and written.
SPEED, CACHED_SPEED = 5e9, 20e9
#: Of one run of the decoder, in seconds of its own time.
STEP = 0.25


class TimedCuda(FakeCuda):
    """Work takes time: a copy within the device by its size, faster where a cache holds it."""

    def __init__(self, memory: int = 1 << 30) -> None:
        super().__init__(memory)
        self.now = 0.0

    def enqueue(self, stream: Stream, operation: Operation) -> None:
        def run() -> None:
            operation.run()
            sizes = [size for _, size in operation.memory]
            if len(sizes) == 2 and sizes[0] == sizes[1]:
                self.now += 2 * sizes[0] / (SPEED if sizes[0] >= LARGE // 2 else CACHED_SPEED)

        super().enqueue(stream, Operation(run, operation.memory))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> TimedCuda:
    fake = TimedCuda()
    for module in (bandwidth, roofline):
        monkeypatch.setattr(module.time, "perf_counter", lambda: fake.now)
    monkeypatch.setattr(bandwidth, "_DEVICE_BYTES", LARGE)
    monkeypatch.setattr(bandwidth, "_COPIED_BYTES", 16 * LARGE)
    return fake


@pytest.fixture
def model(
    bundle_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cuda: TimedCuda,
) -> Path:
    """A bundle with engines beside it; each run of its decoder takes ``STEP``."""
    path = tmp_path / "model"
    shutil.copytree(bundle_of("t5"), path)
    bundle = Bundle.open(path)
    trt = FakeTensorRT(cuda, bundle, LIMITS, in_place=True)
    write_engines(bundle, tmp_path / "model.engines" / "tensorrt-1", LIMITS, in_place=True)
    monkeypatch.setattr(load, "load_library", lambda _name: trt.library())
    monkeypatch.setattr(load, "load_cuda", lambda: Cuda(cuda))
    monkeypatch.setattr(stepper, "load_library", lambda _name: trt.library())
    monkeypatch.setattr(roofline, "load_cuda", lambda: Cuda(cuda))
    return path


def test_a_copys_bytes_count_twice_and_its_end_is_waited_for(cuda: TimedCuda) -> None:
    memory = DeviceMemory(Cuda(cuda))
    large, small = memory.measure(100_000)
    assert large == {"copy": pytest.approx(SPEED)}
    assert small == {"copy": pytest.approx(CACHED_SPEED)}
    assert (memory.device, memory.threads) == ("Orin", None)
    held = cuda.allocations
    memory.measure(100_000)
    assert cuda.allocations == held == 2  # the same buffers, as a step's weights are
    memory.close()
    assert cuda.allocations == 0


def test_the_shortest_of_buffers_can_be_copied(cuda: TimedCuda) -> None:
    memory = DeviceMemory(Cuda(cuda))
    _, tiny = memory.measure(3)
    assert tiny == {"copy": pytest.approx(CACHED_SPEED)}
    memory.close()


def test_a_gpu_without_room_for_the_buffer_says_so() -> None:
    memory = DeviceMemory(Cuda(TimedCuda(memory=LARGE)))
    with pytest.raises(BackendError, match="cudaMalloc failed: out of memory"):
        memory.measure(LARGE)
    memory.close()


def test_a_step_is_measured_beside_the_gpus_bandwidth(
    model: Path, cuda: TimedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down_decoder(cuda, monkeypatch)
    (found,) = measure_rooflines([model], WORK)
    assert (found.device, found.threads) == ("Orin", None)
    decoder = Bundle.open(model).manifest.graphs["decoder"]
    assert found.weight_bytes == decoder.weight_bytes
    assert found.plan_weight_bytes == 900  # what the engine's report says
    # Of the 32 slots that the engine has, what 12 tokens need.
    assert found.cache_slots == 12
    assert found.cache_bytes == 2 * 2 * 3 * 24 * 4 * 2 * (12 + 5)
    assert found.memory_bandwidth == pytest.approx(SPEED)
    assert found.same_size_bandwidth == pytest.approx(CACHED_SPEED)
    # One step's time, though several are run at once.
    assert found.step_ms.p50 == pytest.approx(1e3 * STEP, rel=1e-3)
    read = found.weight_bytes + found.cache_bytes
    assert found.bound_ms == pytest.approx(1e3 * read / CACHED_SPEED)
    assert found.share == pytest.approx(found.bound_ms / found.step_ms.p50)
    # No rate of products is measured on a GPU.
    assert (found.operations, found.compute_ms, found.encoder) == ({}, None, None)
    assert cuda.allocations == 0


def test_a_workload_beyond_the_engines_limits_is_refused(model: Path, cuda: TimedCuda) -> None:
    for change, message in (
        ({"new_tokens": 33}, r"--new-tokens 33 is more than .* 32"),
        ({"source_length": 25}, r"--max-source-length 25"),
        ({"batch_size": 3}, r"--max-batch 3"),
        ({"num_beams": 5}, r"--max-num-tokens 5"),
        ({"new_tokens": 31, "num_beams": 3}, r"--new-tokens 33 is more than .* each beam 32"),
    ):
        with pytest.raises(InputError, match=message):
            measure_rooflines([model], replace(WORK, **change))
    assert cuda.allocations == 0


def test_without_cuda_there_is_no_bandwidth_of_a_gpu(
    bundle_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_cuda() -> Any:
        raise BackendError("CUDA finds no GPU on this machine")

    monkeypatch.setattr(roofline, "load_cuda", load_cuda)
    for backend, device in (("tensorrt", None), ("onnxruntime", "cuda")):
        work = replace(WORK, backend=backend, device=device)
        with pytest.raises(BackendError, match="CUDA finds no GPU"):
            measure_rooflines([bundle_of("t5")], work)


def slow_down_decoder(cuda: TimedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each of the decoder's runs take ``STEP`` of the fake's time."""
    from ..runtime.backends.tensorrt.execution.fake_tensorrt import Context

    execute = Context.execute_async_v3

    def timed(self: Context, stream_handle: int) -> bool:
        done = execute(self, stream_handle)
        if "past_key.0" in self._shapes:
            stream = cuda.stream(stream_handle)

            def wait() -> None:
                cuda.now += STEP

            cuda.enqueue(stream, Operation(wait, []))
        return done

    monkeypatch.setattr(Context, "execute_async_v3", timed)


def test_latency_needs_no_onnxruntime_where_tensorrt_runs(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = load.load_library("tensorrt")
    monkeypatch.setattr(tensorrt_library, "load_library", lambda _name: library)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(latency.time, "perf_counter", itertools.count().__next__)
    runner = latency.LatencyRunner(model, replace(WORK, batch_size=1))
    times, tokens = runner.turn()
    runner.close()
    assert engine_version("tensorrt") == library.version
    by_position = [name for name in times if name.startswith("token at ")]
    assert [name for name in times if name not in by_position] == [
        *("encoder", "first token", "token", "all")
    ]
    assert by_position[0] == "token at 2"
    assert [len(row) for row in tokens] == [WORK.new_tokens]
