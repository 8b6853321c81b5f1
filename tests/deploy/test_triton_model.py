"""The model that ``seq2edge triton`` writes, run as Triton runs one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.deploy.triton.numpy_support import check_numpy
from seq2edge.runtime import BackendError

from .conftest import WORDS
from .fake_triton import FakeTriton, TritonError

Triton = Callable[..., tuple[FakeTriton, Any]]


def test_one_response_has_the_bundles_text(triton: Triton, spoken: dict[str, str]) -> None:
    fake, model = triton()
    request = fake.request("keyboard")
    fake.execute(model, [request])
    assert [response.values for response in request.responses] == [
        {"text_output": spoken["keyboard"], "finish_reason": "eos"}
    ]


def test_streamed_pieces_are_the_text(triton: Triton, spoken: dict[str, str]) -> None:
    fake, model = triton()
    request = fake.request("keyboard", stream=True)
    fake.execute(model, [request])
    assert request.text == spoken["keyboard"]
    *pieces, end = request.responses
    assert len(pieces) > 2
    assert all(list(piece.values) == ["text_output"] for piece in pieces)
    assert end.values == {"text_output": "", "finish_reason": "eos"}


def test_waiting_requests_are_one_batch(
    triton: Triton, spoken: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, model = triton()
    calls = []
    generate = model._model.generate
    monkeypatch.setattr(
        model._model,
        "generate",
        lambda texts, *a, **k: calls.append(texts) or generate(texts, *a, **k),
    )
    requests = [fake.request(word) for word in WORDS]
    fake.execute(model, requests)
    assert [request.text for request in requests] == [spoken[word] for word in WORDS]
    assert calls == [WORDS]


def test_streams_take_turns(triton: Triton, spoken: dict[str, str]) -> None:
    fake, model = triton()
    first, second = (fake.request(word, stream=True) for word in WORDS[:2])
    fake.execute(model, [first, second])
    assert fake.log[:4] == [first, second, first, second]
    assert (first.text, second.text) == (spoken[WORDS[0]], spoken[WORDS[1]])


def test_nobody_gets_more_tokens_than_the_model_is_configured_for(triton: Triton) -> None:
    """Found by mutated requests: one of a million tokens kept the model from all others."""
    fake, model = triton(max_new_tokens="5")
    most = fake.request("keyboard", max_new_tokens=5, min_new_tokens=5)
    more = fake.request("keyboard", max_new_tokens=6, stream=True)
    shortest = fake.request("keyboard", min_new_tokens=6)
    silent = fake.request("keyboard")
    fake.execute(model, [most, more, shortest, silent])
    assert most.responses[-1].values["finish_reason"] == "length"
    for request in (more, shortest):
        assert "is more than the 5 allowed here" in str(request.responses[-1].error)
    assert silent.responses[-1].values["finish_reason"] == "length"
    assert silent.text == most.text


def test_options_are_the_requests_own(triton: Triton, spoken: dict[str, str]) -> None:
    fake, model = triton()
    short = fake.request("keyboard", max_new_tokens=2)
    beams = fake.request("keyboard", num_beams=4)
    plain = fake.request("keyboard")
    fake.execute(model, [short, beams, plain])
    assert short.last["finish_reason"] == "length"
    assert spoken["keyboard"].startswith(short.text.strip())
    assert beams.last["score"] < 0
    assert plain.text == spoken["keyboard"]
    assert "score" not in plain.last


def test_a_choice_constrains_the_text(triton: Triton) -> None:
    fake, model = triton()
    request = fake.request("keyboard", choices=["K IY B AO R D", "B"])
    fake.execute(model, [request])
    assert request.text in ("K IY B AO R D", "B")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "empty"),
        (b"\xff", {}, "not UTF-8"),
        ("keyboard", {"num_beans": 4}, "unknown option 'num_beans'"),
        ("keyboard", {"num_beams": 0}, "num_beams must be at least 1"),
        ("keyboard", {"num_beams": 2, "num_return_sequences": 2}, "one result"),
        ("keyboard", {"logits_processors": []}, "unknown option"),
        ("keyboard", {"draft_model": "small"}, "unknown option"),
        ("keyboard", {"regex": "a", "choices": ["a"]}, "give one of them"),
        ("keyboard", {"choices": "abc"}, "must be a JSON array"),
        ("keyboard", {"sequence_bias": {"a": 1}}, "'a' is none"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_wrong_request_fails_alone(
    triton: Triton,
    spoken: dict[str, str],
    text: str | bytes,
    options: dict[str, Any],
    message: str,
    stream: bool,
) -> None:
    fake, model = triton()
    wrong = fake.request(text, stream=stream, **options)
    right = fake.request("keyboard", stream=stream)
    fake.execute(model, [wrong, right])
    error = wrong.error
    assert error is not None
    assert message in str(error)
    assert error.code == TritonError.INVALID_ARG
    assert right.text == spoken["keyboard"]


def test_several_texts_in_one_request_are_refused(triton: Triton) -> None:
    fake, model = triton()
    request = fake.request("keyboard")
    request.inputs["text_input"] = np.array([[b"a"], [b"b"]], np.object_)
    fake.execute(model, [request])
    assert "send a request for each" in str(request.error)


def test_parameters_that_are_no_json_are_refused(triton: Triton) -> None:
    fake, model = triton()
    request = fake.request("keyboard")
    request.inputs["sampling_parameters"] = np.array([[b"{"]], np.object_)
    fake.execute(model, [request])
    assert "sampling_parameters is not valid JSON" in str(request.error)
    request = fake.request("keyboard")
    request.inputs["sampling_parameters"] = np.array([[b"[" * 100_000]], np.object_)
    fake.execute(model, [request])
    assert "nested too deeply" in str(request.error)


def test_request_parameters_are_options_too(triton: Triton, spoken: dict[str, str]) -> None:
    fake, model = triton()
    short, choice, mine = (fake.request("keyboard") for _ in range(3))
    short.given = {"max_new_tokens": 2, "triton_enable_empty_final_response": True}
    choice.given = {"choices": '["B AO R D", "B"]'}
    mine.given = {"id": "mine"}
    fake.execute(model, [short, choice, mine])
    assert short.last["finish_reason"] == "length"
    assert choice.text in ("B AO R D", "B")
    assert mine.text == spoken["keyboard"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_beans": 4}, "unknown option 'num_beans'"),
        ({"priority": 1}, "unknown option 'priority'"),
        ({"draft_model": "small.bundle"}, "unknown option 'draft_model'"),
        ({"max_new_tokens": 3}, "max_new_tokens is given twice"),
        ({"stop_strings": "a"}, "stop_strings (a string of JSON) is not valid JSON"),
    ],
)
def test_a_parameter_that_is_no_option_is_refused(
    triton: Triton, parameters: dict[str, Any], message: str
) -> None:
    fake, model = triton()
    request = fake.request("keyboard", max_new_tokens=2)
    request.given = parameters
    fake.execute(model, [request])
    assert message in str(request.error)


def test_a_stub_for_numpy_1_is_refused_under_numpy_2(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"\0numpy.core.multiarray\0")
    new.write_bytes(b"\0numpy._core\0numpy.core\0multiarray\0")
    with pytest.raises(BackendError, match=r"numpy is 2\.4\.6.*pip install numpy==1\.26\.4"):
        check_numpy(old, "2.4.6")
    check_numpy(old, "1.26.4")
    check_numpy(new, "2.4.6")
    check_numpy(tmp_path / "unreadable", "2.4.6")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_failure_inside_does_not_end_the_model(
    triton: Triton, spoken: dict[str, str], monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    fake, model = triton()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(model._model, "stream" if stream else "generate", fail)
        requests = [fake.request(word, stream=stream) for word in WORDS]
        fake.execute(model, requests)
    assert [str(request.error) for request in requests] == ["out of memory"] * 3
    assert {request.error.code for request in requests if request.error} == {TritonError.INTERNAL}
    after = fake.request("keyboard", stream=stream)
    fake.execute(model, [after])
    assert after.text == spoken["keyboard"]


def test_a_cancelled_stream_ends_at_once(triton: Triton, spoken: dict[str, str]) -> None:
    fake, model = triton()
    gone = fake.request("keyboard", stream=True)
    gone.cancel_after = 1
    stays = fake.request("february", stream=True)
    fake.execute(model, [gone, stays])
    piece, end = gone.responses
    assert spoken["keyboard"].startswith(piece.values["text_output"])
    assert end.error is not None and end.error.code == TritonError.CANCELLED
    assert stays.text == spoken["february"]


def test_a_cancelled_request_of_a_batch_ends_alone(triton: Triton, spoken: dict[str, str]) -> None:
    fake, model = triton()
    gone, stays = fake.request("keyboard"), fake.request("february")
    gone.cancel_after = 0
    fake.execute(model, [gone, stays])
    assert gone.error is not None and gone.error.code == TritonError.CANCELLED
    assert stays.text == spoken["february"]


def test_a_batch_goes_on_for_those_that_stay(triton: Triton, spoken: dict[str, str]) -> None:
    fake, model = triton()
    gone, stays = fake.request("keyboard"), fake.request("february")
    asked: list[int] = []
    # It leaves once the batch runs.
    gone.is_cancelled = lambda: asked.append(0) or len(asked) > 2  # type: ignore[method-assign]
    fake.execute(model, [gone, stays])
    assert gone.error is not None and gone.error.code == TritonError.CANCELLED
    assert stays.text == spoken["february"]


def test_a_batch_that_all_have_left_is_not_finished(triton: Triton) -> None:
    fake, model = triton()
    request = fake.request("keyboard", min_new_tokens=500, max_new_tokens=500)
    asked = []
    request.is_cancelled = lambda: asked.append(0) or len(asked) > 3  # type: ignore[method-assign]
    fake.execute(model, [request])
    assert request.error is not None and request.error.code == TritonError.CANCELLED
    assert len(asked) < 20


def test_the_model_is_freed(triton: Triton) -> None:
    fake, model = triton()
    model.finalize()
    request = fake.request("keyboard")
    fake.execute(model, [request])
    assert "closed" in str(request.error)
