"""Encoders on OpenVINO, decoders on ONNX Runtime: numbers and tokens as with it alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino")

from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import (
    BackendError,
    Bundle,
    BundleError,
    MissingDependencyError,
    Seq2SeqModel,
)
from seq2edge.runtime.backends import Backend, EncoderInputs, EncoderOutput, load_backend
from seq2edge.runtime.backends.openvino import open_encoder
from seq2edge.runtime.backends.openvino.library import load_library
from tests import whisper_models as whisper
from tests.conftest import export_unvalidated, made_once
from tests.runtime.bundle.test_graph_checks import edit_graph, entry

#: Largest relative error of float32, and of bfloat16 over these models (16 bits hold 8 of a
#: mantissa: 2^-9 for each rounding, and they add up over the layers).
EXACT, BFLOAT16 = 5e-6, 0.04

_CAPABILITIES = load_library().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
HAS_BFLOAT16, HAS_FLOAT16 = "BF16" in _CAPABILITIES, "FP16" in _CAPABILITIES


@pytest.fixture(scope="module")
def bundle_by(
    tmp_path_factory: pytest.TempPathFactory, bundle_of: Callable[[str], Path]
) -> Callable[[str], Bundle]:
    """From ``SHAPE`` or ``SHAPE.SCHEME`` to its bundle. Read only."""
    folder = tmp_path_factory.mktemp("openvino")

    def make(name: str, path: Path) -> None:
        shape, _, scheme = name.partition(".")
        if scheme:
            quantize_bundle(get(shape), path, scheme, check=False)
        else:
            whisper.make_whisper("tiny", folder / "checkpoint")
            export_unvalidated(folder / "checkpoint", path)

    made = made_once(folder, make)

    def get(name: str) -> Path:
        return made(name) if "." in name or name == "whisper" else bundle_of(name)

    return lambda name: Bundle.open(get(name))


def sources(bundle: Bundle, seed: int = 0) -> EncoderInputs:
    """Of several lengths where the model takes masks."""
    generator = np.random.default_rng(seed)
    if bundle.manifest.speech is not None:
        return {"input_features": generator.standard_normal((2, 80, 300), np.float32)}
    mask = np.arange(17) < np.array([[17], [9], [3]])
    tokens = generator.integers(5, 300, mask.shape)
    return {
        "input_ids": np.where(mask, tokens, bundle.manifest.special_tokens.pad),
        "attention_mask": mask,
    }


def on_openvino(bundle: Bundle, precision: str | None = None) -> Backend:
    return load_backend(bundle, num_threads=1, encoder_backend="openvino", precision=precision)


def error(bundle: Bundle, ours: EncoderOutput, exact: EncoderOutput) -> float:
    """The largest over the outputs, relative to their size, of what is no padding."""
    mask = sources(bundle).get("attention_mask")
    kept = 1 if mask is None else mask[:, None, :, None]
    return max(
        float(
            np.linalg.norm(kept * (ours.numpy(spec.name) - exact.numpy(spec.name)))
            / np.linalg.norm(kept * exact.numpy(spec.name))
        )
        for spec in bundle.manifest.graphs["encoder"].outputs
    )


@pytest.mark.parametrize("shape", ["t5", "bart", "whisper"])
def test_float32_is_float32(shape: str, bundle_by: Callable[[str], Bundle]) -> None:
    bundle = bundle_by(shape)
    found = on_openvino(bundle, "f32")
    assert found.capabilities.encoder.endswith("on cpu, f32")
    exact = load_backend(bundle, num_threads=1).encode(sources(bundle))
    assert error(bundle, found.encode(sources(bundle)), exact) < EXACT


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no bfloat16")
@pytest.mark.parametrize("shape", ["t5", "bart", "whisper"])
def test_the_default_is_bfloat16_where_the_cpu_has_it(
    shape: str, bundle_by: Callable[[str], Bundle]
) -> None:
    bundle = bundle_by(shape)
    found = on_openvino(bundle)
    assert found.capabilities.encoder.endswith("on cpu, bf16")
    exact = load_backend(bundle, num_threads=1).encode(sources(bundle))
    assert EXACT < error(bundle, found.encode(sources(bundle)), exact) < BFLOAT16


@pytest.mark.parametrize("name", ["t5.int8", "bart.int8-dynamic", "whisper.int8", "whisper.int4"])
def test_int8_encoders_lose_no_more_than_with_onnxruntime(
    name: str, bundle_by: Callable[[str], Bundle]
) -> None:
    """Their products are read in OpenVINO's own form; of speech, keys and values are int8 too."""
    float32, bundle = bundle_by(name.partition(".")[0]), bundle_by(name)
    inputs = sources(bundle)
    exact = load_backend(float32, num_threads=1).encode(inputs)
    theirs = error(float32, load_backend(bundle, num_threads=1).encode(inputs), exact)
    assert 0.001 < error(float32, on_openvino(bundle, "f32").encode(inputs), exact) < 1.1 * theirs


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 4}])
def test_tokens_are_the_same(options: dict[str, Any], bundle_of: Callable[[str], Path]) -> None:
    for shape in ("t5", "marian-separate"):
        path = bundle_of(shape)
        inputs = sources(Bundle.open(path))
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        tokens = []
        for encoder_backend, precision in ((None, None), ("openvino", "f32")):
            with Seq2SeqModel.load(
                path, num_threads=1, encoder_backend=encoder_backend, precision=precision
            ) as model:
                found = model.generate_ids(ids, mask, max_new_tokens=12, **options)
                tokens.append([generation.token_ids for generation in found])
        assert tokens[0] == tokens[1]


