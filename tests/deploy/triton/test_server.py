"""What ``seq2edge triton`` writes, served by Triton itself and asked over HTTP and gRPC."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.runtime import Bundle, Seq2SeqModel
from seq2edge.runtime.speech.model import SpeechModel

from ..conftest import WORDS
from .clients import Stream, events, get, post
from .conftest import ENDLESS, SPEECH, TEXT
from .server import Server, running

#: A text that goes on for long.
_LONG = {"min_new_tokens": 400, "max_new_tokens": 400}


def generate(server: Server, **body: Any) -> dict[str, Any]:
    status, text = post(f"{server.http}/v2/models/{TEXT}/generate", body)
    assert status == 200, text
    found: dict[str, Any] = json.loads(text)
    return found


def refused(server: Server, **body: Any) -> str:
    status, text = post(f"{server.http}/v2/models/{TEXT}/generate", body)
    assert status == 400, text
    return str(json.loads(text)["error"])


def counts(server: Server) -> tuple[int, int]:
    """Requests that were answered, and runs that it took."""
    (found,) = get(f"{server.http}/v2/models/{TEXT}/stats")["model_stats"]
    return found["inference_count"], found["execution_count"]


def test_http_gives_the_bundles_text(server: Server, spoken: dict[str, str]) -> None:
    for word in WORDS:
        found = generate(server, text_input=word)
        assert (found["text_output"], found["finish_reason"]) == (spoken[word], "eos")


def test_http_streams_pieces(server: Server, spoken: dict[str, str]) -> None:
    body = {"text_input": "keyboard", "stream": True}
    status, text = post(f"{server.http}/v2/models/{TEXT}/generate_stream", body)
    assert status == 200
    *pieces, end = events(text)
    assert len(pieces) > 2
    assert "".join(piece["text_output"] for piece in pieces) == spoken["keyboard"]
    assert (end["text_output"], end["finish_reason"]) == ("", "eos")


def test_grpc_gives_text_and_pieces(server: Server, spoken: dict[str, str]) -> None:
    with Stream(server.grpc, TEXT) as stream:
        (whole,) = stream.ask({"text_input": "keyboard"})
        assert whole == {"text_output": spoken["keyboard"], "finish_reason": "eos"}
        *pieces, end = stream.ask({"text_input": "keyboard", "stream": True})
        assert "".join(piece["text_output"] for piece in pieces) == spoken["keyboard"]
        assert end["finish_reason"] == "eos"


def test_options_come_as_json_or_as_parameters(server: Server, demo: Bundle) -> None:
    with Seq2SeqModel.load(demo.directory) as model:
        (own,) = model.generate("keyboard", num_beams=3, length_penalty=0.5, max_new_tokens=4)
    options: dict[str, Any] = {"num_beams": 3, "length_penalty": 0.5, "max_new_tokens": 4}
    with Stream(server.grpc, TEXT) as stream:
        found = [
            generate(server, text_input="keyboard", sampling_parameters=json.dumps(options)),
            generate(server, text_input="keyboard", id="mine", **options),
            generate(server, text_input="keyboard", parameters=options),
            *stream.ask({"text_input": "keyboard"}, options),
        ]
    for answer in found:
        assert answer["text_output"] == own.text
        assert answer["finish_reason"] == "length"
        assert answer["score"] == pytest.approx(own.score, rel=1e-5)
    assert found[1]["id"] == "mine"
    choice = generate(server, text_input="keyboard", choices='["B AO R D", "B"]')
    assert choice["text_output"] in ("B AO R D", "B")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"num_beans": 4}, "unknown option 'num_beans'; there are: bad_words_ids,"),
        ({"timeout": 5}, "unknown option 'timeout'"),
        ({"num_beams": 0}, "num_beams must be at least 1"),
        ({"num_beams": 2, "sampling_parameters": '{"num_beams": 3}'}, "num_beams is given twice"),
        ({"stop_strings": "a"}, "stop_strings (a string of JSON) is not valid JSON"),
        ({"sampling_parameters": "{"}, "sampling_parameters is not valid JSON"),
        ({"text_input": ""}, "empty"),
    ],
)
def test_a_wrong_request_is_a_400_that_says_why(
    server: Server, spoken: dict[str, str], body: dict[str, Any], message: str
) -> None:
    assert message in refused(server, **{"text_input": "keyboard", **body})
    assert generate(server, text_input="keyboard")["text_output"] == spoken["keyboard"]


def test_a_wrong_request_on_a_stream_leaves_it_open(server: Server, spoken: dict[str, str]) -> None:
    with Stream(server.grpc, TEXT) as stream:
        with pytest.raises(RuntimeError, match=f"more than the {ENDLESS} allowed here"):
            list(stream.ask({"text_input": "keyboard"}, {"max_new_tokens": ENDLESS + 1}))
        with pytest.raises(RuntimeError, match="unknown option 'beams'"):
            list(stream.ask({"text_input": "keyboard"}, {"beams": 4}))
        (found,) = stream.ask({"text_input": "keyboard"})
        assert found["text_output"] == spoken["keyboard"]


def test_waiting_requests_share_runs(server: Server, spoken: dict[str, str]) -> None:
    requests, runs = counts(server)
    words = WORDS * 16
    with ThreadPoolExecutor(len(words)) as pool:
        found = list(pool.map(lambda word: generate(server, text_input=word), words))
    assert [answer["text_output"] for answer in found] == [spoken[word] for word in words]
    requests_after, runs_after = counts(server)
    assert requests_after - requests == len(words)
    assert runs_after - runs < len(words)


def test_the_second_process_answers_while_the_first_is_busy(
    server: Server, spoken: dict[str, str]
) -> None:
    with Stream(server.grpc, TEXT) as busy:
        long = busy.ask({"text_input": "keyboard", "stream": True}, _LONG)
        next(long)
        assert generate(server, text_input="february")["text_output"] == spoken["february"]
        assert sum(1 for _ in long) > 100  # it was still going on


def test_cancelled_requests_end(server: Server, spoken: dict[str, str]) -> None:
    # One for each process, for so long that an answer after them shows that they have ended.
    endless = {"min_new_tokens": ENDLESS, "max_new_tokens": ENDLESS}
    streamed, whole = Stream(server.grpc, TEXT), Stream(server.grpc, TEXT)
    next(streamed.ask({"text_input": "keyboard", "stream": True}, endless))
    whole.ask({"text_input": "keyboard"}, endless)
    streamed.cancel()
    whole.cancel()
    for word in WORDS * 4:
        assert generate(server, text_input=word)["text_output"] == spoken[word]


def test_a_recording_is_answered_by_text_and_segments(
    server: Server, speech_bundle: Bundle, recording: bytes
) -> None:
    with SpeechModel.load(speech_bundle.directory) as model:
        own = model.transcribe(recording, beam_size=2, temperature=(0.0, 0.4))
    parameters = {"beam_size": 2, "temperature": "[0.0, 0.4]"}
    segments = [{"start": s.start, "end": s.end, "text": s.text} for s in own.segments]
    with Stream(server.grpc, SPEECH) as stream:
        (whole,) = stream.ask({"audio": recording}, parameters)
        assert whole["text_output"] == own.text
        assert json.loads(whole["segments"]) == segments
        *pieces, end = stream.ask({"audio": recording, "stream": True}, parameters)
        assert [
            segment for piece in pieces for segment in json.loads(piece["segments"])
        ] == segments
        assert end["language"] == "en"


def test_a_recording_over_http_is_a_data_url(
    server: Server, speech_bundle: Bundle, recording: bytes
) -> None:
    with SpeechModel.load(speech_bundle.directory) as model:
        own = model.transcribe(recording)
    address = f"{server.http}/v2/models/{SPEECH}/generate"
    audio = base64.b64encode(recording).decode()
    status, text = post(address, {"audio": f"data:audio/wav;base64,{audio}"})
    assert (status, json.loads(text)["text_output"]) == (200, own.text)
    status, text = post(address, {"audio": "data:audio/wav;base64,?"})
    assert status == 400
    assert "is not base64" in text


@pytest.mark.parametrize(
    ("audio", "parameters", "message"),
    [
        (b"no sound", {}, "it begins with b'no sound'"),
        (None, {"beams": 2}, "there is no transcription option 'beams'"),
        (None, {"temperature": "warm"}, "temperature (a string of JSON) is not valid JSON"),
    ],
)
def test_a_wrong_recording_or_option_is_refused(
    server: Server, recording: bytes, audio: bytes | None, parameters: dict[str, Any], message: str
) -> None:
    with Stream(server.grpc, SPEECH) as stream:
        with pytest.raises(RuntimeError) as error:
            list(stream.ask({"audio": recording if audio is None else audio}, parameters))
        assert message in str(error.value)


def test_numpy_2_is_refused_before_the_first_request(repository: Path, tmp_path: Path) -> None:
    if int(np.__version__.partition(".")[0]) < 2:
        pytest.skip("numpy here is older than 2")
    with running(repository, tmp_path / "log", numpy_1=False, ready=False) as server:
        index = json.loads(post(f"{server.http}/v2/repository/index", {})[1])
    for model in index:
        assert model["state"] == "UNAVAILABLE"
        assert "pip install numpy==1.26.4" in model["reason"]
