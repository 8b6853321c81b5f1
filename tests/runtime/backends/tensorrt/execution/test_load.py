"""``Seq2SeqModel.load`` with TensorRT: from a bundle and the engines beside it to tokens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import BackendError, Bundle, Seq2SeqModel
from seq2edge.runtime.backends.tensorrt.cuda import Cuda
from seq2edge.runtime.backends.tensorrt.execution import load
from seq2edge.runtime.backends.tensorrt.execution.runtime_cache import RuntimeCache

from .conftest import LIMITS
from .fake_cuda import FakeCuda
from .fake_tensorrt import FakeTensorRT, write_engines

SOURCE = np.array([[5, 6, 7]])


@pytest.fixture
def machine(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A bundle on a machine with a GPU and TensorRT, both fakes."""
    path = tmp_path / "model"
    shutil.copytree(bundle_of("t5"), path)
    cuda = FakeCuda()
    library = FakeTensorRT(cuda, Bundle.open(path), LIMITS, in_place=True).library()
    monkeypatch.setattr(load, "load_library", lambda _name: library)
    monkeypatch.setattr(load, "load_cuda", lambda: Cuda(cuda))
    return path


def test_a_bundle_with_engines_beside_it_is_loaded(machine: Path) -> None:
    folder = machine.with_name("model.engines") / "tensorrt-1"
    write_engines(Bundle.open(machine), folder, LIMITS, in_place=True)
    with Seq2SeqModel.load(machine, backend="tensorrt") as model:
        found = model.generate_ids(SOURCE, max_new_tokens=9)
    with Seq2SeqModel.load(machine) as model:
        assert found == model.generate_ids(SOURCE, max_new_tokens=9)


def test_without_engines_the_build_command_is_given(machine: Path) -> None:
    message = r"no engines of tensorrt 10.16.0 for this Orin \(compute capability 8.7\); build"
    with pytest.raises(BackendError, match=message):
        Seq2SeqModel.load(machine, backend="tensorrt")


def test_engines_that_changed_are_not_loaded(machine: Path) -> None:
    folder = machine.with_name("model.engines") / "tensorrt-1"
    write_engines(Bundle.open(machine), folder, LIMITS, in_place=True)
    (folder / "decoder.engine").write_bytes(b"DECODER")
    with pytest.raises(BackendError, match=r"decoder.engine has changed since it was written"):
        Seq2SeqModel.load(machine, backend="tensorrt")


def test_tensorrt_runs_on_no_cpu(machine: Path) -> None:
    with pytest.raises(BackendError, match="runs on device 'cuda', not 'cpu'"):
        Seq2SeqModel.load(machine, backend="tensorrt", device="cpu")


class Cache:
    """TensorRT-RTX's runtime cache: it takes only what it has written itself."""

    def __init__(self) -> None:
        self.kernels = b""

    def deserialize(self, data: bytes) -> bool:
        if data.startswith(b"kernels"):
            self.kernels = data
        return bool(self.kernels)

    def serialize(self) -> bytes:
        return self.kernels


def contexts(folder: Path, compiled: bytes) -> tuple[RuntimeCache, list[Any]]:
    """Two contexts of one engine; running them compiles ``compiled``."""
    made: list[Any] = []

    def new_config() -> Any:
        config = SimpleNamespace(create_runtime_cache=Cache, strategy=None, cache=None)
        config.set_execution_context_allocation_strategy = lambda s: setattr(config, "strategy", s)
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        return config

    def new_context(config: Any) -> Any:
        assert config.strategy == "user"
        made.append(config.cache)
        return config

    trt = SimpleNamespace(
        IRuntimeCache=Cache,
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
    )
    plan = SimpleNamespace(create_runtime_config=new_config, create_execution_context=new_context)
    cache = RuntimeCache(folder, "decoder")
    for _ in range(2):
        config = cache.new_context(trt, plan, "user")
        assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
    found = [other.kernels for other in made]
    made[0].kernels += compiled
    assert made[0] is made[1]
    return cache, found


def test_compiled_kernels_are_kept_for_the_next_start(tmp_path: Path) -> None:
    cache, found = contexts(tmp_path, b"kernels 1")
    assert found == [b"", b""]
    cache.save()
    cache, found = contexts(tmp_path, b"")
    assert found == [b"kernels 1"] * 2


def test_a_garbled_cache_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "decoder.runtime-cache").write_bytes(b"garbage")
    cache, found = contexts(tmp_path, b"kernels 2")
    assert found == [b"", b""]
    cache.save()
    assert (tmp_path / "decoder.runtime-cache").read_bytes() == b"kernels 2"


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    cache, _ = contexts(tmp_path / "missing", b"kernels 3")
    cache.save()
    assert not list(tmp_path.iterdir())
