"""Attention of encoders over long sources, in blocks: the canonical numbers, in less memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.quantize import (
    Options,
    QuantizationError,
    candidates,
    downgrade_opset,
    long_sources,
    quantize_bundle,
)
from seq2edge.quantize.passes.cpu_lowering import block_attention
from seq2edge.runtime import Bundle, InputError, Seq2SeqModel
from seq2edge.runtime.backends.onnxruntime import OrtBackend
from tests import whisper_models as whisper
from tests.conftest import export_unvalidated

from ...batches import padded_with_mask
from .copying import lively_bundle

#: Of the tests' blocks: positions from which on there are any, and queries of one.
LONG, ROWS = 24, 10
#: Sources of blocks that are full and not, longer and shorter than the longest that is not in any.
LENGTHS = (61, 24, 40, 3, 30)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_LARGE_ENCODER", 0)
    for name in ("LONG", "LONG_INTEGERS"):
        monkeypatch.setattr(block_attention, name, LONG)
    monkeypatch.setattr(long_sources, "LONG_INTEGERS", LONG)
    monkeypatch.setattr(block_attention, "_ROWS", ROWS)


def texts(lengths: tuple[int, ...], seed: int = 0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    rows = [generator.integers(5, 300, length).tolist() for length in lengths]
    return padded_with_mask(rows, 0)


def encoded(bundle: Path, lengths: tuple[int, ...], *, lowered: bool) -> list[np.ndarray]:
    """All keys and values of the source, of what is no padding."""
    opened = Bundle.open(bundle)
    backend = OrtBackend(opened, num_threads=1, lowered=lowered)
    ids, mask = texts(lengths)
    output = backend.encode({"input_ids": ids, "attention_mask": mask.astype(bool)})
    arrays = [output.numpy(spec.name) for spec in opened.manifest.graphs["encoder"].outputs]
    backend.close()
    return [array.swapaxes(1, 2)[mask.astype(bool)] for array in arrays]


@pytest.mark.parametrize("shape", ["t5-v1.1", "bart", "bart-odd"])
def test_floats_are_those_of_the_canonical_graph(
    shape: str, bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Relative positions and padding masks, blocks that divide the source and that do not."""
    done = quantize_bundle(bundle_of(shape), tmp_path / "b", "fp32", check=False).manifest
    lowering = done.quantization["lowering"]
    if "refused" in lowering:
        pytest.skip(lowering["refused"])
    assert lowering["attention"] == "float32, in blocks"
    assert done.graphs["encoder_blocks"].minimum_onnxruntime == "1.32"
    for lengths in (LENGTHS, (24,), (23,), (60,), (50, 50)):
        found = encoded(tmp_path / "b", lengths, lowered=True)
        expected = encoded(tmp_path / "b", lengths, lowered=False)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5 * np.abs(other).max())


def test_sound_without_a_mask(tmp_path: Path) -> None:
    """Whisper's positions: no bias, no padding; int8 where it is asked for.

    In floats it has an operator that holds no scores either.
    """
    whisper.make_whisper("tiny", tmp_path / "checkpoint")
    export_unvalidated(tmp_path / "checkpoint", tmp_path / "source")
    sound = np.random.default_rng(0).standard_normal((2, 80, 300), np.float32)
    for scheme in ("fp32", "int8"):
        quantize_bundle(tmp_path / "source", tmp_path / scheme, scheme, check=False)
        graphs = Bundle.open(tmp_path / scheme).manifest.graphs
        assert "encoder_cpu" in graphs and "encoder_blocks" not in graphs
    options = Options(int8_attention=True)
    quantize_bundle(
        tmp_path / "source", tmp_path / "int8", "int8", options=options, check=False, overwrite=True
    )
    bundle, found = Bundle.open(tmp_path / "int8"), []
    lowering = bundle.manifest.quantization["lowering"]
    assert lowering["attention"] == "int8 products, in blocks"
    for lowered in (True, False):
        backend = OrtBackend(bundle, num_threads=1, lowered=lowered)
        output = backend.encode({"input_features": sound})
        found.append(output.numpy("cross_value.0"))
        backend.close()
    assert 0 < (found[0] - found[1]).std() < 0.1 * found[1].std()