def test_threads_share_it_and_keep_what_they_got(bundle_by: Callable[[str], Bundle]) -> None:
    bundle = bundle_by("bart")
    alone, shared = on_openvino(bundle, "f32"), on_openvino(bundle, "f32")
    batches = [sources(bundle, seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(shared.encode, batches))
    for inputs, output in zip(batches, found, strict=True):
        expected = alone.encode(inputs).numpy("cross_key.1")
        np.testing.assert_array_equal(output.numpy("cross_key.1"), expected)


def test_a_closed_model_says_so(bundle_by: Callable[[str], Bundle]) -> None:
    bundle = bundle_by("t5")
    backend = on_openvino(bundle)
    backend.close()
    with pytest.raises(BackendError, match="the model was closed"):
        backend.encode(sources(bundle))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device": "npu9"}, r"openvino finds no device 'npu9' here, but: cpu"),
        ({"precision": "fp8"}, r"unknown precision 'fp8'; openvino has: f32, bf16, f16"),
        pytest.param(
            {"precision": "f16"},
            r"device cpu does not compute in f16: it would take",
            marks=pytest.mark.skipif(HAS_FLOAT16, reason="this CPU computes in float16"),
        ),
        ({"encoder_backend": "tvm"}, r"unknown engine 'tvm' for an encoder; .*: openvino"),
        ({"encoder_backend": None, "precision": "f32"}, r"choose encoder_backend='openvino'"),
        ({"backend": "tensorrt"}, r"goes with the engine onnxruntime, not tensorrt"),
        ({"device": "gpu", "strict": True}, r"only the encoder would run on the device gpu"),
    ],
)
def test_what_cannot_be_is_refused(
    options: dict[str, Any], reason: str, bundle_by: Callable[[str], Bundle]
) -> None:
    with pytest.raises(BackendError, match=reason):
        load_backend(bundle_by("t5"), num_threads=1, **{"encoder_backend": "openvino", **options})


def test_a_missing_package_is_named(
    bundle_by: Callable[[str], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_library.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install openvino$"):
        on_openvino(bundle_by("t5"))


def test_a_graph_that_it_cannot_read_is_one_line(bundle_by: Callable[[str], Bundle]) -> None:
    bundle = bundle_by("t5")
    with pytest.raises(BackendError, match=r"^openvino cannot load .*TensorScatter") as found:
        open_encoder(bundle, bundle.manifest.graphs["decoder"], 1)
    assert "\n" not in str(found.value)


def test_inputs_that_it_cannot_take_are_one_line(bundle_by: Callable[[str], Bundle]) -> None:
    bundle = bundle_by("whisper")
    encoder = open_encoder(bundle, bundle.manifest.graphs["encoder"], 1)
    with pytest.raises(BackendError, match=r"^openvino failed in the encoder: ") as found:
        encoder.run({"input_features": np.zeros((1, 79, 300), np.float32)})
    assert "\n" not in str(found.value)


def test_nothing_is_read_of_a_bundle_whose_graph_leads_out(
    bundle_of: Callable[[str], Path],
    copy_of: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = copy_of(bundle_of("t5"))
    edit_graph(path, entry("location", "../canary.bin"), "encoder")
    monkeypatch.setitem(sys.modules, "openvino", None)
    load_library.cache_clear()
    with pytest.raises(BundleError, match=r"is read from '\.\./canary\.bin'"):
        Seq2SeqModel.load(path, encoder_backend="openvino")


def test_a_compiled_encoder_is_kept_where_the_user_says(
    bundle_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each bundle by its manifest; the next load takes it and gives the same numbers."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("SEQ2EDGE_OPENVINO_CACHE", str(cache))
    outputs, kept = [], []
    for _ in range(2):
        bundle = Bundle.open(bundle_of("t5"))
        encoder = open_encoder(bundle, bundle.manifest.graphs["encoder"], 1, precision="f32")
        kept.append((encoder.from_cache, sorted(cache.rglob("*.blob"))))
        inputs = sources(bundle)
        arrays = {
            "input_ids": inputs["input_ids"],
            "encoder_attention_mask": inputs["attention_mask"][:, None, None, :],
        }
        outputs.append(encoder.run(arrays)[0]["cross_key.0"].copy())
    assert [found for found, _ in kept] == [False, True]
    assert kept[0][1] == kept[1][1] and len(kept[0][1]) == 1
    (folder,) = cache.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    np.testing.assert_array_equal(*outputs)
    other = Bundle.open(bundle_of("bart"))
    open_encoder(other, other.manifest.graphs["encoder"], 1)
    assert len(list(cache.iterdir())) == 2
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SEQ2EDGE_OPENVINO_CACHE", str(tmp_path / "file"))
    with pytest.raises(BackendError, match="which SEQ2EDGE_OPENVINO_CACHE asks for"):
        open_encoder(other, other.manifest.graphs["encoder"], 1)
