"""The distribution that is drawn from, and the whole chain of edits, are transformers' own."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import GenerationMixin
from transformers.generation import logits_process as theirs

from seq2edge.runtime.generation.config import GenerationConfig
from seq2edge.runtime.generation.logits_processors import Context, Rows, build_processors
from seq2edge.runtime.generation.warpers import build_warpers

_VOCAB, _ROWS = 130, 12
EOS = (1, 3)
Scores = np.ndarray[Any, np.dtype[np.float32]]


def random_scores(seed: int) -> Scores:
    """Flat and peaked distributions, some with tokens that are forbidden."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(_ROWS, _VOCAB)) * generator.uniform(0.1, 5, (_ROWS, 1))
    scores[generator.random(scores.shape) < 0.2 * (np.arange(_ROWS)[:, None] % 3)] = -np.inf
    return scores.astype(np.float32)


def warped(scores: Scores, num_beams: int, **options: Any) -> Scores:
    config = GenerationConfig(do_sample=True, num_beams=num_beams, **{"top_k": 0, **options})
    for warp in build_warpers(config, EOS):
        scores = warp(scores)
    return scores


#: transformers' class and its name for the value.
WARPERS: dict[str, tuple[Any, list[float]]] = {
    "temperature": (theirs.TemperatureLogitsWarper, [0.3, 2.5]),
    "top_h": (theirs.TopHLogitsWarper, [1e-3, 0.3, 0.8, 0.99]),
    "top_k": (theirs.TopKLogitsWarper, [1, 2, 9, 129, 500]),
    "top_p": (theirs.TopPLogitsWarper, [1e-4, 0.3, 0.9, 0.999]),
    "min_p": (theirs.MinPLogitsWarper, [0.0, 0.01, 0.3, 1.0]),
    "typical_p": (theirs.TypicalLogitsWarper, [1e-3, 0.2, 0.7, 0.99]),
    "epsilon_cutoff": (theirs.EpsilonLogitsWarper, [1e-4, 0.02, 0.9]),
    "eta_cutoff": (theirs.EtaLogitsWarper, [1e-4, 0.02, 0.9]),
}


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, values) in WARPERS.items() for value in values]
)
def test_a_warper_keeps_what_transformers_keeps(name: str, value: Any, beams: int) -> None:
    make = WARPERS[name][0]
    least = {} if beams == 1 or name in ("temperature", "top_h") else {"min_tokens_to_keep": 3}
    reference = make(value, **least)
    changed = False
    for seed in range(8):
        scores = random_scores(seed)
        expected = reference(None, torch.tensor(scores)).numpy()
        found = warped(scores, beams, **{name: value})
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        changed |= not np.array_equal(expected, scores)
    assert changed == (value not in (0.0, 500))


def test_a_row_without_any_token_stays_so() -> None:
    scores = np.full((2, _VOCAB), -np.inf, np.float32)
    for name, (_, values) in WARPERS.items():
        for value in values:
            for beams in (1, 2):
                with np.errstate(all="raise"):
                    found = warped(scores, beams, renormalize_logits=True, **{name: value})
                assert np.isneginf(found).all(), name


