"""Downgraded bundles: the same results without an operator that old runtimes do not know."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from seq2edge.quantize import SCHEMES, downgrade_opset, quantize_bundle
from seq2edge.quantize.passes.opset_downgrade.operators import TENSORRT_OPERATORS
from seq2edge.quantize.recipe.schemes import QuantizationScheme
from seq2edge.runtime import Bundle, GenerationConfig, Seq2SeqModel
from seq2edge.runtime.backends import Step, load_backend
from seq2edge.runtime.bundle.reader import sha256_of

from ...runtime.test_lean_install import pip_install
from ..conftest import BundleOf, CalibrationOf, difference, logits, models, reference
from ..test_targets import in_float32

DowngradedOf = Callable[[str], Path]

SHAPES = ("t5", "t5-v1.1", "umt5", "bart", "bart-scaled", "t5-odd", "bart-odd")
OLD = "1.23.2"
REPOSITORY = Path(__file__).parents[3]
#: Padded sources, and which of their tokens count.
SOURCES = np.array([[5, 6, 7, 9, 1, 2], [8, 9, 1, 0, 0, 0], [11, 12, 13, 14, 15, 0]])
MASK = np.array([[1] * 6, [1] * 3 + [0] * 3, [1] * 5 + [0]])
#: More tokens than the first 64 cache slots hold, and not the same one for ever.
TOKENS = {"max_new_tokens": 75, "min_new_tokens": 70, "no_repeat_ngram_size": 2}


@pytest.fixture(scope="session")
def downgraded_of(tmp_path_factory: pytest.TempPathFactory, short_of: BundleOf) -> DowngradedOf:
    """A function from a shape's name to the downgraded form of ``short_of``. Read only."""
    folder = tmp_path_factory.mktemp("downgraded")

    def get(shape: str) -> Path:
        path = folder / shape
        if not path.exists():
            downgrade_opset(short_of(shape), path)
        return path

    return get


def steps(path: Path) -> list[np.ndarray]:
    """Logits of a prompt of four tokens, then of three queries and of one at a time, each
    sequence writing elsewhere; every query sees what was written before it and itself."""
    bundle = Bundle.open(path)
    size = bundle.manifest.dimensions.vocab_size
    generator = np.random.default_rng(7)
    backend = load_backend(bundle, num_threads=1)
    decoder = backend.new_cache(
        backend.encode({"input_ids": SOURCES, "attention_mask": MASK.astype(np.bool_)}), 16
    )
    found, written = [], np.zeros((3, 16), np.bool_)
    for starts in ([0, 0, 0], [4, 9, 6], [7, 13, 12], [8, 4, 15]):
        queries = 4 if not any(starts) else 3 if starts[0] == 4 else 1
        step = Step.allocate(3, queries, 16, vocab_size=size)
        step.input_ids[:] = generator.integers(3, size, (3, queries))
        step.position_ids[:] = len(found) + np.arange(queries)
        step.write_indices[:] = starts
        for row, start in enumerate(starts):
            for query in range(queries):
                written[row, start + query] = True
                step.attention_mask[row, 0, query] = written[row]
                decoder.cache_position_ids[row, start + query] = len(found) + query
        decoder.forward(step)
        assert step.logits is not None
        found.append(step.logits)
    return found


def generated(path: Path, **options: Any) -> list[list[int]]:
    with Seq2SeqModel.load(path) as model:
        config = GenerationConfig(**{**TOKENS, **options})
        return [result.token_ids for result in model.generate_ids(SOURCES, MASK, config)]


# The same results


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_the_same(shape: str, short_of: BundleOf, downgraded_of: DowngradedOf) -> None:
    found = [logits(downgraded_of(shape)), *steps(downgraded_of(shape))]
    expected = [reference(short_of(shape)), *steps(short_of(shape))]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", ["t5-v1.1", "umt5", "bart-scaled"])
@pytest.mark.parametrize("beams", [1, 4])
def test_tokens_are_the_same(
    shape: str, beams: int, short_of: BundleOf, downgraded_of: DowngradedOf
) -> None:
    found = generated(downgraded_of(shape), num_beams=beams)
    assert found == generated(short_of(shape), num_beams=beams)
    assert len({token for row in found for token in row}) > 5


