"""What runs where: pins of a target, and bundles that it cannot run."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from seq2edge.deploy import JETPACKS, TARGETS, plan
from seq2edge.runtime import BackendError, Bundle, InputError

from .conftest import ROOT


def changed(bundle: Bundle, **quantization: Any) -> Bundle:
    """As if it had been quantized so."""
    return Bundle(bundle.directory, replace(bundle.manifest, quantization=quantization))


def downgraded(bundle: Bundle, **quantization: Any) -> Bundle:
    """As ``seq2edge downgrade`` writes it, as far as a plan reads it."""
    graphs = {
        name: replace(
            graph,
            opset=20,
            operators={
                operator: count
                for operator, count in graph.operators.items()
                if operator not in ("Attention", "TensorScatter", "RMSNormalization")
            },
        )
        for name, graph in bundle.manifest.graphs.items()
    }
    quantization = quantization or {"scheme": "float32", "target": "any"}
    manifest = replace(bundle.manifest, graphs=graphs, quantization=quantization)
    return Bundle(bundle.directory, manifest)


def test_pins_are_those_of_the_lean_install(demo: Bundle) -> None:
    listed = (ROOT / "requirements" / "device.txt").read_text().splitlines()
    expected = {line for line in listed if not line.startswith("#")}
    for target in ("cpu", "cpu-arm64", "raspberry-pi"):
        assert set(plan(demo, target).requirements) == expected


def test_a_services_pins_are_those_of_its_own_list(demo: Bundle) -> None:
    listed = (ROOT / "requirements" / "service.txt").read_text().splitlines()
    expected = {line for line in listed if not line.startswith(("#", "wyoming"))}
    found = plan(demo, "cpu", service=True)
    assert set(found.service_requirements) == expected
    assert set(found.requirements) == expected | set(plan(demo, "cpu").requirements)
    # On a board the Python is known: each package has one pin, and no marker.
    board = plan(downgraded(demo), "jetson-orin", jetpack="6.2", service=True).requirements
    assert "starlette==1.7.0" in board and not any(";" in pin for pin in board)


@pytest.mark.parametrize(
    ("jetpack", "python", "numpy", "onnxruntime", "cuda"),
    [("6.2", (3, 10), "2.2", "1.23", "12."), ("7.2", (3, 12), "2.4", "1.32", "13.")],
)
def test_a_jetson_gets_wheels_of_its_python_and_cuda(
    demo: Bundle,
    jetpack: str,
    python: tuple[int, int],
    numpy: str,
    onnxruntime: str,
    cuda: str,
) -> None:
    found = plan(downgraded(demo), "jetson-orin", jetpack=jetpack)
    assert (found.backend, found.device, found.python) == ("tensorrt", "cuda", python)
    pins = dict(pin.split("==") for pin in found.requirements)
    assert set(pins) == {"numpy", "onnxruntime", "tokenizers", "cuda-bindings", "cuda-pathfinder"}
    assert pins["numpy"].startswith(numpy)
    assert pins["onnxruntime"].startswith(onnxruntime)
    assert pins["cuda-bindings"].startswith(cuda)


def test_everything_is_pinned_exactly(demo: Bundle) -> None:
    for target in TARGETS:
        for backend in target.engines:
            for pin in plan(downgraded(demo), target.name, backend=backend).requirements:
                assert re.match(r"[a-z0-9-]+==[0-9.]+( ; python_version [<>=]+ \"3.11\")?$", pin)


def test_the_usual_jetpack(demo: Bundle) -> None:
    low = downgraded(demo)
    assert plan(low, "jetson-orin").place == "jetson-orin (JetPack 6.2)"
    assert plan(low, "jetson-thor").place == "jetson-thor (JetPack 7.2)"
    assert plan(low, "jetson-orin", jetpack="6.2.1").jetpack == plan(low, "jetson-orin").jetpack


@pytest.mark.parametrize("release", JETPACKS, ids=lambda release: release.version)
@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime"])
def test_opset_24_needs_a_new_engine(demo: Bundle, release: Any, backend: str) -> None:
    target = release.targets[0]
    runs = release.tensorrt >= (10, 15) if backend == "tensorrt" else release.python >= (3, 11)
    choices = {"jetpack": release.version, "backend": backend}
    if runs:
        assert plan(demo, target, **choices).backend == backend
    else:
        with pytest.raises(BackendError, match=rf"JetPack {release.version}.*seq2edge downgrade"):
            plan(demo, target, **choices)
    assert plan(downgraded(demo), target, **choices).backend == backend


def test_an_old_python_is_enough_for_lowered_graphs(demo: Bundle) -> None:
    assert plan(demo, "cpu").python == (3, 11)
    assert plan(downgraded(demo), "cpu").python == (3, 10)


@pytest.mark.parametrize(
    ("backend", "scheme", "target"),
    [
        ("tensorrt", "int8", "cpu"),
        ("tensorrt-rtx", "int8", "cpu"),
        ("tensorrt", "int4", "cuda"),
        ("onnxruntime", "int8-qdq", "tensorrt"),
        ("onnxruntime", "int8", "cpu"),
    ],
)
def test_a_gpu_takes_no_bundle_of_another_engine(
    demo: Bundle, backend: str, scheme: str, target: str
) -> None:
    with pytest.raises(BackendError, match=f"cannot run on gpu with {backend}: .* for {target}"):
        plan(changed(demo, scheme=scheme, target=target), "gpu", backend=backend)


@pytest.mark.parametrize(
    ("backend", "target"),
    [("onnxruntime", "cuda"), ("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt")],
)
def test_a_gpu_takes_bundles_of_its_engine(demo: Bundle, backend: str, target: str) -> None:
    assert plan(changed(demo, scheme="fp16", target=target), "gpu", backend=backend)
    assert plan(demo, "gpu", backend=backend)


def test_a_raspberry_pi_takes_bundles_for_cpus(demo: Bundle) -> None:
    found = plan(demo, "raspberry-pi")
    assert (found.backend, found.device, found.python) == ("onnxruntime", "cpu", (3, 11))
    assert found.target.machine == "aarch64"
    assert plan(changed(demo, scheme="int8", target="cpu"), "raspberry-pi")
    with pytest.raises(InputError, match="no engine 'tensorrt'"):
        plan(demo, "raspberry-pi", backend="tensorrt")
    with pytest.raises(InputError, match="no Jetson"):
        plan(demo, "raspberry-pi", jetpack="6.2")


def test_a_bundle_for_tensorrt_gets_tensorrt(demo: Bundle) -> None:
    found = plan(changed(demo, scheme="fp16", target="tensorrt"), "gpu")
    assert found.backend == "tensorrt"
    assert sum(pin.startswith("tensorrt-cu13") for pin in found.requirements) == 3
    found = plan(demo, "gpu")
    assert (found.backend, found.device) == ("onnxruntime", "cuda")


def test_bfloat16_does_not_go_to_a_cpu(demo: Bundle) -> None:
    decoder = demo.manifest.graphs["decoder"]
    inputs = tuple(
        replace(spec, dtype="bfloat16") if spec.name.startswith("past_") else spec
        for spec in decoder.inputs
    )
    graphs = {**demo.manifest.graphs, "decoder": replace(decoder, inputs=inputs)}
    bundle = Bundle(demo.directory, replace(demo.manifest, graphs=graphs))
    for target, backend in (
        ("cpu", None),
        ("cpu-arm64", None),
        ("raspberry-pi", None),
        ("jetson-thor", "onnxruntime"),
    ):
        with pytest.raises(BackendError, match="bfloat16"):
            plan(bundle, target, backend=backend)
    assert plan(bundle, "gpu") and plan(bundle, "jetson-thor")


@pytest.mark.parametrize(
    ("target", "choices", "message"),
    [
        (
            "jetson-nano",
            {},
            "unknown target .* jetson-thor, gpu, cpu, cpu-arm64, raspberry-pi",
        ),
        ("jetson-orin", {"jetpack": "7.0"}, "no JetPack 7.0; there are: 6.1, 6.2, 7.2"),
        ("jetson-orin", {"jetpack": "6"}, "no JetPack 6;"),
        ("jetson-orin", {"jetpack": "7.2.9"}, "7.2.9 is not known here; 7.2 is, up to 7.2.2"),
        ("jetson-thor", {"jetpack": "6.2"}, "there are: 7.0, 7.1, 7.2"),
        ("gpu", {"jetpack": "6.2"}, "no Jetson"),
        ("cpu", {"backend": "tensorrt"}, "no engine 'tensorrt'; it has: onnxruntime"),
    ],
)
def test_impossible_choices_are_refused(
    demo: Bundle, target: str, choices: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan(demo, target, **choices)
