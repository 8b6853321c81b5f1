"""One model, several threads: each call is alone, also beside calls that fail or are cancelled."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import Choices, Generation, InputError, Regex, Seq2SeqModel

from .copying import ENDS, lively_bundle

THREADS, CALLS = 8, 200
#: What a call decodes; several texts are a batch.
SOURCES = (["x"], ["three words here"], ["abc abc abc"], ["a text", "another, longer one", "y"])
#: Options of a call; "stream" stands for the model's other method.
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 8},
    "scores": {"max_new_tokens": 6, "return_scores": True, "no_repeat_ngram_size": 2},
    "beams": {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 2},
    "samples": {"max_new_tokens": 5, "do_sample": True, "seed": 3, "num_return_sequences": 2},
    "lookup": {"max_new_tokens": 12, "prompt_lookup_num_tokens": 4},
    "choices": {"max_new_tokens": 9, "constraint": Choices(("yes", "no", "maybe"))},
    "choices by beams": {
        "max_new_tokens": 9,
        "num_beams": 2,
        "constraint": Choices(("yes", "no", "maybe")),
    },
    "regex": {"max_new_tokens": 6, "constraint": Regex("[a-c]{3}")},
    "stream": {"max_new_tokens": 8},
}
Job = tuple[str, int]
JOBS: list[Job] = list(product(WAYS, range(len(SOURCES))))


@pytest.fixture(scope="module")
def bundle(variant_of: Callable[..., Any]) -> Path:
    return lively_bundle(variant_of, "t5-v1.1")


@pytest.fixture(scope="module")
def expected(bundle: Path) -> dict[Job, list[Generation]]:
    """What each job gives one after the other, from another load of the bundle."""
    pytest.importorskip("llguidance")
    with Seq2SeqModel.load(bundle) as model:
        return {job: do(model, job) for job in JOBS}


@pytest.fixture
def model(bundle: Path) -> Iterator[Seq2SeqModel]:
    """A fresh one: what it builds at the first use is not there yet."""
    with Seq2SeqModel.load(bundle) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def shared(bundle: Path) -> Iterator[Seq2SeqModel]:
    """One for all tests: whatever happens to it, it must go on working."""
    with Seq2SeqModel.load(bundle) as loaded:
        yield loaded


@pytest.fixture(autouse=True)
def _switch_threads_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def do(model: Seq2SeqModel, job: Job, **more: Any) -> list[Generation]:
    """The results of a job; ``more`` are further options, or ``cancelled``."""
    name, number = job
    cancelled = more.pop("cancelled", None)
    config = replace(model.generation_config, **WAYS[name], **more)
    if name != "stream":
        return model.generate(SOURCES[number], config, cancelled=cancelled)
    results = []
    for text in SOURCES[number]:
        stream = model.stream(text, config)
        pieces = "".join(stream)
        assert pieces == stream.result.text
        results.append(stream.result)
    return results


def together(threads: int, work: Callable[[int], None]) -> None:
    """Run ``work(0)`` to ``work(threads - 1)`` at once, and raise what one of them raises."""
    barrier = Barrier(threads)

    def start(number: int) -> None:
        barrier.wait()
        work(number)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(start, range(threads)))


def shuffled(jobs: list[Job], count: int, seed: int) -> list[Job]:
    """``count`` of ``jobs``, each as often as the others."""
    repeated = (jobs * -(-count // len(jobs)))[:count]
    return random.Random(seed).sample(repeated, count)


def failing(kind: type[BaseException], after: int) -> dict[str, Any]:
    """A processor that raises when ``after`` tokens were generated."""

    def fail(token_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        scores[:] = np.nan  # it also leaves a mess behind
        if token_ids.shape[1] > after:
            raise kind("from the processor")
        return np.zeros_like(scores)

    return {"logits_processors": (fail,)}


#: Jobs that run logits processors of the caller's own, which can fail.
FALLIBLE = [job for job in JOBS if "choices" not in job[0] and job[0] != "regex"]


class OwnError(Exception):
    """What failing processors raise."""


def mishap(model: Seq2SeqModel, job: Job, kind: int) -> None:
    """A call of some kind that does not end well, checked to do just that."""
    if kind == 0:
        with pytest.raises(OwnError):
            do(model, job, **failing(OwnError, 2))
    elif kind == 1:
        answers = iter([False, False])
        found = do(model, ("greedy", job[1]), cancelled=lambda: next(answers, True))
        assert {row.finish_reason for row in found} <= {"cancelled", "eos"}
        assert max(len(row.token_ids) for row in found) == 3
    elif kind == 2:
        with pytest.raises(InputError, match="no token may follow"):
            do(model, job, prefix_allowed_tokens=lambda *_: [])
    else:
        stream = model.stream("left behind", replace(model.generation_config, min_new_tokens=20))
        next(stream)
        stream.close()


def test_the_jobs_have_different_results(expected: dict[Job, list[Generation]]) -> None:
    found = {tuple(tuple(row.token_ids) for row in rows) for rows in expected.values()}
    assert len(found) > len(JOBS) // 2
    chosen = [row.text for number in range(4) for row in expected["choices", number]]
    assert {*chosen} <= {"yes", "no", "maybe"}
    assert all(row.finish_reason is not None for rows in expected.values() for row in rows)


def test_8_threads_of_200_calls_give_what_calls_give_one_after_the_other(
    model: Seq2SeqModel, expected: dict[Job, list[Generation]]
) -> None:
    right: list[Job] = []

    def work(thread: int) -> None:
        for job in shuffled(JOBS, CALLS, thread):
            assert do(model, job) == expected[job], job
            right.append(job)

    together(THREADS, work)
    assert len(right) == THREADS * CALLS


def test_calls_that_fail_or_are_cancelled_disturb_no_other(
    model: Seq2SeqModel, expected: dict[Job, list[Generation]]
) -> None:
    def work(thread: int) -> None:
        for turn, job in enumerate(shuffled(JOBS, 60, thread)):
            assert do(model, job) == expected[job], job
            if thread % 2:
                mishap(model, FALLIBLE[(turn * 7 + thread) % len(FALLIBLE)], turn % 4)

    together(4, work)
    for job in JOBS:
        assert do(model, job) == expected[job], job


def test_threads_may_cancel_each_others_calls(
    model: Seq2SeqModel, expected: dict[Job, list[Generation]]
) -> None:
    """Half of the threads decode without an end until the others are done."""
    workers = 2
    done: list[int] = []
    endless = replace(
        model.generation_config, max_new_tokens=100_000, suppress_tokens=(1, *ENDS), max_time=60.0
    )

    def work(thread: int) -> None:
        if thread < workers:
            for job in shuffled(JOBS, 20, thread):
                assert do(model, job) == expected[job], job
            done.append(thread)
            return
        (found,) = model.generate("x", endless, cancelled=lambda: len(done) == workers)
        assert found.finish_reason == "cancelled"
        assert 1 < len(found.token_ids) < 100_000

    together(2 * workers, work)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, OwnError])
@pytest.mark.parametrize("name", ["greedy", "scores", "beams", "samples", "lookup", "stream"])
@pytest.mark.parametrize("after", [0, 2])
def test_what_a_processor_raises_is_passed_on_and_leaves_the_model_usable(
    shared: Seq2SeqModel,
    expected: dict[Job, list[Generation]],
    kind: type[BaseException],
    name: str,
    after: int,
) -> None:
    for number in range(len(SOURCES)):
        with pytest.raises(kind, match="from the processor"):
            do(shared, (name, number), **failing(kind, after))
        assert do(shared, (name, number)) == expected[name, number]


@pytest.mark.parametrize("name", ["greedy", "beams", "samples", "lookup"])
def test_an_interrupt_in_the_callers_other_functions_leaves_the_model_usable(
    shared: Seq2SeqModel, expected: dict[Job, list[Generation]], name: str
) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    job = name, len(SOURCES) - 1
    config = replace(shared.generation_config, **WAYS[name])
    for function in ("cancelled", "progress"):
        with pytest.raises(KeyboardInterrupt):
            shared.generate(SOURCES[-1], config, batch_size=2, **{function: interrupt})
        assert do(shared, job) == expected[job]
    with pytest.raises(KeyboardInterrupt):
        do(shared, job, prefix_allowed_tokens=interrupt)
    assert do(shared, job) == expected[job]
