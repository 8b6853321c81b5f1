"""What an engine cannot take is refused before anything runs, with what would work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import BackendError, Bundle, GenerationConfig, InputError
from seq2edge.runtime.backends.tensorrt.cuda import Cuda, load_cuda
from seq2edge.runtime.backends.tensorrt.execution.device_memory import check_memory, plan_memory

from .conftest import LIMITS, Load
from .fake_cuda import FakeCuda
from .fake_tensorrt import write_engines

SOURCE = np.array([[5, 6, 7]])


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (np.ones((1, 25)), {}, "source 0 has 25 tokens, .* --max-source-length 25"),
        (SOURCE, {"num_beams": 5}, "num_beams=5 tokens a step .* --max-num-tokens 5"),
        (SOURCE, {"max_new_tokens": 65}, "need 65 cache slots.* at most 64 new .*-length 65"),
        (
            SOURCE,
            {"max_new_tokens": 40, "num_beams": 4},
            "need 157 cache slots, and the engine was built for 64; ask for at most 16 new",
        ),
        (
            SOURCE,
            {"do_sample": True, "num_return_sequences": 5},
            "num_return_sequences=5 tokens a step",
        ),
        (SOURCE, {"prompt_lookup_num_tokens": 4}, r"1 \+ prompt_lookup_num_tokens=5 tokens"),
    ],
)
def test_a_call_beyond_the_limits_is_refused(
    sources: Any, options: dict[str, Any], message: str, on_gpu: Load
) -> None:
    gpu = on_gpu("t5")
    size = options.pop("batch_size", None)
    config = GenerationConfig(**{"max_new_tokens": 4, **options})
    waits = gpu.cuda.calls["cudaStreamSynchronize"]
    with pytest.raises(InputError, match=message):
        gpu.model.generate_ids(sources.astype(np.int64), config=config, batch_size=size)
    assert gpu.cuda.calls["cudaStreamSynchronize"] == waits


def test_more_sources_than_a_batch_are_several_batches(on_gpu: Load) -> None:
    model = on_gpu("t5").model
    for size in (None, 5):
        found = model.generate_ids(np.full((7, 3), 5), max_new_tokens=3, batch_size=size)
        assert len(found) == 7


def test_a_default_length_is_cut_to_the_slots(on_gpu: Load) -> None:
    model = on_gpu("t5", replace(LIMITS, max_target_length=8)).model
    (found,) = model.generate_ids(SOURCE, config=GenerationConfig())
    assert len(found.token_ids) <= 8


def test_engines_that_do_not_fit_are_refused_with_what_would(
    bundle_of: Any, tmp_path: Path
) -> None:
    bundle = Bundle.open(bundle_of("t5"))
    engines = write_engines(bundle, tmp_path / "engines", LIMITS, in_place=True)
    plan = plan_memory(bundle.manifest, engines)
    dimensions = bundle.manifest.dimensions
    slot = 2 * dimensions.decoder_layers * dimensions.decoder_heads * dimensions.decoder_head_dim
    assert plan.cache == LIMITS.max_batch * LIMITS.max_target_length * slot * 4
    margin = 64 << 20
    check_memory(bundle.manifest, engines, plan.total + margin)
    message = r"needs up to .*\(weights .* are free; engines built with --max-batch 3 would fit"
    with pytest.raises(BackendError, match=message):
        check_memory(bundle.manifest, engines, plan.total + margin - 1)
    one = replace(LIMITS, max_batch=1)
    engines = write_engines(bundle, tmp_path / "one", one, in_place=True)
    plan = plan_memory(bundle.manifest, engines)
    with pytest.raises(BackendError, match="--max-target-length 48 would fit"):
        check_memory(bundle.manifest, engines, plan.total + margin - 1)
    with pytest.raises(BackendError, match="quantize the bundle to fewer bits"):
        check_memory(bundle.manifest, engines, margin)


def test_engines_without_an_in_place_cache_need_it_twice(bundle_of: Any, tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_of("t5"))
    plans = [
        plan_memory(
            bundle.manifest,
            write_engines(bundle, tmp_path / str(in_place), LIMITS, in_place=in_place),
        )
        for in_place in (True, False)
    ]
    assert plans[1].cache == 2 * plans[0].cache


def test_nothing_is_allocated_for_engines_that_do_not_fit(on_gpu: Load) -> None:
    with pytest.raises(BackendError, match="of device memory"):
        on_gpu("t5", memory=1 << 20)


def test_a_run_that_tensorrt_refuses_is_an_error(on_gpu: Load) -> None:
    gpu = on_gpu("t5")
    gpu.trt.refuses = True
    with pytest.raises(BackendError, match="tensorrt failed in the encoder"):
        gpu.model.generate_ids(SOURCE, max_new_tokens=3)
    gpu.trt.refuses = False
    assert gpu.model.generate_ids(SOURCE, max_new_tokens=3)


def test_a_closed_model_says_so(on_gpu: Load) -> None:
    gpu = on_gpu("t5")
    gpu.model.close()
    gpu.model.close()
    with pytest.raises(BackendError, match="the model was closed"):
        gpu.model.generate_ids(SOURCE, max_new_tokens=3)


def test_a_failed_cuda_call_is_named() -> None:
    cuda = Cuda(FakeCuda(1 << 10))
    with pytest.raises(BackendError, match=r"cudaMalloc failed: out of memory \(2\)"):
        cuda.allocate(1 << 20)


def test_a_machine_without_a_gpu_says_so() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    import cuda.bindings.runtime as runtime

    if int(runtime.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match=r"cudaGetDeviceCount failed: .*nvidia-smi"):
        load_cuda()


def test_an_engine_of_another_bundle_is_refused(
    on_gpu: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .fake_tensorrt import Engine

    monkeypatch.setattr(Engine, "get_tensor_name", lambda _self, number: f"tensor.{number}")
    with pytest.raises(BackendError, match="other inputs and outputs than the bundle"):
        on_gpu("t5")


def test_a_plan_that_tensorrt_cannot_open_is_an_error(
    on_gpu: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    from .fake_tensorrt import FakeTensorRT

    runtime = SimpleNamespace(deserialize_cuda_engine=lambda _data: None)
    monkeypatch.setattr(FakeTensorRT, "Runtime", lambda *_: runtime)
    with pytest.raises(BackendError, match=r"tensorrt 10.16.0 cannot open the engine of encoder"):
        on_gpu("t5")
