"""Memory, graphs and the stream: who may use them when, whatever fails or is closed in between."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import BackendError, Bundle
from seq2edge.runtime.backends import Step
from seq2edge.runtime.backends.tensorrt.cuda import Cuda
from seq2edge.runtime.backends.tensorrt.execution import device_memory as planning
from seq2edge.runtime.backends.tensorrt.execution.device_memory import plan_memory
from seq2edge.runtime.backends.tensorrt.execution.engine import TensorRTBackend

from .conftest import LIMITS, Load
from .fake_cuda import FakeCuda
from .fake_tensorrt import Engine, FakeTensorRT, write_engines
from .test_decoding import MODES, OnCpu, batch, ending_early

IDS, MASK = np.array([[5, 6, 7]]), np.ones((1, 3), np.bool_)


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that was freed is neither written nor given out again."""
    free, freed = FakeCuda._free, []

    def overwrite(self: FakeCuda, memory: dict[int, Any], address: int) -> Any:
        piece = memory[address]
        result = free(self, memory, address)
        ctypes.memset(address, 0xAB, len(piece))
        freed.append((piece, address))
        return result

    monkeypatch.setattr(FakeCuda, "_free", overwrite)
    yield
    assert freed
    for piece, address in freed:
        assert ctypes.string_at(address, len(piece)) == b"\xab" * len(piece)


@pytest.mark.usefixtures("untouched")
def test_a_closed_model_refuses_what_was_begun(on_gpu: Load) -> None:
    gpu = on_gpu("t5")
    engine: Any = gpu.model._backend
    source = engine.encode({"input_ids": IDS, "attention_mask": MASK})
    decoder = engine.new_cache(source, 8)
    step = Step.allocate(1, 1, decoder.max_cache_len, feed_back=True)
    step.attention_mask[..., 0] = True
    decoder.forward(step)
    decoder.forward_greedy(step, 2)
    gpu.model.close()
    assert gpu.cuda.allocations == 0
    for call in (
        lambda: decoder.forward(step),
        lambda: decoder.forward_greedy(step, 2),
        lambda: decoder.forward(Step.allocate(1, 1, decoder.max_cache_len)),
        lambda: decoder.forward_greedy(Step.allocate(1, 1, decoder.max_cache_len), 2),
        lambda: decoder.select_batch(np.array([0])),
        lambda: engine.new_cache(source, 8),
        lambda: engine.encode({"input_ids": IDS, "attention_mask": MASK}),
    ):
        with pytest.raises(BackendError, match="the model was closed; load it again"):
            call()
    assert gpu.cuda.allocations == 0
    assert not gpu.cuda.graphs