def test_renormalized_scores_of_beams_are_log_probabilities() -> None:
    scores = random_scores(3)
    expected = theirs.LogitNormalization()(None, torch.tensor(scores)).numpy()  # type: ignore[arg-type]
    found = warped(scores, 2, renormalize_logits=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # One hypothesis is not compared with others, so a constant would change nothing.
    assert warped(scores, 1, renormalize_logits=True) is scores


def random_options(rng: random.Random) -> dict[str, Any]:
    """Many options at once; about half of each."""
    options: dict[str, Any] = {
        "sequence_bias": [
            [[rng.randrange(9)], rng.uniform(-4, 4)],
            [[2, 5], 3.0],
            [[7, 2, 5], 9.0],
        ],
        "encoder_repetition_penalty": rng.choice([0.5, 1.7]),
        "repetition_penalty": rng.choice([0.7, 1.3]),
        "no_repeat_ngram_size": rng.choice([1, 2, 3]),
        "encoder_no_repeat_ngram_size": rng.choice([1, 2]),
        "bad_words_ids": [[rng.randrange(9)], [4, rng.randrange(9)], [1]],
        "min_length": rng.randrange(1, 9),
        "min_new_tokens": rng.randrange(0, 9),
        "forced_bos_token_id": rng.choice([[8], [8, 2]]),
        "forced_eos_token_id": [1, 7],
        "remove_invalid_values": True,
        "exponential_decay_length_penalty": [rng.randrange(4), rng.uniform(0.7, 1.6)],
        "suppress_tokens": [rng.randrange(9, _VOCAB) for _ in range(20)],
        "begin_suppress_tokens": [rng.randrange(9)],
        "renormalize_logits": True,
        "do_sample": True,
        "temperature": rng.choice([0.7, 1.8]),
        "top_h": rng.choice([0.4, 0.9]),
        "top_k": rng.choice([0, 5, 20]),
        "top_p": rng.choice([0.5, 0.95]),
        "min_p": rng.choice([0.0, 0.05]),
        "typical_p": rng.choice([0.4, 0.95]),
        "epsilon_cutoff": 0.01,
        "eta_cutoff": 0.02,
        "num_beams": rng.choice([2, 3]),
    }
    chosen = {name: value for name, value in options.items() if rng.random() < 0.5}
    if "remove_invalid_values" in chosen:
        # The decay of what it leaves is infinite, and all that it leaves ties.
        for name in ("exponential_decay_length_penalty", "do_sample"):
            chosen.pop(name, None)
    return chosen


@pytest.mark.parametrize("prompt", [1, 3])
def test_the_whole_chain_edits_scores_as_transformers_does(prompt: int) -> None:
    """All options in transformers' order, for every length of the output."""
    rng, most = random.Random(prompt), 12
    sources = np.array([[5, 6, 8, 5, 1], [2, 7, 2, 3, 4]])
    compared = 0
    for seed in range(60):
        options = random_options(rng)
        config = transformers.GenerationConfig(**{"top_k": 50, "num_beams": 1, **options})
        config._eos_token_tensor = torch.tensor(EOS)
        config.max_length = most
        if config.min_new_tokens is not None:
            config.min_length = config.min_new_tokens + prompt
        reference = GenerationMixin._get_logits_processor(
            SimpleNamespace(  # type: ignore[arg-type]
                config=SimpleNamespace(is_encoder_decoder=True),
                _merge_criteria_processor_list=lambda ours, _theirs: ours,
            ),
            config,
            input_ids_seq_length=prompt,
            encoder_input_ids=torch.tensor(sources),
            device="cpu",
        )
        ours = _frozen(options)
        context = Context(
            sources=sources.tolist(),
            numbers=[0, 1],
            eos=EOS,
            prompt_length=prompt,
            forced_length=prompt,
            max_length=most,
        )
        processors = build_processors(ours, context)
        generator = np.random.default_rng(seed)
        for length in range(prompt, most):
            rows = Rows(generator.integers(0, 9, (4, length)), np.array([0, 0, 1, 1]))
            scores = generator.normal(size=(4, _VOCAB)).astype(np.float32) * 3
            scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
            expected = reference(torch.tensor(rows.token_ids), torch.tensor(scores)).numpy()
            found = processors(rows, scores.copy())
            for warp in build_warpers(ours, EOS):
                found = warp(found)
            if ours.renormalize_logits and ours.num_beams == 1:  # without effect on a choice
                found, expected = (
                    found - found.max(axis=1)[:, None],
                    (expected - expected.max(axis=1)[:, None]),
                )
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=str(options))
            compared += 1
    assert compared == 60 * (most - prompt)


def _frozen(options: dict[str, Any]) -> GenerationConfig:
    """The options as a call checks them."""
    ours = dict(options)
    if "sequence_bias" in ours:
        ours["sequence_bias"] = {tuple(tokens): by for tokens, by in ours["sequence_bias"]}
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        if name in ours:
            ours[name] = tuple(ours[name])
    return GenerationConfig(**ours)
