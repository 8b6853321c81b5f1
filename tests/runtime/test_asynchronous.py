"""Models in asyncio: the loop goes on, results are the same, cancellation ends the work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seq2edge.export import export_checkpoint
from seq2edge.runtime import InputError, Seq2SeqModel

ROOT = Path(__file__).parents[2]
WORDS = ["keyboard", "february", "humanoid"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seq2SeqModel]:
    path = tmp_path_factory.mktemp("demo") / "g2p.bundle"
    export_checkpoint(ROOT / "examples" / "g2p" / "model", path, validate=False)
    with Seq2SeqModel.load(path) as loaded:
        yield loaded


def test_results_are_those_of_generate(model: Seq2SeqModel) -> None:
    found = asyncio.run(model.agenerate(WORDS, num_beams=2))
    assert found == model.generate(WORDS, num_beams=2)


def test_the_loop_goes_on_while_a_model_works(model: Seq2SeqModel) -> None:
    async def both() -> list[str]:
        order = []

        async def tick() -> None:
            order.append("tick")
            await asyncio.sleep(0)
            order.append("tick")

        async def work() -> None:
            await model.agenerate("keyboard", max_new_tokens=64, min_new_tokens=64)
            order.append("done")

        await asyncio.gather(work(), tick())
        return order

    assert asyncio.run(both()) == ["tick", "tick", "done"]


def test_several_at_once_are_right(model: Seq2SeqModel) -> None:
    async def all_at_once() -> list[str | None]:
        found = await asyncio.gather(*(model.agenerate(word) for word in WORDS * 4))
        return [results[0].text for results in found]

    assert asyncio.run(all_at_once()) == [r.text for r in model.generate(WORDS * 4)]


def test_pieces_are_those_of_stream(model: Seq2SeqModel) -> None:
    async def pieces() -> tuple[list[str], str | None]:
        stream = model.astream("keyboard")
        found = [piece async for piece in stream]
        assert stream.result is not None
        return found, stream.result.text

    assert asyncio.run(pieces()) == (
        list(model.stream("keyboard")),
        model.generate("keyboard")[0].text,
    )


def counting() -> tuple[Callable[..., object], threading.Event, list[int]]:
    """A processor that counts the steps and says when the first one is there."""
    begun, steps = threading.Event(), [0]

    def count(_: object, scores: object) -> object:
        steps[0] += 1
        begun.set()
        return scores

    return count, begun, steps


@pytest.mark.parametrize("kind", ["agenerate", "astream"])
def test_a_cancelled_task_ends_the_work(model: Seq2SeqModel, kind: str) -> None:
    count, begun, steps = counting()

    async def run() -> None:
        options = {
            "max_new_tokens": 5000,
            "min_new_tokens": 5000,
            "logits_processors": (count,),
        }
        if kind == "agenerate":
            work = asyncio.ensure_future(model.agenerate("keyboard", **options))  # type: ignore[arg-type]
        else:

            async def whole() -> list[str]:
                return [p async for p in model.astream("keyboard", **options)]  # type: ignore[arg-type]

            work = asyncio.ensure_future(whole())  # type: ignore[arg-type]
        await asyncio.to_thread(begun.wait)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        # The thread has ended: nothing counts on.
        ended = steps[0]
        await asyncio.sleep(0.05)
        assert steps[0] == ended < 5000

    asyncio.run(run())
    assert model.generate("keyboard")[0].finish_reason == "eos"


def test_a_closed_stream_makes_no_more_pieces(model: Seq2SeqModel) -> None:
    async def run() -> list[str]:
        stream = model.astream("keyboard")
        first = await stream.__anext__()
        await stream.aclose()
        assert stream.result is None
        return [first, *[piece async for piece in stream]]

    assert asyncio.run(run()) == list(model.stream("keyboard"))[:1]


def test_errors_come_to_who_waits(model: Seq2SeqModel) -> None:
    with pytest.raises(InputError, match="num_beams"):
        asyncio.run(model.agenerate("keyboard", num_beams=0))

    async def pieces() -> list[str]:
        return [piece async for piece in model.astream(" ")]

    with pytest.raises(InputError, match="empty"):
        asyncio.run(pieces())