@pytest.mark.parametrize("shape", ["t5-v1.1", "bart"])
def test_tokens_are_those_of_the_canonical_graph(
    shape: str, variant_of: Callable[..., Any], tmp_path: Path
) -> None:
    quantize_bundle(lively_bundle(variant_of, shape), tmp_path / "b", "fp32", check=False)
    bundle = Bundle.open(tmp_path / "b")
    ids, mask = texts(LENGTHS)
    both = []
    for lowered in (True, False):
        with Seq2SeqModel(bundle, OrtBackend(bundle, num_threads=1, lowered=lowered), None) as m:
            both.append(
                [
                    [row.token_ids for row in m.generate_ids(ids, mask, **way)]
                    for way in ({"max_new_tokens": 20}, {"num_beams": 3, "max_new_tokens": 8})
                ]
            )
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("shape", "lengths"), [("t5-v1.1", LENGTHS), ("t5-v1.1", (700,)), ("bart", LENGTHS)]
)
def test_int8_is_as_near_as_the_layers_are(
    shape: str, lengths: tuple[int, ...], bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Over 700 keys most weigh less than half of the 255th part of one."""
    options = Options(int8_attention=True, int8_cross_kv=True)
    done = quantize_bundle(bundle_of(shape), tmp_path / "b", "int8", options=options, check=False)
    assert done.manifest.quantization["lowering"]["attention"] == "int8 products, in blocks"
    expected = encoded(bundle_of(shape), lengths, lowered=False)
    errors = {}
    for lowered in (True, False):
        found = encoded(tmp_path / "b", lengths, lowered=lowered)
        errors[lowered] = max(
            float((one - other).std() / other.std())
            for one, other in zip(found, expected, strict=True)
        )
    assert errors[True] != errors[False]
    assert errors[True] < 1.5 * errors[False] + 0.02


@pytest.fixture
def small(bundle_of: Callable[[str], Path]) -> Iterator[Path]:
    yield bundle_of("t5-v1.1")


def test_int8_is_taken_where_long_sources_allow_it(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = quantize_bundle(small, tmp_path / "a", "int8").manifest.quantization["lowering"]
    assert taken["attention"] == "int8 products, in blocks"
    found = taken["long_sources"]
    assert found["source_tokens"] == 36 and found["positions"] > 0 and found["passed"]
    assert found["mean_kl"] > 0 and found["mean_kl"] != found["mean_kl_without"]
    monkeypatch.setattr(long_sources, "_SHARE", -1000.0)
    refused = quantize_bundle(small, tmp_path / "b", "int8").manifest.quantization["lowering"]
    assert refused["attention"] == "float32, in blocks"
    assert refused["long_sources"]["passed"] is False


def test_nothing_is_measured_where_it_is_chosen_or_not_checked(small: Path, tmp_path: Path) -> None:
    for number, (options, check, said) in enumerate(
        (
            (Options(int8_attention=True), True, "int8 products, in blocks"),
            (Options(int8_attention=False), True, "float32, in blocks"),
            (Options(), False, "float32, in blocks"),
        )
    ):
        out = tmp_path / str(number)
        done = quantize_bundle(small, out, "int8", options=options, check=check).manifest
        lowering = done.quantization["lowering"]
        assert lowering["attention"] == said and "long_sources" not in lowering
    with pytest.raises(QuantizationError, match="int8_attention means nothing to fp32 for cpu"):
        quantize_bundle(small, tmp_path / "c", "fp32", options=Options(int8_attention=True))


def test_small_encoders_and_other_targets_have_none(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_bundle(small, tmp_path / "a", "int8", check=False)
    older = downgrade_opset(tmp_path / "a", tmp_path / "b").manifest
    assert "encoder_blocks" not in older.graphs and "Scan" not in str(older.graphs)
    monkeypatch.setattr(candidates, "_LARGE_ENCODER", 1 << 40)
    plain = quantize_bundle(small, tmp_path / "c", "int8", check=False).manifest
    assert "encoder_blocks" not in plain.graphs
    assert "attention" not in plain.quantization["lowering"]


def test_a_source_that_whole_scores_would_not_fit_is_taken(small: Path, tmp_path: Path) -> None:
    """2,000 tokens: the scores of all heads would take some 0.35 GB, what blocks hold 0.1."""
    quantize_bundle(small, tmp_path / "a", "fp32", check=False)
    bundle, ids = Bundle.open(tmp_path / "a"), np.full((1, 2000), 200)
    inputs = {"input_ids": ids, "attention_mask": ids > 0}
    for lowered in (True, False):
        backend = OrtBackend(bundle, num_threads=1, lowered=lowered, max_memory=130_000_000)
        if lowered:
            assert backend.encode(inputs).length == 2000
        else:
            with pytest.raises(InputError, match="attention of a source of 2000 tokens"):
                backend.encode(inputs)
        backend.close()
