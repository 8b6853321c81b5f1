"""Workers that share out a list give what one gives, in the same order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import InputError, Seq2SeqModel

from .copying import lively_bundle
from .test_batches import TEXTS, WAYS

MANY = [f"{text} {number}" for number in range(3) for text in TEXTS]


@pytest.fixture(scope="module")
def bundle(variant_of: Callable[..., Any]) -> Path:
    return lively_bundle(variant_of, "t5-v1.1")


@pytest.fixture(scope="module")
def one(bundle: Path) -> Iterator[Seq2SeqModel]:
    with Seq2SeqModel.load(bundle, num_threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def three(bundle: Path) -> Iterator[Seq2SeqModel]:
    with Seq2SeqModel.load(bundle, num_workers=3, num_threads=1) as model:
        yield model


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_workers_give_what_each_text_gives_alone(
    way: dict[str, Any], one: Seq2SeqModel, three: Seq2SeqModel
) -> None:
    way = {"max_new_tokens": 24, **way}
    expected = [row for text in MANY for row in one.generate(text, **way)]
    for size in (None, 5, 1):
        calls: list[tuple[int, int]] = []
        found = three.generate(
            MANY, batch_size=size, progress=lambda *at, calls=calls: calls.append(at), **way
        )
        assert [row.text for row in found] == [row.text for row in expected]
        results = len(found) // len(MANY)
        assert [row.source for row in found] == [
            number for number in range(len(MANY)) for _ in range(results)
        ]
        assert calls[-1] == (len(MANY), len(MANY)) and calls == sorted(calls)


def test_the_texts_are_on_several_threads_at_once(three: Seq2SeqModel) -> None:
    barrier, threads = threading.Barrier(3), set[int]()

    def meets(_source: int, tokens: np.ndarray) -> list[int]:
        if len(tokens) == 1 and threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            barrier.wait(30)  # broken unless three are here
        return [1]

    three.generate(TEXTS, prefix_allowed_tokens=meets)
    assert len(threads) == 3


def test_an_error_ends_all_workers_and_is_raised(three: Seq2SeqModel) -> None:
    def broken(source: int, tokens: np.ndarray) -> list[int]:
        if source == 4 and len(tokens) > 3:
            raise ZeroDivisionError("their own")
        return [100]

    with pytest.raises(ZeroDivisionError, match="their own"):
        three.generate(TEXTS, prefix_allowed_tokens=broken, max_new_tokens=150)
    assert not any(thread.name.startswith("seq2edge-worker") for thread in threading.enumerate())
    assert len(three.generate(TEXTS, max_new_tokens=4)) == len(TEXTS)


def test_cancelling_ends_all_workers(three: Seq2SeqModel, one: Seq2SeqModel) -> None:
    found = three.generate(MANY, batch_size=6, cancelled=lambda: True)
    assert len(found) == len(MANY)
    assert {row.finish_reason for row in found} <= {"cancelled", "eos"}
    whole = one.generate(MANY)
    for row, full in zip(found, whole, strict=True):
        assert row.token_ids == full.token_ids[: len(row.token_ids)]


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_a_number_of_workers_below_1_is_refused(count: Any, bundle: Path) -> None:
    with pytest.raises(InputError, match="num_workers must be an integer of at least 1"):
        Seq2SeqModel.load(bundle, num_workers=count)
