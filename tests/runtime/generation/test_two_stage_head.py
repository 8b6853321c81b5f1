"""A head of two stages chooses what the whole one chooses, and gives way where it might not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.quantize import Options, quantize_bundle
from seq2edge.runtime import Bundle, Seq2SeqModel
from seq2edge.runtime.backends import SlotCache, Step
from seq2edge.runtime.backends.onnxruntime import OrtBackend
from tests import whisper_models as whisper
from tests.conftest import export_unvalidated

from .copying import lively_bundle

SOURCES = [[byte + 3 for byte in text] + [1] for text in (b"some words", b"x", b"another text")]


@pytest.fixture(scope="module", params=["t5-v1.1", "bart"])
def both(
    request: pytest.FixtureRequest,
    variant_of: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Seq2SeqModel, Seq2SeqModel]]:
    """An int8 bundle's canonical graphs, and the lowered ones with two stages."""
    out = tmp_path_factory.mktemp("two") / "bundle"
    options = Options(two_stage_head=True)
    source = lively_bundle(variant_of, request.param)
    result = quantize_bundle(source, out, "int8", options=options, check=False)
    assert result.manifest.quantization["lowering"]["head"] == "64 tokens proposed by 4 bits"
    bundle = Bundle.open(out)
    with (
        Seq2SeqModel(bundle, OrtBackend(bundle, num_threads=1, lowered=False), None) as canonical,
        Seq2SeqModel(bundle, OrtBackend(bundle, num_threads=1), None) as lowered,
    ):
        yield canonical, lowered


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "bans": {"no_repeat_ngram_size": 2},
    "penalties": {"repetition_penalty": 1.3},
    "scores": {"return_scores": True},
    # Next to none of the proposals is left.
    "many bans": {"suppress_tokens": tuple(range(10, 370))},
    "beams": {"num_beams": 3},
    "drafts": {"prompt_lookup_num_tokens": 3},
    "one token": {"max_new_tokens": 1},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_tokens_are_those_of_the_whole_head(
    options: dict[str, Any], both: tuple[Seq2SeqModel, Seq2SeqModel]
) -> None:
    canonical, lowered = both
    options = {"max_new_tokens": 16, **options}
    for source in SOURCES:
        expected = canonical.generate_ids([source], **options)
        found = lowered.generate_ids([source], **options)
        assert [row.token_ids for row in found] == [row.token_ids for row in expected]


def test_suppressed_tokens_take_no_place_among_the_proposals(tmp_path: Path) -> None:
    whisper.make_whisper("tiny", tmp_path / "checkpoint", suppress_tokens=list(range(3, 15)))
    export_unvalidated(tmp_path / "checkpoint", tmp_path / "float32")
    options = Options(two_stage_head=True)
    quantize_bundle(tmp_path / "float32", tmp_path / "int8", "int8", options=options, check=False)
    backend = OrtBackend(Bundle.open(tmp_path / "int8"), num_threads=1)
    features = np.random.default_rng(1).standard_normal((1, 80, 200), np.float32)
    cache = backend.new_cache(backend.encode({"input_features": features}), 16)
    step = Step.allocate(1, 1, 16, vocab_size=whisper.VOCABULARY, only_best=True)
    step.input_ids[:] = whisper.START
    step.attention_mask[..., 0] = True
    cache.forward(step)
    assert step.proposals is not None
    proposed = step.proposals.token_ids[: step.proposals.count]
    assert len(proposed) == 64
    assert not set(proposed) & set(range(3, 15))


def test_small_heads_and_texts_have_one_stage(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    result = quantize_bundle(bundle_of("t5"), tmp_path / "int8", "int8", check=False)
    assert result.manifest.quantization["lowering"]["head"] == "whole"
    assert "If" not in result.manifest.graphs["decoder_cpu"].operators


@pytest.mark.parametrize("source", [[7, 1], SOURCES[0]], ids=["short source", "source"])
@pytest.mark.parametrize("int8_source", [False, True])
def test_the_last_tokens_of_a_prompt_are_scored_as_with_all(
    source: list[int], int8_source: bool, variant_of: Callable[..., Any], tmp_path: Path
) -> None:
    """Also in parts, where int8 keys and values of a short source take fewer tokens at once."""
    options = Options(two_stage_head=True, int8_cross_kv=int8_source)
    bundle = lively_bundle(variant_of, "bart")
    quantize_bundle(bundle, tmp_path / "int8", "int8", options=options, check=False)
    backend = OrtBackend(Bundle.open(tmp_path / "int8"), num_threads=1)
    ids = np.array([source])
    encoded = backend.encode({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    results = []
    for first in (0, 3, 6):
        cache = backend.new_cache(encoded, 16)
        assert cache.scores_last_tokens
        step = cache.step(7, vocab_size=400, logsumexp=True, first_scored=first)
        step.input_ids[:] = step.position_ids[:] = np.arange(7)
        step.attention_mask[0, 0, :, :7] = np.tri(7, dtype=bool)
        cache.forward(step)
        if step.logits is None or step.logsumexp is None:
            raise AssertionError("they were asked for")
        assert step.logits.shape == (1, 7 - first, 400)
        results.append((step.logits[0], step.logsumexp[0]))
    for first, (logits, logsumexp) in zip((3, 6), results[1:], strict=True):
        np.testing.assert_allclose(logits, results[0][0][first:], atol=1e-4)
        np.testing.assert_allclose(logsumexp, results[0][1][first:], atol=1e-4)


def test_a_prompt_is_scored_where_someone_reads_it(
    both: tuple[Seq2SeqModel, Seq2SeqModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []
    forward = SlotCache.forward

    def watched(cache: SlotCache, step: Step) -> None:
        scored.append((step.input_ids.shape[1], step.next_token_ids.shape[1]))
        forward(cache, step)

    monkeypatch.setattr(SlotCache, "forward", watched)
    prefix = tuple(range(40, 60))
    for model in both:
        model.generate_ids(
            [SOURCES[0]], decoder_prefix=prefix, max_new_tokens=2, return_scores=True
        )
    assert scored[0] == (21, 21)
    assert (21, 1) in scored