def test_nobody_waits_for_a_stream_that_is_captured(
    on_gpu: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA refuses to, and the capture is lost."""
    gpu = on_gpu("t5")
    gpu.model.generate_ids(batch(1), max_new_tokens=3)
    waits, captures = threading.Event(), threading.Event()
    wait, begin = FakeCuda.cudaStreamSynchronize, FakeCuda.cudaStreamBeginCapture

    def slow_wait(self: FakeCuda, stream: Any) -> Any:
        waits.set()
        if threading.current_thread() is not threading.main_thread():
            captures.wait(0.3)
        return wait(self, stream)

    def slow_begin(self: FakeCuda, stream: Any, mode: int) -> Any:
        result = begin(self, stream, mode)
        captures.set()
        threading.Event().wait(0.1)  # for as long as a capture takes
        return result

    monkeypatch.setattr(FakeCuda, "cudaStreamSynchronize", slow_wait)
    monkeypatch.setattr(FakeCuda, "cudaStreamBeginCapture", slow_begin)
    failed: list[BaseException] = []

    def other() -> None:
        try:
            gpu.model.generate_ids(batch(1, 1), max_new_tokens=2)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    waits.wait()
    gpu.model.generate_ids(batch(1), max_new_tokens=12)
    thread.join()
    assert captures.is_set()
    assert not failed


@pytest.mark.parametrize("in_place", [True, False])
def test_no_call_needs_more_memory_than_was_planned(
    in_place: bool, bundle_of: Any, tmp_path: Path, on_gpu: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_MARGIN", 1 << 14)
    limits = replace(LIMITS, max_target_length=320)
    bundle = Bundle.open(bundle_of("t5"))
    engines = write_engines(bundle, tmp_path / "planned", limits, in_place=in_place)
    planned = plan_memory(bundle.manifest, engines).total + (1 << 14)
    gpu = on_gpu("t5", limits, in_place=in_place, memory=planned)
    sources = np.full((4, 24), 5)
    sources[:] += np.arange(4)[:, None]
    for _ in range(2):
        for size in (4, 1, 3):
            for config in MODES.values():
                gpu.model.generate_ids(sources[:size, : 6 * size], config=config)


@pytest.mark.parametrize("config", ["greedy", "beams", "lookup"])
def test_sources_that_leave_need_no_more_memory(config: str, on_gpu: Load, on_cpu: OnCpu) -> None:
    gpu, cpu = on_gpu("t5"), on_cpu("t5")
    sources = batch()
    gpu.model.generate_ids(sources, config=MODES[config])
    before = gpu.cuda.device_bytes
    manifest = ending_early(cpu, sources, MODES[config])
    gpu.model._bundle.manifest = gpu.model.generator._manifest = manifest  # type: ignore[misc]
    gpu.model.generate_ids(sources, config=MODES[config])
    assert gpu.cuda.device_bytes == before


def test_memory_of_other_sizes_is_given_back_before_there_is_too_little(on_gpu: Load) -> None:
    gpu = on_gpu("t5")
    pool = gpu.model._backend._device.memory  # type: ignore[attr-defined]
    free = gpu.cuda.total - gpu.cuda.device_bytes
    for share in (8, 4, 2):
        del pool  # nothing but the engine holds it
        pool = gpu.model._backend._device.memory  # type: ignore[attr-defined]
        buffer = pool.take(free // share - 4096)
        del buffer
    held = pool.take(free - (free // 8))
    with pytest.raises(BackendError, match="out of memory"):
        pool.take(free // 4)
    assert held.size >= free - (free // 8)


@pytest.mark.parametrize("place", range(4))
def test_loading_that_fails_leaves_nothing_on_the_gpu(
    place: int, bundle_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bundle_of("t5"))
    cuda = FakeCuda()
    trt = FakeTensorRT(cuda, bundle, LIMITS, in_place=True)
    folder = tmp_path / "engines"
    engines = write_engines(bundle, folder, LIMITS, in_place=True)
    create = Engine.create_execution_context
    if place == 3:  # the last allocations
        monkeypatch.setattr(FakeCuda, "cudaHostAlloc", lambda *_: (2, None))
    else:
        monkeypatch.setattr(
            Engine,
            "create_execution_context",
            lambda self, strategy: None if len(trt.contexts) == place else create(self, strategy),
        )
    with pytest.raises(BackendError):
        TensorRTBackend(bundle, folder, engines, trt.library(), Cuda(cuda))
    assert cuda.allocations == 0


def test_a_model_that_nobody_closes_goes_with_its_last_user(
    bundle_of: Any, tmp_path: Path, on_cpu: OnCpu
) -> None:
    bundle = Bundle.open(bundle_of("t5"))
    cuda = FakeCuda()
    trt = FakeTensorRT(cuda, bundle, LIMITS, in_place=True)
    engines = write_engines(bundle, tmp_path / "engines", LIMITS, in_place=True)
    engine = TensorRTBackend(bundle, tmp_path / "engines", engines, trt.library(), Cuda(cuda))
    decoder = engine.new_cache(engine.encode({"input_ids": IDS, "attention_mask": MASK}), 8)
    step = Step.allocate(1, 1, decoder.max_cache_len, feed_back=True)
    step.attention_mask[..., 0] = True
    del engine
    gc.collect()
    decoder.forward(step)
    expected = on_cpu("t5").generate_ids(IDS, max_new_tokens=1)
    assert step.next_token_ids.tolist() == [expected[0].token_ids]
    assert cuda.allocations
    del decoder
    gc.collect()
    assert cuda.allocations == 0


def test_streams_are_given_back(on_gpu: Load) -> None:
    gpu = on_gpu("t5")
    gpu.model.close()
    assert gpu.cuda.calls["cudaStreamDestroy"] == gpu.cuda.calls["cudaStreamCreateWithFlags"]


@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_what_cannot_be_captured_is_run_without_graphs(
    mode: str, on_gpu: Load, on_cpu: OnCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = on_gpu("t5")
    end = FakeCuda.cudaStreamEndCapture

    def invalidated(self: FakeCuda, stream: Any) -> Any:
        end(self, stream)
        return 901, None  # cudaErrorStreamCaptureInvalidated

    monkeypatch.setattr(FakeCuda, "cudaStreamEndCapture", invalidated)
    expected = on_cpu("t5").generate_ids(batch(), config=MODES[mode])
    found = gpu.model.generate_ids(batch(), config=MODES[mode])
    assert [f.token_ids for f in found] == [e.token_ids for e in expected]
    # It is not tried again and again.
    assert gpu.cuda.calls["cudaStreamBeginCapture"] <= 2
    assert gpu.cuda.calls["cudaGetLastError"]


@pytest.mark.parametrize(
    ("function", "time"),
    [
        ("cudaMemcpyAsync", 3),
        ("cudaMemcpyAsync", 5),
        ("cudaGraphLaunch", 1),
        ("cudaGraphLaunch", 5),
        ("cudaStreamSynchronize", 2),
    ],
)
@pytest.mark.parametrize("mode", ["greedy", "scores"])
def test_a_model_goes_on_after_a_call_that_failed(
    function: str,
    time: int,
    mode: str,
    on_gpu: Load,
    on_cpu: OnCpu,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = on_gpu("t5")
    real, left = Cuda.call, [time]

    def call(self: Cuda, name: str, *arguments: Any) -> Any:
        left[0] -= name == function
        if name == function and left[0] == 0:
            raise BackendError("it failed")
        return real(self, name, *arguments)

    monkeypatch.setattr(Cuda, "call", call)
    with pytest.raises(BackendError, match="it failed"):
        gpu.model.generate_ids(batch(), config=MODES[mode])
    (stream,) = gpu.cuda._streams.values()
    assert not stream.pending
    assert stream.captured is None
    expected = on_cpu("t5").generate_ids(batch(), config=MODES[mode])
    found = gpu.model.generate_ids(batch(), config=MODES[mode])
    assert [f.token_ids for f in found] == [e.token_ids for e in expected]


@pytest.mark.usefixtures("untouched")
def test_a_model_may_be_closed_while_others_generate(on_gpu: Load, on_cpu: OnCpu) -> None:
    expected = on_cpu("t5").generate_ids(batch(1), max_new_tokens=40)
    gpu = on_gpu("t5")
    started = threading.Barrier(3)
    failed: list[BaseException] = []

    def generate() -> None:
        started.wait()
        try:
            while True:
                found = gpu.model.generate_ids(batch(1), max_new_tokens=40)
                assert [f.token_ids for f in found] == [e.token_ids for e in expected]
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=generate) for _ in range(2)]
    for thread in threads:
        thread.start()
    started.wait()
    while gpu.cuda.calls["cudaGraphLaunch"] < 20:
        pass
    gpu.model.close()
    for thread in threads:
        thread.join()
    assert [str(error) for error in failed] == ["the model was closed; load it again"] * 2


def test_a_capture_that_fails_leaves_no_graph(on_gpu: Load, on_cpu: OnCpu) -> None:
    gpu = on_gpu("t5")
    real = gpu.trt.contexts[1].execute_async_v3

    def refuses_capture(stream: int) -> bool:
        return gpu.cuda.stream(stream).captured is None and real(stream)

    gpu.trt.contexts[1].execute_async_v3 = refuses_capture  # type: ignore[method-assign]
    expected = on_cpu("t5").generate_ids(batch(1), max_new_tokens=9)
    assert gpu.model.generate_ids(batch(1), max_new_tokens=9) == expected
    assert not gpu.cuda.graphs
    assert gpu.cuda.calls["cudaGraphDestroy"] == gpu.cuda.calls["cudaStreamEndCapture"] == 1
