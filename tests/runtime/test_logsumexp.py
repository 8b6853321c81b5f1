"""Scores are the summed log-probabilities that PyTorch gives to the generated tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seq2edge.runtime import Seq2SeqModel

VariantOf = Callable[..., tuple[Path, Path]]


def log_probabilities(
    reference: Any, source: list[int], start: int, tokens: list[int]
) -> torch.Tensor:
    """PyTorch's log-probability of each of ``tokens``, teacher-forced."""
    with torch.inference_mode():
        logits = reference(
            input_ids=torch.tensor([source]),
            decoder_input_ids=torch.tensor([[start, *tokens[:-1]]]),
            use_cache=False,
        ).logits[0]
    return logits.double().log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]


@pytest.mark.parametrize(
    ("shape", "sources", "start", "count"),
    [
        ("t5-v1.1", [[200, 13, 77, 150, 22, 1], [300, 301, 9, 9, 1, 0]], 0, 90),
        ("bart-scaled", [[0, 7, 8, 9, 2], [0, 90, 91, 2, 1]], 2, 79),
    ],
)
def test_score_is_the_sum_of_pytorchs_log_probabilities(
    shape: str,
    sources: list[list[int]],
    start: int,
    count: int,
    variant_of: VariantOf,
    reference_of: Callable[[Path], Any],
) -> None:
    checkpoint, bundle = variant_of(shape)
    reference = reference_of(checkpoint)
    with Seq2SeqModel.load(bundle) as model:
        found = model.generate_ids(
            sources,
            max_new_tokens=count,
            config=replace(model.generation_config, return_scores=True),
        )
        without = model.generate_ids(sources, max_new_tokens=count)
    for source, row, plain in zip(sources, found, without, strict=True):
        real = [token for token in source if token != reference.config.pad_token_id]
        expected = log_probabilities(reference, real, start, row.token_ids).sum()
        assert row.score == pytest.approx(float(expected), abs=1e-3)
        assert plain.score is None
        assert row.token_ids == plain.token_ids


def test_prefix_and_forced_tokens_count_nothing(
    variant_of: VariantOf, reference_of: Callable[[Path], Any]
) -> None:
    checkpoint, bundle = variant_of("bart-scaled", forced_bos_token_id=5, forced_eos_token_id=2)
    reference, source = reference_of(checkpoint), [0, 7, 8, 9, 2]
    with Seq2SeqModel.load(bundle) as model:
        forced = model.generate_ids(
            [source], max_new_tokens=10, config=replace(model.generation_config, return_scores=True)
        )[0]
        prefixed = model.generate_ids(
            [source],
            max_new_tokens=10,
            config=replace(model.generation_config, decoder_prefix=[9, 10, 11], return_scores=True),
        )[0]
    assert (forced.token_ids[0], forced.token_ids[-1], len(forced.token_ids)) == (5, 2, 10)
    expected = log_probabilities(reference, source, 2, forced.token_ids)
    assert forced.score == pytest.approx(float(expected[1:-1].sum()), abs=1e-3)
    assert prefixed.token_ids[:3] == [9, 10, 11]
    expected = log_probabilities(reference, source, 2, prefixed.token_ids)
    assert prefixed.score == pytest.approx(float(expected[3:-1].sum()), abs=1e-3)
