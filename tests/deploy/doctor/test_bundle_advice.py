"""What a machine and a bundle together are advised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from seq2edge.deploy.doctor import Instruction, Machine, advise, bundle_steps, check_bundle
from seq2edge.deploy.doctor.bundle_advice import threads_for
from seq2edge.runtime import Bundle

from .test_fit import downgraded, made_for

Examined = Callable[[str], Machine]
BundleOf = Callable[[str], Path]


def steps(bundle: Bundle, machine: Machine, program: str | None = None) -> tuple[Instruction, ...]:
    return bundle_steps(bundle, check_bundle(bundle, machine), machine, advise(machine), program)


def weighing(bundle: Bundle, size: int) -> Bundle:
    """As if a step read ``size`` bytes."""
    graphs = dict(bundle.manifest.graphs)
    graphs["decoder"] = replace(graphs["decoder"], weight_bytes=size)
    return Bundle(bundle.directory, replace(bundle.manifest, graphs=graphs))


def test_a_large_model_has_a_thread_for_each_core(bundle_of: BundleOf, machine: Examined) -> None:
    bundle, orin = Bundle.open(bundle_of("t5")), machine("orin-nano")
    assert threads_for(bundle, orin) == 1
    large = weighing(bundle, 50_000_000)
    assert threads_for(large, orin) == orin.cpu.usable_cores == 6
    limited = replace(orin, cpu=replace(orin.cpu, cgroup_cores=2.5))
    assert threads_for(large, limited) == 2
    unknown = replace(orin.cpu, physical_cores=None, usable_cores=None, cgroup_cores=None)
    assert threads_for(large, replace(orin, cpu=unknown)) == 1


def test_a_quantized_bundle_is_only_run(bundle_of: BundleOf, machine: Examined) -> None:
    bundle = weighing(made_for(Bundle.open(bundle_of("t5")), "cpu"), 50_000_000)
    (step,) = steps(bundle, machine("x86-rtx"))
    threads = threads_for(bundle, machine("x86-rtx"))
    assert step.commands == (f"seq2edge run {bundle.directory} 'a text' --threads {threads}",)
    assert f"(x for cpu) here, with onnxruntime and --threads {threads}" in step.what


def test_engines_are_built_first(bundle_of: BundleOf, machine: Examined) -> None:
    bundle = made_for(downgraded(Bundle.open(bundle_of("t5"))), "tensorrt")
    board = machine("agx-orin")
    if not check_bundle(bundle, board).fits:
        pytest.skip("the sample lacks TensorRT")
    (step,) = steps(bundle, board)
    assert step.commands == (
        f"seq2edge build {bundle.directory} --backend tensorrt",
        f"seq2edge run {bundle.directory} 'a text' --backend tensorrt",
    )
    # A pack has built them, and its program knows the backend.
    (step,) = steps(bundle, board, "/opt/app/run.sh")
    assert step.commands == ("/opt/app/run.sh 'a text'",)
