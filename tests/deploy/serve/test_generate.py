"""/v1/generate and what the service says of itself, over HTTP from a process of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seq2edge.deploy.json_options import NAMES
from seq2edge.runtime import Bundle, Seq2SeqModel

from ..conftest import WORDS
from .process import ServerProcess


def test_texts_are_those_of_the_library(
    server: ServerProcess, demo: Bundle, spoken: dict[str, str]
) -> None:
    one = server.generate("keyboard").json()
    assert one["model"] == demo.directory.name.removesuffix(".bundle")
    assert one["results"] == [
        {
            "source": 0,
            "text": spoken["keyboard"],
            "finish_reason": "eos",
            "new_tokens": one["usage"]["new_tokens"],
        }
    ]
    several = server.generate(WORDS).json()["results"]
    assert [(r["source"], r["text"]) for r in several] == list(enumerate(spoken.values()))


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
        {"do_sample": True, "temperature": 0.9, "top_p": 0.9, "seed": 5},
        {"max_new_tokens": 4},
        {"repetition_penalty": 1.5, "suppress_tokens": [5, 6], "return_scores": True},
        {"stop_strings": ["B"], "no_repeat_ngram_size": 2},
        {"bad_words_ids": [[7], [8, 9]], "sequence_bias": {"12": 2.5}},
        {"prompt_lookup_num_tokens": 3},
    ],
)
def test_options_do_what_they_do_in_the_library(
    server: ServerProcess, demo: Bundle, options: dict[str, Any]
) -> None:
    found = server.generate(WORDS, **options).json()["results"]
    if "sequence_bias" in options:
        options = {**options, "sequence_bias": {12: 2.5}}
    with Seq2SeqModel.load(demo.directory) as model:
        expected = model.generate(WORDS, **options)
    assert [(r["source"], r["text"], r["finish_reason"]) for r in found] == [
        (r.source, r.text, r.finish_reason) for r in expected
    ]
    for result, one in zip(found, expected, strict=True):
        assert result.get("score") == (one.score and pytest.approx(one.score, rel=1e-4))


def test_constraints_have_names_of_their_own(server: ServerProcess) -> None:
    pytest.importorskip("llguidance")
    chosen = server.generate("gateway", choices=["G EY T W EY", "G AE T"]).json()
    assert chosen["results"][0]["text"] == "G EY T W EY"
    assert server.generate("gateway", regex="[A-Z ]{1,5}").json()["results"][0]["text"]
    both = server.generate("gateway", regex="x", choices=["x"])
    assert both.status_code == 400
    assert "give one of them" in both.json()["error"]["message"]


def events(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data:")]


def test_a_stream_gives_pieces_and_then_the_ending(
    server: ServerProcess, demo: Bundle, spoken: dict[str, str]
) -> None:
    response = server.generate("keyboard", stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    *pieces, last = events(response)
    assert len(pieces) > 2
    with Seq2SeqModel.load(demo.directory) as model:
        expected = model.generate("keyboard")[0]
    assert "".join(event["text"] for event in [*pieces, last]) == spoken["keyboard"]
    assert (last["finish_reason"], last["new_tokens"]) == ("eos", len(expected.token_ids))


def test_requests_that_guess_for_themselves_run_beside_the_batch(
    server: ServerProcess, spoken: dict[str, str]
) -> None:
    found = events(server.generate("keyboard", stream=True, prompt_lookup_num_tokens=3))
    assert "".join(event["text"] for event in found) == spoken["keyboard"]
    wrong = server.generate("keyboard", stream=True, prompt_lookup_num_tokens=3, num_beams=2)
    assert wrong.status_code == 400


def test_a_beam_search_streams_its_text_at_once(server: ServerProcess, demo: Bundle) -> None:
    with Seq2SeqModel.load(demo.directory) as model:
        expected = model.generate("keyboard", num_beams=3)[0].text
    found = events(server.generate("keyboard", stream=True, num_beams=3))
    assert "".join(event["text"] for event in found) == expected


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({"text": "a", "beams": 2}, 400, "beams", "unknown field 'beams'"),
        ({"text": "a", "logits_processors": []}, 400, "logits_processors", "unknown field"),
        ({}, 400, "text", "text must be a text or a list of texts"),
        ({"text": 5}, 400, "text", "must be a text"),
        ({"text": []}, 400, "text", "must be a text"),
        ({"text": ["a", None]}, 400, "text", "must be a text"),
        ({"text": " "}, 400, None, "empty"),
        ({"text": "\ud800"}, 400, "text", "no Unicode"),
        ({"text": ["a"] * 33}, 413, "text", "33 texts, and may have 32"),
        ({"text": "a" * 20_001}, 413, "text", "20001 characters, and may have 20000"),
        ({"text": "a", "stream": 1}, 400, "stream", "true or false"),
        ({"text": ["a", "b"], "stream": True}, 400, "stream", "one text"),
        ({"text": "a", "num_beams": "4"}, 400, None, "num_beams must be an integer, not '4'"),
        ({"text": "a", "num_beams": 9}, 400, "num_beams", "more than the 8 allowed"),
        ({"text": "a", "max_new_tokens": 2000}, 400, "max_new_tokens", "more than the 1024"),
        ({"text": "a", "max_new_tokens": 0}, 400, None, "max_new_tokens"),
        ({"text": "a", "top_p": 0.5}, 400, None, "top_p=0.5 is not read without do_sample"),
        ({"text": "a", "do_sample": True, "top_p": 5}, 400, None, "top_p must be"),
        ({"text": "a", "suppress_tokens": [99999]}, 400, None, "suppress_tokens"),
        ({"text": "a", "sequence_bias": {"x": 1}}, 400, None, "sequence_bias maps token ids"),
        ({"text": "a", "regex": 5}, 400, None, "regex must be a JSON string"),
        ({"text": "a", "target_lang": "fr"}, 400, None, "target_lang is for models of several"),
        ({"text": "a", "model": "other"}, 404, "model", "no text model named 'other'"),
        ({"text": "a", "model": ["g2p"]}, 400, "model", "model must be a text"),
        ({"text": "a", "model": "../../etc/passwd"}, 404, "model", "no text model named"),
        ({"text": "a", "\ud800": 1}, 400, "?", "unknown field"),
        ({"text": "a", "num_beams": 2, "patience": 1e308}, 400, None, "patience must be"),
        ({"text": "a", "suppress_tokens": [1] * 20_000}, 413, None, "more than 20000 values"),
        ({"text": "a", "sequence_bias": [[[1, 2], 0.5]] * 6000}, 413, None, "20000 values"),
    ],
)
def test_a_wrong_request_is_refused_by_name(
    server: ServerProcess, body: dict[str, Any], status: int, param: str | None, said: str
) -> None:
    response = server.post(
        "/v1/generate",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    error = response.json()["error"]
    assert response.status_code == status
    assert said in error["message"]
    assert error["param"] == param


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from(sorted(NAMES | {"text", "stream", "model"})), VALUES, max_size=3
    )
)
def test_whatever_a_body_holds_it_is_answered(server: ServerProcess, body: dict[str, Any]) -> None:
    body = {"text": "a", "max_new_tokens": 3, **body}
    response = server.post(
        "/v1/generate", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert response.status_code in (200, 400, 404, 413), response.text
    assert not [line for line in server.lines if line["level"] in ("error", "plain")]


@pytest.mark.parametrize(
    ("content", "kind", "status", "said"),
    [
        (b'{"text": "a"', "application/json", 400, "not valid JSON"),
        (b"[" * 10_000, "application/json", 400, "not valid JSON"),
        (b'["a"]', "application/json", 400, "must be a JSON object"),
        (b"", "application/json", 400, "not valid JSON"),
        (b'{"text": "\xff"}', "application/json", 400, "not UTF-8: byte 10"),
        (b'{"text": "a", "num_beams": NaN}', "application/json", 400, "num_beams"),
        (b'{"text": "a", "num_beams": 1, "num_beams": 2}', "", 400, "the key 'num_beams' twice"),
        (b'{"text": "a", "seed": ' + b"9" * 5000 + b"}", "application/json", 400, "not valid JSON"),
        (b"text=a", "application/x-www-form-urlencoded", 415, "must be application/json"),
        (b'{"text": "' + b"a" * (1 << 20) + b'"}', "application/json", 413, "more than 1048576"),
    ],
)
def test_a_body_that_cannot_be_read_is_one_error(
    server: ServerProcess, content: bytes, kind: str, status: int, said: str
) -> None:
    response = server.post("/v1/generate", content=content, headers={"Content-Type": kind})
    assert response.status_code == status
    assert said in response.json()["error"]["message"]


def test_an_error_does_not_send_all_of_it_back(server: ServerProcess) -> None:
    refused = server.post("/v1/generate", json={"text": "a", "x" * 900_000: 1})
    assert refused.status_code == 400
    assert len(refused.content) < 5000
    assert refused.json()["error"]["message"].startswith("unknown field 'xxx")


def test_a_body_without_a_length_is_bounded_too(server: ServerProcess) -> None:
    def endless() -> Any:
        for _ in range(64):
            yield b" " * (1 << 16)

    with server.client() as client:
        response = client.post(
            "/v1/generate", content=endless(), headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 413


def test_paths_and_methods_that_are_not_there(server: ServerProcess) -> None:
    assert server.get("/nope").status_code == 404
    wrong = server.get("/v1/generate")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert "takes POST" in wrong.json()["error"]["message"]


def test_a_wrong_text_does_not_harm_its_neighbours(
    server: ServerProcess, spoken: dict[str, str]
) -> None:
    failed = server.generate(["keyboard", " ", "february"])
    assert failed.status_code == 400
    assert server.generate("keyboard").json()["results"][0]["text"] == spoken["keyboard"]


def test_a_text_of_too_many_tokens_is_refused(server: ServerProcess) -> None:
    """Their characters are few enough, and their attention may fit into the memory."""
    refused = server.generate("a" * 4200)
    assert refused.status_code == 400
    assert "at most 4096 are taken here" in refused.json()["error"]["message"]


def test_the_service_says_how_it_is(server: ServerProcess) -> None:
    assert server.get("/health").json() == {"status": "ok"}
    assert server.get("/ready").json() == {"status": "ready"}
    [model] = server.get("/v1/models").json()["data"]
    assert (model["object"], model["owned_by"], model["family"]) == ("model", "seq2edge", "t5")
    assert server.get(f"/v1/models/{model['id']}").json() == model
    assert server.get("/v1/models/other").status_code == 404
    before = server.metric("seq2edge_generated_tokens_total")
    tokens = server.generate("keyboard").json()["usage"]["new_tokens"]
    assert server.metric("seq2edge_generated_tokens_total") == before + tokens


def test_the_log_is_json_and_holds_no_texts(server: ServerProcess) -> None:
    server.generate("mississippi")
    server.get("/health")
    requests = [line for line in server.lines if line["logger"].endswith("requests")]
    assert {"time", "level", "status", "seconds", "endpoint"} <= set(requests[-1])
    assert not any(line["level"] == "plain" for line in server.lines)
    assert "mississippi" not in json.dumps(server.lines)


def test_several_bundles_are_told_apart_by_name(
    demo: Bundle, tmp_path: Path, spoken: dict[str, str]
) -> None:
    link = tmp_path / "other.bundle"
    link.symlink_to(demo.directory)
    with ServerProcess(f"words={demo.directory}", link) as server:
        assert [m["id"] for m in server.get("/v1/models").json()["data"]] == ["words", "other"]
        found = server.generate("keyboard", model="words").json()
        assert (found["model"], found["results"][0]["text"]) == ("words", spoken["keyboard"])
        unnamed = server.generate("keyboard")
        assert unnamed.status_code == 400
        assert "model must be one of: words, other" in unnamed.json()["error"]["message"]


def test_curl_gets_an_answer(server: ServerProcess, spoken: dict[str, str]) -> None:
    done = subprocess.run(
        [
            *("curl", "-sS", "--noproxy", "*", f"{server.url}/v1/generate"),
            *("-H", "Content-Type: application/json", "-d", '{"text": "keyboard"}'),
        ],
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["results"][0]["text"] == spoken["keyboard"]


def test_a_choice_is_no_longer_than_a_text(server: ServerProcess) -> None:
    """Fault: one of 900,000 letters kept all others waiting for five seconds."""
    answer = server.generate("keyboard", choices=["a", "b" * 20_001])
    assert answer.status_code == 413
    assert answer.json()["error"]["param"] == "choices"
