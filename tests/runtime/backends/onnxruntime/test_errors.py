"""GPUs and builds of ONNX Runtime that do not work: one line that says why and what to do.

The ONNX Runtime here is the real one for CPUs behind a face: it says that it has CUDA, and
fails as builds for GPUs are documented and reported to fail.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import BackendError, Bundle, Seq2SeqModel
from seq2edge.runtime.backends import load_backend
from seq2edge.runtime.backends.onnxruntime import device as device_module
from seq2edge.runtime.backends.onnxruntime.device import OrtDeviceBackend
from seq2edge.runtime.backends.onnxruntime.providers import (
    CUDA,
    TENSORRT,
    cuda_target,
    tensorrt_target,
)
from seq2edge.runtime.errors import OutputError

from .recording import RecordingBinding, RecordingSession

BundleOf = Callable[[str], Path]
#: A random model of which no step gives the token that it is given.
SHAPE = "t5-v1.1"
IDS = np.array([[200, 13, 77, 150, 22, 1]])

#: As CUDA's error 209 shows in a session's failure.
NO_KERNELS = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Gather node."
    " Status Message: CUDA error cudaErrorNoKernelImageForDevice:no kernel image is available"
    " for execution on the device"
)
NO_GRAPHS = (
    "This session cannot use the graph capture feature as requested by the user  as all compute"
    " graph nodes have not been partitioned to the CUDAExecutionProvider"
)


@dataclass
class FakeRuntime:
    """onnxruntime-gpu on a machine with one fault.

    Attributes:
        available: providers that it was built with.
        started: those that start.
        run_error: what every run fails with.
        refuses_graphs: sessions that are to capture do not open.
        refused_file: the graph of that name does not open.
        wrong_replay: captured steps write zeros instead of the next tokens.
        tells: whether sessions know which provider each node got.
    """

    available: tuple[str, ...] = (CUDA, "CPUExecutionProvider")
    started: tuple[str, ...] = (CUDA, "CPUExecutionProvider")
    run_error: str | None = None
    refuses_graphs: bool = False
    refused_file: str = "none"
    wrong_replay: bool = False
    tells: bool = True
    opened: list[list[tuple[str, dict[str, Any]]]] = field(default_factory=list)
    cuda_version: str = "13.0"

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return list(self.available)

    def preload_dlls(self) -> None:
        print("Failed to load libcublasLt.so.13")

    @property
    def OrtValue(self) -> Any:  # noqa: N802  (onnxruntime's name)
        class Value:
            @staticmethod
            def ortvalue_from_shape_and_type(
                shape: list[int], kind: Any, device: str, number: int
            ) -> Any:
                assert (device, number) == ("cuda", 0)
                return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cpu", 0)

        return Value

    def InferenceSession(self, path: str, options: Any, **how: Any) -> Any:  # noqa: N802
        self.opened.append(how["providers"])
        if self.refuses_graphs and "enable_cuda_graph" in how["providers"][0][1]:
            raise RuntimeError(NO_GRAPHS)
        if isinstance(path, str) and path.endswith(self.refused_file):
            raise RuntimeError("Could not find an implementation for MultiHeadAttention(1)")
        real = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return FakeSession(real, self)


@dataclass
class Part:
    """Nodes that one provider got, as ``onnxruntime.OrtEpAssignedSubgraph`` says it."""

    ep_name: str
    get_nodes: Callable[[], Any]


class FakeSession(RecordingSession):
    def __init__(self, session: Any, runtime: FakeRuntime) -> None:
        super().__init__(session)
        self._runtime = runtime

    def get_providers(self) -> list[str]:
        return list(self._runtime.started)

    def __getattr__(self, name: str) -> Any:
        if name != "get_provider_graph_assignment_info":
            return super().__getattr__(name)
        if not self._runtime.tells:
            raise AttributeError(name)
        parts = self._session.get_provider_graph_assignment_info()
        return lambda: [Part(CUDA, part.get_nodes) for part in parts]

    def io_binding(self) -> RecordingBinding:
        return CudaBinding(self._session.io_binding())

    def run_with_iobinding(self, binding: RecordingBinding, options: Any = None) -> None:
        if self._runtime.run_error is not None:
            raise RuntimeError(self._runtime.run_error)
        before = {run.graph_id for run in self.runs}
        super().run_with_iobinding(binding, options)
        if self.runs[-1].graph_id not in before:  # warm up, capture and replay
            for _ in range(2):
                super().run_with_iobinding(binding, options)
        if self._runtime.wrong_replay and self.runs[-1].graph_id != "-1":
            _, _, shape, address = binding.bound["next_token_ids"]
            ctypes.memset(address, 1, 8 * int(np.prod(shape)))


class CudaBinding(RecordingBinding):
    """Binds to the CPU what is said to be on the GPU."""

    def _bind(self, bind: Any, name: str, where: tuple[Any, ...]) -> None:
        assert where[:2] == ("cuda", 0)
        super()._bind(bind, name, ("cpu", *where[1:]))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, bundle_of: BundleOf) -> Callable[..., OrtDeviceBackend]:
    """A function that loads a bundle into the CUDA engine over a FakeRuntime."""

    def get(
        runtime: FakeRuntime,
        machine: str = "x86_64",
        bundle: Path | None = None,
        **options: Any,
    ) -> OrtDeviceBackend:
        monkeypatch.setattr(device_module, "import_onnxruntime", lambda: runtime)
        monkeypatch.setattr(platform, "machine", lambda: machine)
        opened = Bundle.open(bundle or bundle_of(SHAPE))
        return OrtDeviceBackend(opened, cuda_target(), **options)

    return get


def tokens(backend: Any, bundle: Path) -> list[list[int]]:
    model = Seq2SeqModel(Bundle.open(bundle), backend, None)
    return [row.token_ids for row in model.generate_ids(IDS, max_new_tokens=20)]


def test_the_package_for_cpus_is_named_with_the_command(bundle_of: BundleOf) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("the installed onnxruntime is the one for GPUs")
    for backend in ("onnxruntime", "onnxruntime-tensorrt"):
        with pytest.raises(
            BackendError, match=r"is the one for CPUs: pip uninstall.*pip install onnxruntime-gpu"
        ):
            Seq2SeqModel.load(bundle_of("t5"), backend=backend, device="cuda")


def test_a_working_gpu_captures_steps(
    loaded: Callable[..., OrtDeviceBackend], bundle_of: BundleOf, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = FakeRuntime()
    backend = loaded(runtime, strict=True)
    assert backend.graphs_off is None
    assert tokens(backend, bundle_of(SHAPE)) == tokens(
        load_backend(Bundle.open(bundle_of(SHAPE)), num_threads=1), bundle_of(SHAPE)
    )
    # The decoder alone captures, and no session computes float32 in TensorFloat-32.
    wanted = [how[0][1].get("enable_cuda_graph") for how in runtime.opened]
    assert sorted(wanted, key=str) == ["1", None, None, None]
    assert all(how[0] == (CUDA, {"use_tf32": "0", **how[0][1]}) for how in runtime.opened)
    assert capsys.readouterr().out == ""  # --json is on stdout


def test_where_the_decoder_for_cuda_does_not_run_the_canonical_one_does(
    loaded: Callable[..., OrtDeviceBackend],
    bundle_of: BundleOf,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    quantize_bundle(bundle_of(SHAPE), tmp_path / "out", "fp16", target="cuda", check=False)
    runtime = FakeRuntime(refused_file="decoder_cuda.onnx")
    backend = loaded(runtime, bundle=tmp_path / "out")
    assert backend.graphs_off is None
    assert "the canonical decoder runs" in caplog.text and "decoder_cuda" in caplog.text
    expected = load_backend(Bundle.open(tmp_path / "out"), num_threads=1)
    assert tokens(backend, tmp_path / "out") == tokens(expected, tmp_path / "out")


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ("x86_64", ["no kernels for this GPU", "install an onnxruntime-gpu that was built for it"]),
        (
            "aarch64",
            ["9.0, 12.0, 12.1", "Orin is 8.7, Thor 11.0", "engine tensorrt", "NVIDIA's own"],
        ),
    ],
)
def test_a_build_without_kernels_for_this_gpu(
    machine: str, words: list[str], loaded: Callable[..., OrtDeviceBackend]
) -> None:
    with pytest.raises(BackendError) as failure:
        loaded(FakeRuntime(run_error=NO_KERNELS), machine)
    for word in (*words, "cudaErrorNoKernelImageForDevice"):
        assert word in str(failure.value)


def test_a_provider_that_onnxruntime_leaves_out(loaded: Callable[..., OrtDeviceBackend]) -> None:
    with pytest.raises(
        BackendError,
        match=r"lists CUDAExecutionProvider but could not start it.*nvidia-smi.*CUDA 13\.0 and"
        r" cuDNN 9: pip install 'onnxruntime-gpu\[cuda,cudnn\]'",
    ):
        loaded(FakeRuntime(started=("CPUExecutionProvider",)))


def test_another_error_of_a_first_run_is_quoted(loaded: Callable[..., OrtDeviceBackend]) -> None:
    with pytest.raises(BackendError, match="onnxruntime failed in the encoder: out of memory"):
        loaded(FakeRuntime(run_error="out of memory"))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"refuses_graphs": True}, "all compute graph nodes have not been partitioned"),
        ({"wrong_replay": True}, "a replayed CUDA graph gives other tokens"),
    ],
)
def test_steps_without_graphs_where_they_do_not_work(
    fault: dict[str, bool],
    reason: str,
    loaded: Callable[..., OrtDeviceBackend],
    bundle_of: BundleOf,
) -> None:
    with pytest.warns(UserWarning, match=f"steps are not captured as CUDA graphs: .*{reason}"):
        backend = loaded(FakeRuntime(**fault), strict=True)
    assert backend.graphs_off is not None and reason in backend.graphs_off
    assert tokens(backend, bundle_of(SHAPE)) == tokens(
        load_backend(Bundle.open(bundle_of(SHAPE)), num_threads=1), bundle_of(SHAPE)
    )


def test_strict_needs_an_onnxruntime_that_tells(
    loaded: Callable[..., OrtDeviceBackend], bundle_of: BundleOf
) -> None:
    with pytest.raises(BackendError, match=r"does not tell which nodes are on the CPU.*strict"):
        loaded(FakeRuntime(tells=False), strict=True)
    assert tokens(loaded(FakeRuntime(tells=False)), bundle_of(SHAPE))


def test_threads_below_1_are_refused(loaded: Callable[..., OrtDeviceBackend]) -> None:
    with pytest.raises(BackendError, match="num_threads must be at least 1, not 0"):
        loaded(FakeRuntime(), num_threads=0)


def test_an_onnxruntime_without_tensorrt(
    monkeypatch: pytest.MonkeyPatch, bundle_of: BundleOf
) -> None:
    runtime = FakeRuntime()
    monkeypatch.setattr(device_module, "import_onnxruntime", lambda: runtime)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    bundle = Bundle.open(bundle_of("t5"))
    with pytest.raises(BackendError, match=r"has no TensorRT provider: use .*not for a Jetson"):
        OrtDeviceBackend(bundle, tensorrt_target(runtime, bundle))


def test_tensorrt_options_are_the_bundles(bundle_of: BundleOf) -> None:
    """Names and forms as in ONNX Runtime's documentation of the provider."""
    bundle = Bundle.open(bundle_of("bart"))  # positions for 80 tokens
    runtime = FakeRuntime()
    target = tensorrt_target(runtime, bundle)
    (tensorrt, options), cuda, cpu = target.options("decoder", False)
    assert (tensorrt, cuda[0], cpu[0]) == (TENSORRT, CUDA, "CPUExecutionProvider")
    folder = bundle.directory.resolve()
    assert options["trt_engine_cache_path"] == f"{folder}.ort-tensorrt"
    assert options["trt_timing_cache_path"] == f"{folder}.ort-tensorrt"
    assert options["trt_op_types_to_exclude"] == "TensorScatter"
    assert (options["trt_fp16_enable"], options["trt_bf16_enable"]) == ("False", "False")
    shapes = {
        kind: dict(part.split(":") for part in options[f"trt_profile_{kind}_shapes"].split(","))
        for kind in ("min", "opt", "max")
    }
    inputs = bundle.manifest.graphs["decoder"].input_names()
    assert all(set(found) == inputs for found in shapes.values())
    assert [found["past_key.0"] for found in shapes.values()] == [
        "1x4x1x16",
        "1x4x64x16",
        "1x4x80x16",
    ]
    assert shapes["max"]["attention_mask"] == "1x1x8x80"
    assert not Path(options["trt_engine_cache_path"]).exists()

    other = Bundle.open(bundle_of("t5"))
    prefixes = {
        tensorrt_target(r, b).options(graph, False)[0][1]["trt_engine_cache_prefix"]
        for r, b, graph in (
            (runtime, bundle, "decoder"),
            (runtime, bundle, "encoder"),
            (runtime, other, "decoder"),
            (Newer(), bundle, "decoder"),
        )
    }
    assert len(prefixes) == 4  # engines of one are never taken for another's


class Newer(FakeRuntime):
    __version__ = "9.9.9"


def test_tensorrt_uses_float16_where_the_bundle_does(bundle_of: BundleOf, tmp_path: Path) -> None:
    from seq2edge.quantize import quantize_bundle

    quantize_bundle(bundle_of("t5"), tmp_path / "half", "fp16", target="cuda")
    target = tensorrt_target(FakeRuntime(), Bundle.open(tmp_path / "half"))
    assert target.options("encoder", False)[0][1]["trt_fp16_enable"] == "True"


def test_engines_have_no_place(monkeypatch: pytest.MonkeyPatch, bundle_of: BundleOf) -> None:
    import os

    bundle = Bundle.open(bundle_of("t5"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match=r"cannot write .*\.ort-tensorrt: .* is not writable"):
        tensorrt_target(FakeRuntime(), bundle)
