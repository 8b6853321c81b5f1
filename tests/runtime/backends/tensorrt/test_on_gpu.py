"""Engines on a real GPU: the tokens of ONNX Runtime on the CPU. Skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seq2edge.runtime import BackendError, Bundle, GenerationConfig, Seq2SeqModel
from seq2edge.runtime.backends.tensorrt import Limits, Options, ensure_engines, load_library
from seq2edge.runtime.backends.tensorrt.cuda import load_cuda

_LIMITS = Limits(max_batch=2, max_source_length=32, max_target_length=64, max_num_tokens=4)


@pytest.fixture(scope="module", autouse=True)
def engine() -> str:
    try:
        load_cuda()
        return load_library().engine
    except BackendError as error:
        pytest.skip(f"needs an NVIDIA GPU, cuda-bindings and TensorRT: {error}")


@pytest.mark.parametrize("shape", ["t5", "bart"])
@pytest.mark.parametrize(
    "config",
    [
        GenerationConfig(max_new_tokens=24),
        GenerationConfig(max_new_tokens=12, num_beams=4),
        GenerationConfig(max_new_tokens=12, return_scores=True),
        GenerationConfig(max_new_tokens=24, prompt_lookup_num_tokens=3),
    ],
)
def test_float16_tokens_are_those_of_onnxruntime(
    shape: str,
    config: GenerationConfig,
    engine: str,
    float16_bundle_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    path = tmp_path / "model"
    shutil.copytree(float16_bundle_of(shape), path)
    ensure_engines(Bundle.open(path), Options(engine=engine, limits=_LIMITS))
    sources = np.random.default_rng(0).integers(3, 300, (2, 9))
    with Seq2SeqModel.load(path) as model:
        expected = model.generate_ids(sources, config=config)
    with Seq2SeqModel.load(path, backend=engine) as model:
        found = model.generate_ids(sources, config=config)
        again = model.generate_ids(sources, config=replace(config))
    assert [f.token_ids for f in found] == [e.token_ids for e in expected]
    assert [f.token_ids for f in again] == [f.token_ids for f in found]
