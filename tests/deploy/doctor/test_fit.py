"""Whether a bundle fits a machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seq2edge.deploy.doctor import BundleFit, Machine, check_bundle
from seq2edge.runtime import Bundle

from .conftest import NVIDIA_SMI, MakeSample

Examined = Callable[[str], Machine]
BundleOf = Callable[[str], Path]


def problems(fit: BundleFit) -> dict[str, str | None]:
    return {backend.backend: backend.problem for backend in fit.engines}


def made_for(bundle: Bundle, target: str, dtype: str | None = None) -> Bundle:
    """The bundle as if it had been quantized: only its manifest says so."""
    quantization: dict[str, Any] = {"target": target, "scheme": "x"}
    graphs = dict(bundle.manifest.graphs)
    if dtype is not None:
        decoder = graphs["decoder"]
        inputs = tuple(
            replace(spec, dtype=dtype) if spec.name.startswith("past_") else spec
            for spec in decoder.inputs
        )
        graphs["decoder"] = replace(decoder, inputs=inputs)
    manifest = replace(bundle.manifest, quantization=quantization, graphs=graphs)
    return Bundle(bundle.directory, manifest)


def downgraded(bundle: Bundle) -> Bundle:
    """The bundle as ``seq2edge downgrade`` writes it, as far as its manifest says."""
    graphs = {
        name: replace(graph, opset=20, operators={"MatMul": 1, "Softmax": 1, "ScatterND": 1})
        for name, graph in bundle.manifest.graphs.items()
    }
    return Bundle(bundle.directory, replace(bundle.manifest, graphs=graphs))


def test_memory_is_weights_cache_and_process(bundle_of: BundleOf, machine: Examined) -> None:
    bundle = Bundle.open(bundle_of("bart"))
    fit = check_bundle(bundle, machine("x86-rtx"))
    assert fit.weight_bytes == (bundle.directory / "weights.bin").stat().st_size
    # 3 decoder layers, keys and values of 64 float32, for 80 slots and 80 source tokens.
    assert fit.limits.max_source_length == fit.limits.max_target_length == 80
    assert fit.cache_bytes == 3 * 2 * 64 * 4 * (80 + 80)
    assert fit.needed_bytes > fit.weight_bytes + fit.cache_bytes
    assert fit.fits


def test_a_float32_bundle_runs_on_every_engine_of_a_workstation(
    bundle_of: BundleOf, machine: Examined
) -> None:
    fit = check_bundle(Bundle.open(bundle_of("t5")), machine("x86-rtx"))
    assert problems(fit) == {
        "tensorrt-rtx": None,
        "tensorrt": "not installed",
        "onnxruntime-gpu": None,
        "onnxruntime": None,
    }


def test_jetpack_6_needs_a_lowered_bundle(bundle_of: BundleOf, machine: Examined) -> None:
    bundle = Bundle.open(bundle_of("t5"))
    fit = check_bundle(bundle, machine("orin-nx"))
    assert not fit.fits
    assert "seq2edge downgrade" in (problems(fit)["tensorrt"] or "")
    # Its Python stops at onnxruntime 1.23.
    assert "opset 24" in (problems(fit)["onnxruntime"] or "")
    fit = check_bundle(downgraded(bundle), machine("orin-nx"))
    assert fit.fits
    assert problems(fit)["tensorrt"] is problems(fit)["onnxruntime"] is None


def test_cuda_bindings_of_this_machine_are_asked_for(
    bundle_of: BundleOf, sample: MakeSample
) -> None:
    bundle = downgraded(Bundle.open(bundle_of("t5")))
    without = sample("orin-nx", commands={"engine cuda": "{}"}).examine()
    found = problems(check_bundle(bundle, without))
    assert found["tensorrt"] == "cuda-bindings is not installed"


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("cpu", {"onnxruntime"}),
        ("cuda", {"onnxruntime", "onnxruntime-gpu"}),
        ("tensorrt", {"onnxruntime", "tensorrt-rtx"}),
        ("any", {"onnxruntime", "onnxruntime-gpu", "tensorrt-rtx"}),
    ],
)
def test_the_quantizations_target_counts(
    bundle_of: BundleOf, machine: Examined, target: str, runs: set[str]
) -> None:
    bundle = made_for(Bundle.open(bundle_of("t5")), target)
    fit = check_bundle(bundle, machine("x86-rtx"))
    assert {backend.backend for backend in fit.engines if backend.runs} == runs


def test_bfloat16_needs_a_gpu_that_has_it(bundle_of: BundleOf, sample: MakeSample) -> None:
    bundle = made_for(Bundle.open(bundle_of("t5")), "tensorrt", "bfloat16")
    found = problems(check_bundle(bundle, sample("x86-rtx").examine()))
    assert found["tensorrt-rtx"] is None
    assert "bfloat16" in (found["onnxruntime"] or "")
    smi = {NVIDIA_SMI: "RTX 2080, 7.5, 8192, 8000, 580.65.06"}
    turing = sample("x86-rtx", commands=smi)
    fit = check_bundle(bundle, turing.examine())
    assert not fit.fits
    assert "8.0" in (problems(fit)["tensorrt-rtx"] or "")


def test_a_gpu_that_is_full(bundle_of: BundleOf, sample: MakeSample) -> None:
    smi = {NVIDIA_SMI: "NVIDIA GeForce RTX 4070, 8.9, 12282, 0, 580.65.06"}
    fit = check_bundle(Bundle.open(bundle_of("t5")), sample("x86-rtx", commands=smi).examine())
    assert {backend.backend for backend in fit.engines if backend.runs} == {"onnxruntime"}
    assert "of 0 on the GPU" in (problems(fit)["tensorrt-rtx"] or "")


def test_tensorrt_before_10_3_runs_nothing(bundle_of: BundleOf, sample: MakeSample) -> None:
    made = sample("orin-nx", commands={"engine tensorrt": '{"version": "8.6.2.3"}'}).examine()
    fit = check_bundle(downgraded(Bundle.open(bundle_of("t5"))), made)
    assert problems(fit)["tensorrt"] == "8.6.2.3 is older than 10.3"


def test_tensorrt_rtx_does_not_build_for_every_gpu(bundle_of: BundleOf, sample: MakeSample) -> None:
    smi = {NVIDIA_SMI: "NVIDIA H100 80GB HBM3, 9.0, 81559, 81000, 580.65.06"}
    fit = check_bundle(Bundle.open(bundle_of("t5")), sample("x86-rtx", commands=smi).examine())
    assert problems(fit)["tensorrt-rtx"] == "it does not build for compute capability 9.0"


def test_too_little_memory(bundle_of: BundleOf, sample: MakeSample) -> None:
    files = {"sys/fs/cgroup/memory.max": "1040000000\n"}  # of which 1,000,000,000 are used
    fit = check_bundle(Bundle.open(bundle_of("t5")), sample("x86-rtx", files).examine())
    assert fit.usable_bytes == 40_000_000
    assert fit.problem is not None
    assert "40 MB are left" in fit.problem
    assert any(backend.runs for backend in fit.engines)
