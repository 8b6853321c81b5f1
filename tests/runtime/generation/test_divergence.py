"""KL divergence, over the logits that PyTorch gives for the same fed tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import Bundle
from seq2edge.runtime.backends import load_backend
from seq2edge.runtime.generation import divergence
from seq2edge.runtime.generation.divergence import (
    TokenPair,
    divergences,
    kl_divergence,
    log_softmax,
    next_token_logits,
)

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


def test_all_tokens_of_all_pairs_are_compared(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    quantize_bundle(bundle_of("bart"), tmp_path / "int4", "int4", check=False)
    bundles = [Bundle.open(path) for path in (bundle_of("bart"), tmp_path / "int4")]
    engines = [load_backend(bundle, num_threads=1) for bundle in bundles]
    manifest = bundles[0].manifest
    pairs = [PAIR, TokenPair([4, 3, 1], [9, 1]), TokenPair([4, 1], [])]
    same, other = divergences(engines[0], engines, manifest, pairs)
    assert (same.mean_kl, same.max_kl, same.agreements, same.positions) == (0, 0, 9, 9)
    terms, best, entropies = [], 0, []
    for pair in pairs[:2]:
        p, q = (
            log_softmax(np.concatenate(list(next_token_logits(backend, manifest, pair))))
            for backend in engines
        )
        terms += (np.exp(p) * (p - q)).sum(axis=1).tolist()
        entropies += (-np.exp(p) * p).sum(axis=1).tolist()
        best += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
    assert len(terms) == 9
    assert other.mean_kl == pytest.approx(np.mean(terms), rel=1e-9)
    assert other.max_kl == pytest.approx(np.max(terms), rel=1e-9)
    assert other.mean_entropy == pytest.approx(np.mean(entropies), rel=1e-9)
    assert other.agreements == best
    assert 0 < other.mean_kl < other.max_kl
    assert np.isnan(divergences(engines[0], engines[1:], manifest, pairs[2:])[0].mean_kl)
    for backend in engines:
        backend.close()


def test_the_divergence_of_known_distributions() -> None:
    p, q = np.array([[0.5, 0.5, 0.0]]), np.array([[0.25, 0.5, 0.25]])
    with np.errstate(divide="ignore"):
        logits = [np.log(found) + 100 for found in (p, q)]  # logits need not be normalized
    expected, found = map(log_softmax, logits)
    assert kl_divergence(expected, found) == pytest.approx(0.5 * np.log(2))
    # A token that the variant calls impossible and the reference takes is infinitely far off.
    assert kl_divergence(found, expected) == np.inf


def test_small_divergences_are_not_rounded_away() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(1, 32128)) * 3
    shift = 1e-4 * random.normal(size=logits.shape)
    found = kl_divergence(log_softmax(logits), log_softmax(logits + shift))[0]
    p = np.exp(log_softmax(logits))
    variance = (p * shift**2).sum() - (p * shift).sum() ** 2
    assert found == pytest.approx(variance / 2, rel=0.01)
