"""KL divergence, over the logits that PyTorch gives for the same fed tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seq2edge.benchmarks.quality import divergence
from seq2edge.benchmarks.quality.divergence import (
    TokenPair,
    log_softmax,
    mean_divergences,
    next_token_logits,
)
from seq2edge.runtime import Bundle
from seq2edge.runtime.backends import load_backend

PAIR = TokenPair([17, 5, 99, 42, 1], [7, 300, 12, 12, 55, 8, 1])


@pytest.mark.parametrize("shape", ["t5", "bart"])
@pytest.mark.parametrize("chunk", [None, 3 * 400], ids=["whole", "chunks"])
def test_logits_are_those_of_pytorch(
    shape: str,
    chunk: int | None,
    bundle_of: Callable[[str], Path],
    checkpoint_of: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from transformers import AutoModelForSeq2SeqLM

    if chunk is not None:
        monkeypatch.setattr(divergence, "_LOGITS", chunk)
    bundle = Bundle.open(bundle_of(shape))
    backend = load_backend(bundle, num_threads=1)
    parts = list(next_token_logits(backend, bundle.manifest, PAIR))
    backend.close()
    assert len(parts) == (1 if chunk is None else 3)

    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint_of(shape)).eval()
    fed = [model.config.decoder_start_token_id, *PAIR.target[:-1]]
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([PAIR.source]), decoder_input_ids=torch.tensor([fed]))
    np.testing.assert_allclose(np.concatenate(parts), output.logits[0].numpy(), atol=2e-4)


def test_the_mean_is_over_all_tokens(reference_bundle: Path, variant_bundle: Path) -> None:
    bundles = [Bundle.open(path) for path in (reference_bundle, variant_bundle)]
    engines = [load_backend(bundle, num_threads=1) for bundle in bundles]
    manifest = bundles[0].manifest
    pairs = [PAIR, TokenPair([4, 3, 1], [9, 1]), TokenPair([4, 1], [])]
    same, other = mean_divergences(engines[0], engines, manifest, pairs)
    assert same == 0
    terms = []
    for pair in pairs[:2]:
        p, q = (
            log_softmax(np.concatenate(list(next_token_logits(backend, manifest, pair))))
            for backend in engines
        )
        terms += (np.exp(p) * (p - q)).sum(axis=1).tolist()
    assert len(terms) == 9
    assert other == pytest.approx(np.mean(terms), rel=1e-9)
    assert 0 < other < 1
    assert np.isnan(mean_divergences(engines[0], engines[1:], manifest, pairs[2:])).all()
    for backend in engines:
        backend.close()


def test_the_divergence_of_known_distributions() -> None:
    p, q = np.array([[0.5, 0.5, 0.0]]), np.array([[0.25, 0.5, 0.25]])
    with np.errstate(divide="ignore"):
        logits = [np.log(found) + 100 for found in (p, q)]  # logits need not be normalized
    expected, found = map(log_softmax, logits)
    assert divergence.divergence(expected, found) == pytest.approx(0.5 * np.log(2))
    # A token that the variant calls impossible and the reference takes is infinitely far off.
    assert divergence.divergence(found, expected) == np.inf


def test_small_divergences_are_not_rounded_away() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(1, 32128)) * 3
    shift = 1e-4 * random.normal(size=logits.shape)
    found = divergence.divergence(log_softmax(logits), log_softmax(logits + shift))[0]
    p = np.exp(log_softmax(logits))
    variance = (p * shift**2).sum() - (p * shift).sum() ** 2
    assert found == pytest.approx(variance / 2, rel=0.01)
