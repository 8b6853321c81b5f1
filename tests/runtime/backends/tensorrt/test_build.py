"""Bundles become TensorRT engines (on the CPU, for SM 86), whole or not at all.

TensorRT-RTX builds engines without a GPU, so the graphs cannot drift out of what TensorRT
takes without this test noticing. Running the engines needs a GPU and is not done here.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seq2edge.export import export_checkpoint
from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import BackendError, Bundle, OutputExistsError
from seq2edge.runtime.backends.tensorrt import Limits, Options, build_engines
from seq2edge.runtime.backends.tensorrt.builder import plan
from seq2edge.runtime.backends.tensorrt.builder.network import NetworkSummary, Precision, summarize
from seq2edge.runtime.bundle.reader import sha256_of

from ....whisper_models import make_whisper

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

BundleOf = Callable[[str], Path]

_LIMITS = Limits(max_batch=2, max_source_length=48, max_target_length=32, max_num_tokens=4)
_SM86 = ("8.6",)
#: Turing, Ampere, Ada and Blackwell.
_ALL = ("7.5", "8.6", "8.9", "12.0")


def options(gpus: tuple[str, ...] = _SM86, limits: Limits = _LIMITS) -> Options:
    return Options(limits=limits, compute_capabilities=gpus)


@pytest.mark.parametrize("shape", ["t5", "umt5", "bart", "torch"])
def test_float16_graphs_build_into_fused_engines(
    shape: str, float16_bundle_of: BundleOf, tmp_path: Path
) -> None:
    bundle = Bundle.open(float16_bundle_of(shape))
    out = tmp_path / "engines"
    made = build_engines(bundle, out, options(_ALL))
    encoder, decoder = (made.engines[name].report for name in ("encoder", "decoder"))
    dimensions = bundle.manifest.dimensions
    # Each attention is one kernel; keys and values of each layer are updated in place.
    assert encoder.fused_attentions == encoder.attentions == dimensions.encoder_layers
    assert decoder.fused_attentions == decoder.attentions == 2 * dimensions.decoder_layers
    assert decoder.cache_updates == 2 * dimensions.decoder_layers
    for name, report in (("encoder", encoder), ("decoder", decoder)):
        assert all(gemm.kept for gemm in report.gemms)
        assert {gemm.asked.weights for gemm in report.gemms} == {"float16"}
        assert report.weight_bytes is not None
        assert report.weight_bytes < 1.4 * bundle.manifest.graphs[name].weight_bytes
        assert made.engines[name].size > report.weight_bytes


def test_graphs_of_speech_build_too(tmp_path: Path) -> None:
    make_whisper("tiny", tmp_path / "checkpoint", d_model=128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no tokenizer files
        export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle", validate=False)
    quantize_bundle(tmp_path / "bundle", tmp_path / "fp16", "fp16", target="tensorrt", check=False)
    bundle = Bundle.open(tmp_path / "fp16")
    limits = Limits.of(bundle.manifest.dimensions, speech=True)
    assert limits == Limits(1, 1500, 64, 8)
    made = build_engines(bundle, tmp_path / "engines", options(("8.6", "8.9"), limits))
    assert set(made.engines) == {"encoder", "decoder", "features", "alignment"}
    reports = {name: engine.report for name, engine in made.engines.items()}
    for name, attentions in (("encoder", 2), ("decoder", 4), ("alignment", 4)):
        assert reports[name].fused_attentions == reports[name].attentions == attentions
        assert all(gemm.kept for gemm in reports[name].gemms)
    assert reports["decoder"].cache_updates == 4
    # Logarithms of sound need float32.
    assert {gemm.asked.weights for gemm in reports["features"].gemms} == {"float32"}


def test_the_folder_says_what_the_engines_are_for(
    float16_bundle_of: BundleOf, tmp_path: Path
) -> None:
    bundle = Bundle.open(float16_bundle_of("t5"))
    out = tmp_path / "new" / "engines"
    gpus = ("8.6", "8.9")
    made = build_engines(bundle, out, options(gpus))
    said = json.loads((out / "engines.json").read_text())
    assert {file.name for file in out.iterdir()} == {
        "engines.json",
        *(said["engines"][name]["file"] for name in ("encoder", "decoder")),
    }
    for entry in said["engines"].values():
        assert entry["sha256"] == sha256_of(out / entry["file"])
        assert entry["size"] == (out / entry["file"]).stat().st_size
    assert said["engine"] == "tensorrt-rtx"
    assert said["version"] == made.key.version
    assert said["compute_capabilities"] == list(gpus)
    assert said["limits"]["max_target_length"] == 32
    assert said["bundle_sha256"]["decoder.onnx"] == sha256_of(bundle.path("decoder.onnx"))
    assert [path.name for path in out.parent.iterdir()] == ["engines"]


def test_one_source_at_a_time_builds_with_a_boolean_mask(
    float16_bundle_of: BundleOf, tmp_path: Path
) -> None:
    # A fixed batch beside several queries is what TensorRT-RTX 1.7.1 fails on.
    bundle = Bundle.open(float16_bundle_of("bart"))
    limits = Limits.of(bundle.manifest.dimensions)
    assert limits.max_batch == 1
    made = build_engines(bundle, tmp_path / "out", options(limits=limits))
    assert made.engines["decoder"].report.fused_attentions


def test_a_float32_bundle_is_built_as_it_is_with_a_warning(
    bundle_of: BundleOf, tmp_path: Path
) -> None:
    bundle = Bundle.open(bundle_of("t5"))
    with pytest.warns(UserWarning, match="float32 bundle"):
        made = build_engines(bundle, tmp_path / "out", options())
    report = made.engines["encoder"].report
    assert {gemm.asked.weights for gemm in report.gemms} == {"float32"}
    assert all(gemm.kept for gemm in report.gemms)
    assert (report.attentions, report.fused_attentions) == (3, 0)


def test_progress_can_end_a_build_and_nothing_is_left(
    float16_bundle_of: BundleOf, tmp_path: Path
) -> None:
    seen: list[str] = []

    def progress(phase: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        seen.append(phase)
        if phase.startswith("decoder: "):  # the encoder's engine is written by now
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engines(
            Bundle.open(float16_bundle_of("t5")),
            tmp_path / "new" / "out",
            options(),
            progress=progress,
        )
    assert seen[0].startswith("encoder: ")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_tensorrt_refuses_is_named_with_its_node(
    float16_bundle_of: BundleOf, tmp_path: Path
) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(float16_bundle_of("t5"), path)
    # As long as the real name, so that sizes and offsets stay true.
    graph = path / "decoder.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"TensorScatter", b"TensorScutter"))
    manifest = json.loads((path / "seq2edge.json").read_text())
    manifest["files"][graph.name]["sha256"] = sha256_of(graph)
    operators = manifest["graphs"]["decoder"]["operators"]
    operators["TensorScutter"] = operators.pop("TensorScatter")
    (path / "seq2edge.json").write_text(json.dumps(manifest))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BackendError, match=r"cannot parse .*decoder\.onnx: .*\(TensorScutter\)"):
        build_engines(Bundle.open(path), tmp_path / "out", options())
    assert sorted(tmp_path.rglob("*")) == before


def test_only_engines_are_replaced(float16_bundle_of: BundleOf, tmp_path: Path) -> None:
    bundle = Bundle.open(float16_bundle_of("t5"))

    def build(out: Path, *, overwrite: bool) -> None:
        build_engines(bundle, out, options(), overwrite=overwrite)

    engines = tmp_path / "engines"
    build(engines, overwrite=False)
    (engines / "decoder.engine").write_bytes(b"old")
    with pytest.raises(OutputExistsError, match="already exists"):
        build(engines, overwrite=False)
    build(engines, overwrite=True)
    assert (engines / "decoder.engine").stat().st_size > 1000
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="neither empty nor a folder of engines"):
        build(mine, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"engines", "mine"}


@pytest.mark.parametrize(
    ("gpus", "message"),
    [(("8.7",), "does not build for compute capability '8.7'; it does for .*8.6"), (("x",), "'x'")],
)
def test_a_gpu_that_tensorrt_does_not_build_for_is_refused(
    gpus: tuple[str, ...], message: str, float16_bundle_of: BundleOf, tmp_path: Path
) -> None:
    bundle = Bundle.open(float16_bundle_of("t5"))
    with pytest.raises(BackendError, match=message):
        build_engines(bundle, tmp_path / "out", Options(compute_capabilities=gpus))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scheme", "message"),
    [("int4", r"sm75.*int4"), ("int8-qdq", r"qkv/MatMul.*SM75.*FP32 GEMM is not supported")],
)
def test_turing_computes_in_float16_only(
    scheme: str,
    message: str,
    tensorrt_bundle_of: Callable[[str, str], Path],
    tmp_path: Path,
) -> None:
    bundle = Bundle.open(tensorrt_bundle_of("t5", scheme))
    with pytest.raises(BackendError, match=f"encoder.onnx: .*{message}"):
        build_engines(bundle, tmp_path / "out", options(("7.5",)))


def test_a_workspace_that_is_too_small_fails_with_its_cause(
    float16_bundle_of: BundleOf, tmp_path: Path
) -> None:
    small = replace(options(), workspace_bytes=1024)
    with pytest.raises(BackendError, match=r"encoder.onnx: .*workspace limit"):
        build_engines(Bundle.open(float16_bundle_of("t5")), tmp_path / "out", small)
    assert not list(tmp_path.iterdir())


def test_steps_of_one_token_copy_no_keys(float16_bundle_of: BundleOf, tmp_path: Path) -> None:
    bundle = Bundle.open(float16_bundle_of("bart"))
    made = build_engines(bundle, tmp_path / "out", options())
    one, several = made.engines["decoder"].report.profiles
    assert one.cache_copies == 0
    assert several.cache_copies > 0
    # Both profiles have the weights in common.
    weights = made.engines["decoder"].report.weight_bytes
    alone = build_engines(
        bundle, tmp_path / "one", options(limits=replace(_LIMITS, max_num_tokens=1))
    )
    assert weights == alone.engines["decoder"].report.weight_bytes


def test_a_layer_that_falls_back_fails_the_build_unless_it_is_allowed(
    float16_bundle_of: BundleOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The bundles' own forms never fall back, so the network's summary asks for another one.
    def asks_for_int8(library: Any, network: Any) -> NetworkSummary:
        found = summarize(library, network)
        first, *others = found.gemms
        return replace(found, gemms=(replace(first, precision=Precision("int8", "int8")), *others))

    monkeypatch.setattr(plan, "summarize", asks_for_int8)
    bundle = Bundle.open(float16_bundle_of("t5"))
    message = r"computes 2 of the GEMMs in another precision .* \(int8 weights, int8 inputs\) with"
    with pytest.raises(BackendError, match=message):
        build_engines(bundle, tmp_path / "out", options())
    assert not list(tmp_path.iterdir())
    made = build_engines(bundle, tmp_path / "out", replace(options(), allow_fallback=True))
    assert [len(engine.report.lost) for engine in made.engines.values()] == [1, 1]
