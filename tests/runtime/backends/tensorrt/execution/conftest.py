"""Models that run on a fake GPU, beside the same ones on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from seq2edge.runtime import Bundle, Seq2SeqModel
from seq2edge.runtime.backends.limits import Limits
from seq2edge.runtime.backends.tensorrt.cuda import Cuda
from seq2edge.runtime.backends.tensorrt.execution.engine import TensorRTBackend
from seq2edge.runtime.text.tokenizer import load_tokenizer

from .fake_cuda import FakeCuda
from .fake_tensorrt import FakeTensorRT, write_engines

LIMITS = Limits(max_batch=4, max_source_length=24, max_target_length=64, max_num_tokens=4)


@dataclass
class OnGpu:
    """A model on a fake GPU."""

    model: Seq2SeqModel
    cuda: FakeCuda
    trt: FakeTensorRT


Load = Callable[..., OnGpu]


@pytest.fixture
def on_gpu(bundle_of: Callable[[str], Path], tmp_path: Path) -> Iterator[Load]:
    """A function from a shape's name to its model on a fake GPU; at the end all is freed."""
    loaded: list[OnGpu] = []

    def load(
        shape: str, limits: Limits = LIMITS, *, in_place: bool = True, memory: int = 1 << 30
    ) -> OnGpu:
        bundle = Bundle.open(bundle_of(shape))
        folder = tmp_path / f"engines-{len(loaded)}"
        cuda = FakeCuda(memory)
        trt = FakeTensorRT(cuda, bundle, limits, in_place=in_place)
        engines = write_engines(bundle, folder, limits, in_place=in_place)
        engine = TensorRTBackend(bundle, folder, engines, trt.library(), Cuda(cuda))
        found = OnGpu(Seq2SeqModel(bundle, engine, load_tokenizer(bundle)), cuda, trt)
        loaded.append(found)
        return found

    yield load
    for gpu in loaded:
        gpu.model.close()
        assert gpu.cuda.allocations == 0


@pytest.fixture
def on_cpu(bundle_of: Callable[[str], Path]) -> Callable[[str], Seq2SeqModel]:
    return lambda shape: Seq2SeqModel.load(bundle_of(shape), num_threads=1)
