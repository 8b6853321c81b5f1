"""Decoder prompts and processors of a call's own, prompts' logits, log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import GenerationConfig
from seq2edge.runtime.backends import Backend, load_backend
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.generation import Generator
from seq2edge.runtime.generation.batch import Hypothesis
from seq2edge.runtime.generation.processor import Processor, Rows
from seq2edge.runtime.generation.source import collate
from seq2edge.runtime.kv_cache.slots import PromptLogits
from seq2edge.runtime.numerics import Scores, log_softmax
from seq2edge.runtime.text.sources import TextSource

SOURCES = [TextSource.of([7, 8, 9, 10]), TextSource.of([11, 12, 13]), TextSource.of([20, 9])]
PROMPTS = [(2, 5, 6, 7), (2, 30), (2,)]


class Setting:
    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.backend = backend
        self.generator = Generator(backend, bundle.manifest, None)

    def decode(
        self, numbers: list[int], prompt_logits: PromptLogits | None = None, **options: Any
    ) -> list[list[Hypothesis]]:
        own = {name: options.pop(name) for name in ("processors", "logprobs") if name in options}
        sources = [SOURCES[number] for number in numbers]
        call = self.generator.prepare(
            GenerationConfig(**{"max_new_tokens": 12, **options}),
            sources,
            prompts=[PROMPTS[number] for number in numbers],
            **own,
        )
        encoded = self.backend.encode(collate(sources, 1))
        return self.generator.decode(call, encoded, prompt_logits=prompt_logits)


@pytest.fixture(scope="module")
def setting(bundle_of: Callable[[str], Path]) -> Iterator[Setting]:
    bundle = Bundle.open(bundle_of("bart-odd"))
    backend = load_backend(bundle, num_threads=1)
    yield Setting(bundle, backend)
    backend.close()


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"repetition_penalty": 1.4}])
def test_each_source_continues_its_own_prompt(setting: Setting, options: dict[str, Any]) -> None:
    together = setting.decode([0, 1, 2], **options)
    for number, found in enumerate(together):
        alone = GenerationConfig(max_new_tokens=12, decoder_prefix=PROMPTS[number][1:], **options)
        call = setting.generator.prepare(alone, [SOURCES[number]])
        ((expected,),) = setting.generator.run(call)
        prefix = len(PROMPTS[number]) - 1
        assert found[0].token_ids == expected.token_ids[prefix:]


@pytest.mark.parametrize("beams", [1, 2])
def test_logits_of_a_place_in_each_prompt(setting: Setting, beams: int) -> None:
    """Those after a prompt that ends there."""
    logits = PromptLogits([1, 0, 0])
    setting.decode([0, 1, 2], logits, num_beams=beams)
    assert logits.values is not None
    for number, place in enumerate(logits.places):
        last = PromptLogits([place])
        cut = PROMPTS[number][: place + 1]
        call = setting.generator.prepare(
            GenerationConfig(max_new_tokens=1), [SOURCES[number]], prompts=[cut]
        )
        encoded = setting.backend.encode(collate([SOURCES[number]], 1))
        setting.generator.decode(call, encoded, prompt_logits=last)
        assert last.values is not None
        np.testing.assert_allclose(logits.values[number], last.values[0], atol=1e-4)


class NoneOf:
    """Forbids tokens after the prompt, and notes its length."""

    def __init__(self, length: int, tokens: list[int]) -> None:
        self.length, self._tokens = length, tokens

    def __call__(self, rows: Rows, scores: Scores) -> Scores:
        assert rows.token_ids.shape[1] >= self.length
        scores[:, self._tokens] = -np.inf
        return scores


@pytest.mark.parametrize("beams", [1, 3])
def test_processors_are_made_for_each_length(setting: Setting, beams: int) -> None:
    plain = setting.decode([0, 1, 2], num_beams=beams)
    banned = sorted({row[0].token_ids[0] for row in plain})
    lengths = []

    def make(length: int) -> Processor:
        lengths.append(length)
        return NoneOf(length, banned)

    found = setting.decode([0, 1, 2], processors=[make], num_beams=beams)
    assert sorted(lengths) == [1, 2, 4]
    assert not {token for row in found for token in row[0].token_ids} & set(banned)


def test_logprob_is_the_score_of_greedy_decoding(setting: Setting) -> None:
    (found,), _, _ = setting.decode([0, 1, 2], logprobs=True, return_scores=True)
    assert found.logprob == pytest.approx(found.score, abs=1e-4)


def test_logprob_of_samples_is_that_at_temperature_1(setting: Setting) -> None:
    options = {"do_sample": True, "temperature": 0.01, "top_k": 0, "seed": 1}
    ((found,),) = setting.decode([0], logprobs=True, **options)
    ((greedy,),) = setting.decode([0], logprobs=True)
    assert found.token_ids == greedy.token_ids
    assert found.logprob == pytest.approx(greedy.logprob, abs=1e-4)


def test_logprob_of_beams_is_renormalized_after_processors(setting: Setting) -> None:
    """Their scores are not, as in transformers."""
    banned = list(range(100, 300))
    ((found, *_),) = setting.decode(
        [0], logprobs=True, processors=[lambda n: NoneOf(n, banned)], num_beams=3, length_penalty=0
    )
    ((plain, *_),) = setting.decode([0], logprobs=True, num_beams=3, length_penalty=0)
    assert plain.logprob == pytest.approx(plain.score, abs=1e-4)
    assert found.logprob > found.score + 0.1
    assert found.logprob == pytest.approx(
        _forced_logprob(setting, found.token_ids, banned), abs=1e-3
    )


def _forced_logprob(setting: Setting, tokens: list[int], banned: list[int]) -> float:
    """Log-probability of ``tokens`` with ``banned`` ones left out, one call for each."""
    total = 0.0
    for place, token in enumerate(tokens):
        prompt = (*PROMPTS[0], *tokens[:place])
        logits = PromptLogits([len(prompt) - 1])
        call = setting.generator.prepare(
            GenerationConfig(max_new_tokens=1), SOURCES[:1], prompts=[prompt]
        )
        encoded = setting.backend.encode(collate(SOURCES[:1], 1))
        setting.generator.decode(call, encoded, prompt_logits=logits)
        assert logits.values is not None
        logits.values[:, banned] = -np.inf
        total += float(log_softmax(logits.values)[0, token])
    return total


def test_patience_ends_a_search_when_so_many_sequences_are_complete(setting: Setting) -> None:
    """With an end token that is always likely, few steps are taken; more patience, more of them."""
    steps: list[int] = []

    class Ends:
        def __init__(self, length: int) -> None:
            self._length = length

        def __call__(self, rows: Rows, scores: Scores) -> Scores:
            steps.append(rows.token_ids.shape[1])
            scores[:, 2] = scores.max(axis=1) - 1e-3
            return scores

    counts = []
    for patience in (1.0, 3.0):
        steps.clear()
        setting.decode([0], processors=[Ends], num_beams=2, patience=patience)
        counts.append(len(steps))
    assert counts[0] < counts[1] < 12