@pytest.mark.parametrize("shape", ["t5", "bart"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{scheme.name}-{scheme.target}")
def test_a_quantized_bundle_computes_as_before(
    shape: str,
    scheme: QuantizationScheme,
    short_of: BundleOf,
    calibration_of: CalibrationOf,
    tmp_path: Path,
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    quantize_bundle(
        short_of(shape),
        before,
        scheme.name,
        target=scheme.target,
        calibration=calibration_of(shape),
        check=False,
    )
    downgrade_opset(before, after)
    Bundle.open(after).verify()
    if scheme.compute == "bfloat16":  # ONNX Runtime has none of it on the CPU
        before, after = in_float32(before), in_float32(after)
    found, exact = logits(after), reference(short_of(shape))
    if scheme.compute == "float32":
        np.testing.assert_allclose(found, logits(before), atol=1e-4, rtol=0)
    else:  # what is rounded at another place may be quantized to another integer
        assert difference(found, logits(before)) < (
            0.005 if scheme.precision == "float16" else 0.05
        )
        assert difference(found, exact) < 1.2 * difference(logits(before), exact)


# What is written


@pytest.mark.parametrize("shape", SHAPES)
def test_every_operator_is_one_of_opset_20(shape: str, downgraded_of: DowngradedOf) -> None:
    bundle = Bundle.open(downgraded_of(shape))
    bundle.verify()
    assert set(bundle.manifest.graphs) == {"encoder", "decoder", "logsumexp"}
    for name, info in bundle.manifest.graphs.items():
        path = bundle.path(info.file)
        onnx.checker.check_model(path, full_check=True)
        model = onnx.load(path, load_external_data=False)
        assert [(item.domain, item.version) for item in model.opset_import] == [("", 20)]
        assert (info.opset, model.ir_version) == (20, 9)
        there = {node.op_type for node in model.graph.node}
        assert there == set(info.operators)
        assert there <= TENSORRT_OPERATORS, name
        for kind in there:
            onnx.defs.get_schema(kind, 20)
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)


def test_the_slots_are_found_once_for_all_layers(downgraded_of: DowngradedOf) -> None:
    operators = Bundle.open(downgraded_of("umt5")).manifest.graphs["decoder"].operators
    assert (operators["ScatterND"], operators["Range"]) == (6, 2)
    # The source mask is no longer expanded, and made into scores once.
    assert "Expand" not in operators
    there = {node.name: node for node in models(downgraded_of("umt5"))["decoder"].graph}
    assert "encoder_attention_mask.float/scores" in there
    assert any(name.startswith("decoder/layers.2/cross_attention/") for name in there)


def test_the_rest_of_the_bundle_is_as_it_was(
    short_of: BundleOf, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    quantize_bundle(short_of("t5"), tmp_path / "int8", "int8")
    for source in (with_tokenizer(copy_of(short_of("bart"))), tmp_path / "int8"):
        out = tmp_path / "out"
        after = downgrade_opset(source, out, overwrite=True).manifest
        before = Bundle.open(source).manifest
        assert after == Bundle.open(out).manifest
        assert set(after.files) == set(before.files) - {"decoder_cpu.onnx"}
        assert {name: stored(out, name) for name in after.weights} == {
            name: stored(source, name) for name in before.weights
        }
        if "tokenizer.json" in before.files:
            assert (out / "tokenizer.json").read_bytes() == b"{}"
        for name in ("dimensions", "special_tokens", "tokenizer", "generation", "parameters"):
            assert getattr(after, name) == getattr(before, name)
        for name, graph in after.graphs.items():
            old = before.graphs[name]
            assert (graph.inputs, graph.outputs) == (old.inputs, old.outputs)
            assert (graph.precision, graph.weight_bytes) == (old.precision, old.weight_bytes)
        record = dict(after.quantization)
        del record["opset_downgrade"]
        if before.quantization:
            assert {**record, "lowering": before.quantization["lowering"]} == before.quantization
        else:
            assert (record["scheme"], record["target"]) == ("float32", "any")


def stored(bundle: Path, name: str) -> tuple[str, tuple[int, ...], bytes]:
    """A weight as it lies in the bundle's file."""
    info = Bundle.open(bundle).manifest.weights[name]
    data = (bundle / "weights.bin").read_bytes()[info.offset : info.offset + info.length]
    return info.dtype, info.shape, data


def with_tokenizer(bundle: Path) -> Path:
    """The copy with a file more."""
    (bundle / "tokenizer.json").write_text("{}")
    path = bundle / "seq2edge.json"
    manifest = json.loads(path.read_text())
    manifest["tokenizer"] = {"kind": "tokenizers", "file": "tokenizer.json", "byte_offset": 0}
    sha256 = sha256_of(bundle / "tokenizer.json")
    manifest["files"]["tokenizer.json"] = {"size": 2, "sha256": sha256}
    path.write_text(json.dumps(manifest))
    return bundle


def test_the_record_says_for_whom_it_is(
    short_of: BundleOf, downgraded_of: DowngradedOf, tmp_path: Path
) -> None:
    done = Bundle.open(downgraded_of("t5")).manifest.quantization["opset_downgrade"]
    assert done == {
        "opset": 20,
        "oldest_onnxruntime": "1.20",
        "replaced": {"Attention": 7, "RMSNormalization": 14, "TensorScatter": 4},
        "unknown_to_tensorrt": [],
    }
    quantize_bundle(short_of("bart"), tmp_path / "int4", "int4")
    done = downgrade_opset(tmp_path / "int4", tmp_path / "out").record
    assert (done["opset"], done["oldest_onnxruntime"]) == (21, "1.23")
    assert {"MatMulNBits", "MatMulInteger"} <= set(done["unknown_to_tensorrt"])
    assert done["replaced"] == {"Attention": 8, "TensorScatter": 6}


def test_softmax_is_as_exact_as_the_graph_asks(short_of: BundleOf, tmp_path: Path) -> None:
    for target, expected in (("cuda", ir.DataType.FLOAT), ("tensorrt", ir.DataType.FLOAT16)):
        quantize_bundle(short_of("bart"), tmp_path / target, "fp16", target=target)
        downgrade_opset(tmp_path / target, tmp_path / f"{target}.downgraded")
        graph = models(tmp_path / f"{target}.downgraded")["decoder"].graph
        types = {node.outputs[0].dtype for node in graph if node.op_type == "Softmax"}
        assert types == {expected}


# In an old ONNX Runtime

_SCRIPT = """
import json, sys
import numpy as np
import onnxruntime
from seq2edge.runtime import BackendError, GenerationConfig, Seq2SeqModel

sources, mask, tokens, bundles = json.loads(sys.argv[1])
found = {"version": onnxruntime.__version__}
for path in bundles:
    try:
        with Seq2SeqModel.load(path) as model:
            found[path] = [
                result.token_ids
                for beams in (1, 4)
                for result in model.generate_ids(
                    np.array(sources), np.array(mask), GenerationConfig(num_beams=beams, **tokens)
                )
            ]
    except BackendError as error:
        found[path] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def old_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lean runtime and an ONNX Runtime that knows no opset 24."""
    folder = tmp_path_factory.mktemp("old-runtime")
    wheels = (f"onnxruntime=={OLD}", "numpy", "tokenizers")
    try:
        pip_install(Path(sys.executable), "--target", str(folder), *wheels)
    except pytest.skip.Exception as reason:
        pytest.skip(f"onnxruntime {OLD}: {reason}")
    shutil.copytree(REPOSITORY / "runtime", folder / "seq2edge" / "runtime")
    return folder


def test_an_old_onnxruntime_gives_the_same_tokens(
    old_runtime: Path, short_of: BundleOf, downgraded_of: DowngradedOf, tmp_path: Path
) -> None:
    pairs = {
        str(downgraded_of(shape)): short_of(shape) for shape in ("t5-v1.1", "umt5", "bart-scaled")
    }
    for scheme in ("int8", "int4"):
        quantize_bundle(short_of("t5"), tmp_path / scheme, scheme)
        downgrade_opset(tmp_path / scheme, tmp_path / f"{scheme}.downgraded")
        pairs[str(tmp_path / f"{scheme}.downgraded")] = tmp_path / scheme
    canonical = str(short_of("t5"))
    argument = [SOURCES.tolist(), MASK.tolist(), TOKENS, [*pairs, canonical]]
    done = subprocess.run(
        # Without site: nothing but what was installed there can be imported.
        [sys.executable, "-S", "-c", _SCRIPT, json.dumps(argument)],
        env={**os.environ, "PYTHONPATH": str(old_runtime)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("version") == OLD
    assert "opset 24" in found.pop(canonical)
    for path, source in pairs.items():
        expected = [row for beams in (1, 4) for row in generated(source, num_beams=beams)]
        if "int" in source.name:  # versions round integers differently, and then all differs
            pairs_of_rows = zip(found[path], expected, strict=True)
            assert np.mean([np.equal(a[:5], b[:5]) for a, b in pairs_of_rows]) > 0.8, path
        else:
            assert found[path] == expected, path
