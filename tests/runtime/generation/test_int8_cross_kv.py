"""Cross-attention over int8 keys and values of a text: its tokens, whatever shares the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from seq2edge.quantize import QuantizationError, quantize_bundle
from seq2edge.quantize.recipe.options import Options
from seq2edge.runtime import Bundle, Seq2SeqModel
from seq2edge.runtime.backends.base import Step
from seq2edge.runtime.backends.onnxruntime import OrtBackend, cpu

from ...batches import padded_with_mask
from .copying import lively_bundle

TEXTS = (b"some words of a text that goes on", b"x", b"another text")
SOURCES = [[byte + 3 for byte in text] + [1] for text in TEXTS]
ON = Options(int8_cross_kv=True)


class Both(NamedTuple):
    canonical: Seq2SeqModel
    int8: Seq2SeqModel


@pytest.fixture(scope="module", params=["t5-v1.1", "bart"])
def both(
    request: pytest.FixtureRequest,
    variant_of: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Both]:
    out = tmp_path_factory.mktemp("kv") / "bundle"
    source = lively_bundle(variant_of, request.param)
    done = quantize_bundle(source, out, "int8", options=ON, check=False).manifest
    assert done.quantization["lowering"]["source"] == "int8 keys and values per channel"
    bundle = Bundle.open(out)
    outputs = {spec.name: spec.dtype for spec in done.graphs["encoder_cpu"].outputs}
    assert outputs["cross_key.0"] == "int8" and outputs["cross_key_scale.0"] == "float32"
    with (
        Seq2SeqModel(bundle, OrtBackend(bundle, num_threads=1, lowered=False), None) as canonical,
        Seq2SeqModel(bundle, OrtBackend(bundle, num_threads=1), None) as int8,
    ):
        yield Both(canonical, int8)


def logits_of(model: Seq2SeqModel, sources: list[list[int]], queries: int) -> np.ndarray:
    """[B, Q, V] of a first step of the same ``queries`` tokens after each of the padded sources."""
    ids, mask = padded_with_mask(sources, 0)
    backend = model.backend
    inputs = {"input_ids": ids, "attention_mask": mask}
    cache = backend.new_cache(backend.encode(inputs), 64)
    step = Step.allocate(len(sources), queries, 64, vocab_size=model.manifest.dimensions.vocab_size)
    step.input_ids[:] = step.position_ids[:] = np.arange(queries)
    step.attention_mask[:, 0, :, :queries] = np.tri(queries, dtype=bool)
    cache.forward(step)
    if step.logits is None:
        raise AssertionError("they were asked for")
    return step.logits


@pytest.mark.parametrize("queries", [1, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("sources", [SOURCES[:1], SOURCES], ids=["alone", "padded batch"])
def test_a_step_is_that_of_float32_keys_and_values(
    sources: list[list[int]], queries: int, both: Both
) -> None:
    """Each source's keys end where its tokens do, and its scales are its own.

    The shortest source has two positions: the kernel alone would refuse five tokens of it.
    """
    found = logits_of(both.int8, sources, queries)
    expected = logits_of(both.canonical, sources, queries)
    assert (found - expected).std() < 0.05 * expected.std()


@pytest.mark.parametrize(("beams", "graphs_run"), [(2, 1), (4, 1), (6, 1), (9, 7)])
def test_beams_of_a_batch_are_one_run(
    beams: int, graphs_run: int, both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 8 tokens of several sources, whose results are those of each source by itself.

    More run source by source, those of a source of two positions two at a time.
    """
    bound_run = cpu.bound_run
    ran: list[Any] = []

    def counted(session: Any, binding: Any) -> Callable[[], None]:
        run = bound_run(session, binding)

        def run_and_count() -> None:
            ran.append(binding)
            run()

        return run_and_count

    monkeypatch.setattr(cpu, "bound_run", counted)
    ids, mask = padded_with_mask(SOURCES, 0)
    options: dict[str, Any] = {"num_beams": beams, "min_new_tokens": 6, "max_new_tokens": 6}
    found = both.int8.generate_ids(ids, mask, **options)
    assert len(ran) == 6 * graphs_run
    monkeypatch.setattr(cpu, "most_at_once", lambda _: 1)
    expected = both.int8.generate_ids(ids, mask, **options)
    assert [row.token_ids for row in found] == [row.token_ids for row in expected]


def test_texts_are_those_of_float32_keys_and_values(both: Both) -> None:
    for source in SOURCES:
        for way in ({}, {"prompt_lookup_num_tokens": 3}):
            expected = both.canonical.generate_ids([source], max_new_tokens=12, **way)
            found = both.int8.generate_ids([source], max_new_tokens=12, **way)
            assert [row.token_ids for row in found] == [row.token_ids for row in expected]


def test_more_tokens_than_the_source_has(both: Both) -> None:
    """Fault: the kernel refuses them, so a long prompt of a short source ended in its error."""
    for source in ([7, 1], SOURCES[0]):
        options: dict[str, Any] = {"decoder_prefix": tuple(range(40, 80)), "max_new_tokens": 20}
        expected = both.canonical.generate_ids([source], **options)
        found = both.int8.generate_ids([source], **options)
        assert [row.token_ids for row in found] == [row.token_ids for row in expected]
        together = both.int8.generate_ids([source, source], num_beams=4, max_new_tokens=8)
        alone = both.canonical.generate_ids([source], num_beams=4, max_new_tokens=8)
        assert [row.token_ids for row in together] == [alone[0].token_ids] * 2


def test_it_is_asked_for_where_it_means_something(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(QuantizationError, match="int8_cross_kv means nothing to fp32 for cpu"):
        quantize_bundle(bundle_of("t5"), tmp_path / "a", "fp32", options=ON)
    plain = quantize_bundle(bundle_of("t5"), tmp_path / "b", "int8", check=False).manifest
    assert "encoder_cpu" not in plain.graphs
