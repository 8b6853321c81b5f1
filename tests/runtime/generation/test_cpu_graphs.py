"""The graphs that quantize makes for the CPU alone give the canonical ones' tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest

from seq2edge.quantize import QuantizationError, downgrade_opset, quantize_bundle
from seq2edge.runtime import Bundle, Seq2SeqModel
from seq2edge.runtime.backends.onnxruntime import OrtBackend
from seq2edge.runtime.generation.constraints import Choices
from seq2edge.runtime.text.tokenizer import load_tokenizer

from ...batches import assert_same_generations, padded_with_mask
from .copying import lively_bundle
from .test_batches import TEXTS, WAYS

#: With what the canonical graphs' tests do not ask of a step: growth, compaction, drafts, masks.
MORE_WAYS: dict[str, dict[str, Any]] = {
    **WAYS,
    "long": {"max_new_tokens": 150},
    "wide": {"num_beams": 6, "max_new_tokens": 60},
    "long lookup": {"prompt_lookup_num_tokens": 6, "max_new_tokens": 140},
    "drawn beams": {"num_beams": 3, "do_sample": True, "seed": 5},
    "prefix": {"decoder_prefix": (40, 50, 60), "num_beams": 2},
}


#: [B, S] ids and mask: bytes of texts of different lengths.
SOURCES = padded_with_mask([[byte + 3 for byte in text.encode()] + [1] for text in TEXTS], 0)


class Both(NamedTuple):
    """One bundle's graphs as they are made and as they are for the CPU."""

    canonical: Seq2SeqModel
    lowered: Seq2SeqModel


def loaded(bundle: Path, *, lowered: bool) -> Seq2SeqModel:
    opened = Bundle.open(bundle, single_stack=("decoder",))
    backend = OrtBackend(opened, num_threads=1, lowered=lowered)
    return Seq2SeqModel(opened, backend, load_tokenizer(opened))


@pytest.fixture(scope="module")
def both_of(
    variant_of: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Both]]:
    """A function from a shape to its float32 graphs; each is made once."""
    made: dict[str, Both] = {}

    def get(shape: str) -> Both:
        if shape not in made:
            out = tmp_path_factory.mktemp("lowered") / "bundle"
            quantize_bundle(lively_bundle(variant_of, shape), out, "fp32", check=False)
            made[shape] = Both(loaded(out, lowered=False), loaded(out, lowered=True))
        return made[shape]

    yield get
    for both in made.values():
        both.canonical.close()
        both.lowered.close()


@pytest.mark.parametrize("way", MORE_WAYS.values(), ids=MORE_WAYS)
@pytest.mark.parametrize("shape", ["t5-v1.1", "umt5", "bart", "pegasus"])
def test_each_way_of_decoding_gives_the_same(
    shape: str, way: dict[str, Any], both_of: Callable[[str], Both]
) -> None:
    both = both_of(shape)
    limit = both.canonical.manifest.dimensions.max_target_length
    config = replace(both.canonical.generation_config, max_new_tokens=24)
    config = replace(config, **way)
    if limit is not None and config.max_new_tokens is not None:
        config = replace(config, max_new_tokens=min(config.max_new_tokens, limit - 8))
    for rows in (slice(None), slice(2, 3)):
        ids, mask = (array[rows] for array in SOURCES)
        expected = both.canonical.generate_ids(ids, mask, config)
        assert_same_generations(both.lowered.generate_ids(ids, mask, config), expected)
        assert expected[0].token_ids


def test_constrained_outputs_are_the_same(both_of: Callable[[str], Both]) -> None:
    both = both_of("t5-v1.1")
    for options in ({"num_beams": 2}, {}):
        expected = both.canonical.generate(
            TEXTS, constraint=Choices(("yes", "yet", "no way")), **options
        )
        found = both.lowered.generate(
            TEXTS, constraint=Choices(("yes", "yet", "no way")), **options
        )
        assert_same_generations(found, expected)


def test_the_host_gives_what_the_graph_no_longer_computes(
    both_of: Callable[[str], Both],
) -> None:
    graphs = Bundle.open(both_of("bart").lowered._bundle.directory).manifest.graphs
    lowered, canonical = graphs["decoder_cpu"], graphs["decoder"]
    assert lowered.minimum_onnxruntime == "1.32"
    assert lowered.operators["GroupQueryAttention"] == 3
    assert lowered.operators["MultiHeadAttention"] == 3
    gone = {"Attention", "TensorScatter", "ArgMax", "Transpose", "Split", "Expand"}
    assert gone <= set(canonical.operators)
    assert gone.isdisjoint(lowered.operators)
    assert lowered.weight_bytes == canonical.weight_bytes


def test_quantized_graphs_compute_the_same(variant_of: Callable[..., Any], tmp_path: Path) -> None:
    source = lively_bundle(variant_of, "bart")
    for scheme in ("int8", "int8-dynamic", "int4", "fp16"):
        out = tmp_path / scheme
        graphs = quantize_bundle(source, out, scheme, check=False).manifest.graphs
        # Logits are written where they are read: a reshaped head would copy all of them.
        assert ("Reshape" in graphs["decoder_cpu"].operators) == (scheme == "fp16")
        tokens = []
        for lowered in (False, True):
            with loaded(out, lowered=lowered) as model:
                found = model.generate_ids(*SOURCES, max_new_tokens=8)
                tokens.append([row.token_ids for row in found])
        assert tokens[0] == tokens[1]


def test_an_older_onnxruntime_runs_the_canonical_graphs(
    both_of: Callable[[str], Both], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = both_of("t5-v1.1").lowered._bundle.directory
    monkeypatch.setattr(onnxruntime, "__version__", "1.31.1")
    with loaded(directory, lowered=True) as model:
        expected = both_of("t5-v1.1").canonical.generate(TEXTS[:2], max_new_tokens=8)
        assert_same_generations(model.generate(TEXTS[:2], max_new_tokens=8), expected)


def test_heads_that_the_kernel_does_not_take_stay_as_they_are(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = bundle_of("marian-separate")  # heads of 9
    result = quantize_bundle(bundle, tmp_path / "int8", "int8", check=False)
    assert set(result.manifest.graphs) == {"encoder", "decoder", "logsumexp"}
    said = "heads of 9 are no multiple of 8"
    assert result.manifest.quantization["lowering"] == {"refused": said}
    with pytest.raises(QuantizationError, match=f"{said}; run it as it is"):
        quantize_bundle(bundle, tmp_path / "fp32", "fp32")
    assert not (tmp_path / "fp32").exists()


def test_older_operators_leave_no_graph_for_the_cpu(
    both_of: Callable[[str], Both], tmp_path: Path
) -> None:
    both = both_of("bart")
    result = downgrade_opset(both.lowered._bundle.directory, tmp_path / "old")
    assert set(result.manifest.graphs) == {"encoder", "decoder", "logsumexp"}
    assert "lowering" not in result.manifest.quantization
    with Seq2SeqModel.load(tmp_path / "old", num_threads=1) as model:
        ids = np.array([[5, 6, 7, 2]])
        expected = both.canonical.generate_ids(ids, max_new_tokens=8)
        assert_same_generations(model.generate_ids(ids, max_new_tokens=8), expected)
