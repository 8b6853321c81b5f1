"""Many clients: batches, a full queue, clients that go away, an end that loses nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from seq2edge.benchmarks.service import put_load
from seq2edge.runtime import Bundle

from ..conftest import WORDS
from .process import ServerProcess

#: New tokens of a text that takes its time.
LONG, LONGER = 1000, 2500


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def long(server: ServerProcess, tokens: int = LONG, *, stream: bool = False) -> httpx.Response:
    return server.generate("keyboard", min_new_tokens=tokens, max_new_tokens=tokens, stream=stream)


@pytest.fixture(scope="module")
def narrow(demo: Bundle) -> Iterator[ServerProcess]:
    """One text at a time, and two that wait; long enough to be seen on any machine."""
    limits = ("--max-batch", "1", "--max-queue", "2", "--max-new-tokens", str(LONGER))
    with ServerProcess(demo.directory, *limits) as process:
        yield process


def test_what_waits_is_batched_and_right(server: ServerProcess, spoken: dict[str, str]) -> None:
    with ThreadPoolExecutor(13) as pool:
        first = pool.submit(long, server)
        wait_until(lambda: server.metric("seq2edge_running") > 0, "it runs")
        words = WORDS * 4
        found = list(pool.map(server.generate, words))
        assert first.result().json()["results"][0]["new_tokens"] == LONG
    assert [r.json()["results"][0]["text"] for r in found] == [spoken[word] for word in words]
    steps = server.metric("seq2edge_batch_size_count")
    assert server.metric("seq2edge_batch_size_bucket", le="3.0") < steps


def test_newcomers_do_not_wait_for_the_end_of_those_that_run(
    patient: ServerProcess, spoken: dict[str, str]
) -> None:
    with begin(patient, stream=False):
        wait_until(lambda: patient.metric("seq2edge_running") == 1, "it runs")
        for options in ({}, {"num_beams": 3}, {"do_sample": True, "temperature": 0.01}):
            found = patient.generate("keyboard", **options).json()
            assert found["results"][0]["text"] == spoken["keyboard"]
        assert patient.metric("seq2edge_running") == 1
    wait_until(lambda: patient.metric("seq2edge_running") == 0, "it ends")


def test_a_full_queue_is_said_at_once(narrow: ServerProcess) -> None:
    with ThreadPoolExecutor(3) as pool:
        taken = [pool.submit(long, narrow, LONGER) for _ in range(3)]
        wait_until(lambda: narrow.metric("seq2edge_queue_length") == 2, "two wait")
        refused = narrow.generate("keyboard")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "ask again in" in refused.json()["error"]["message"]
        assert narrow.metric("seq2edge_rejected_total") == 1
        # Nothing of a body is looked at for that, and the connection is kept.
        with narrow.client() as client:
            refused = client.post("/v1/generate", content=b"[" * 100_000)
            assert refused.status_code == 429
            assert "connection" not in refused.headers
            assert client.get("/health").status_code == 200
        assert narrow.metric("seq2edge_rejected_total") == 2
        assert narrow.metric("seq2edge_refused_seconds_count") == 2
        assert {future.result().status_code for future in taken} == {200}
    assert narrow.generate("keyboard").status_code == 200


def test_a_full_queue_is_no_word_to_who_has_no_key(demo: Bundle) -> None:
    key = "a-key-that-is-long-enough"
    limits = ("--max-batch", "1", "--max-queue", "1", "--max-new-tokens", str(LONGER))
    with ServerProcess(demo.directory, *limits, SEQ2EDGE_API_KEYS=key) as server:
        body = {"text": "keyboard", "min_new_tokens": LONGER, "max_new_tokens": LONGER}
        admitted = {"Authorization": f"Bearer {key}"}

        def asked() -> int:
            return server.post("/v1/generate", json=body, headers=admitted).status_code

        def metric(name: str) -> float:
            text = server.get("/metrics", headers=admitted).text
            return float(text.partition(f'\n{name}{{model="g2p"}} ')[2].partition("\n")[0])

        with ThreadPoolExecutor(2) as pool:
            taken = [pool.submit(asked) for _ in range(2)]
            wait_until(lambda: metric("seq2edge_queue_length") == 1, "one waits")
            assert asked() == 429
            assert server.post("/v1/generate", json=body).status_code == 401
            asked_for = {"q": "keyboard", "source": "en", "target": "de"}
            assert server.post("/translate", json=asked_for).status_code == 401
            assert {future.result() for future in taken} == {200}


def test_more_texts_than_may_wait_are_refused_whole(narrow: ServerProcess) -> None:
    before = narrow.metric("seq2edge_source_tokens_total")
    assert narrow.generate(["a"] * 3).status_code == 413
    assert narrow.metric("seq2edge_source_tokens_total") == before


def begin(server: ServerProcess, *, stream: bool, tokens: int = 20_000) -> socket.socket:
    """Ask for a text that takes long, and go on."""
    body = {"text": "keyboard", "stream": stream, "min_new_tokens": tokens}
    body["max_new_tokens"] = tokens
    data = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    head = f"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    client.sendall(head.encode() + data)
    return client


@pytest.fixture(scope="module")
def patient(demo: Bundle) -> Iterator[ServerProcess]:
    """Texts may be long enough to be left in the middle."""
    with ServerProcess(demo.directory, "--max-new-tokens", "20000", "--max-batch", "2") as process:
        yield process


@pytest.mark.parametrize("stream", [True, False])
def test_the_work_of_a_client_that_goes_ends(patient: ServerProcess, stream: bool) -> None:
    before = patient.metric("seq2edge_cancelled_total")
    with begin(patient, stream=stream) as client:
        if stream:
            client.recv(4096)
        wait_until(lambda: patient.metric("seq2edge_running") == 1, "it runs")
    wait_until(lambda: patient.metric("seq2edge_running") == 0, "it ends")
    assert patient.metric("seq2edge_cancelled_total") == before + 1
    assert patient.metric("seq2edge_generated_tokens_total") < 20_000


def test_a_client_that_goes_harms_nobody_in_its_batch(
    patient: ServerProcess, spoken: dict[str, str]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        client = begin(patient, stream=False)
        wait_until(lambda: patient.metric("seq2edge_running") == 1, "it runs")
        other = pool.submit(patient.generate, "keyboard")
        client.close()
        assert other.result().json()["results"][0]["text"] == spoken["keyboard"]


@pytest.mark.parametrize("stream", [True, False])
def test_one_that_waits_and_goes_is_never_run(patient: ServerProcess, stream: bool) -> None:
    with begin(patient, stream=False), begin(patient, stream=False):
        wait_until(lambda: patient.metric("seq2edge_running") == 2, "both run")
        before = patient.metric("seq2edge_source_tokens_total")
        cancelled = patient.metric("seq2edge_cancelled_total")
        with begin(patient, stream=stream):
            wait_until(lambda: patient.metric("seq2edge_queue_length") == 1, "one waits")
        wait_until(
            lambda: patient.metric("seq2edge_cancelled_total") > cancelled, "it is noticed at once"
        )
    wait_until(lambda: patient.metric("seq2edge_running") == 0, "all have gone")
    assert patient.metric("seq2edge_source_tokens_total") == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_was_accepted_is_finished_when_the_service_is_stopped(
    demo: Bundle, number: int
) -> None:
    """Those that run, those that wait, and streams of both."""
    with ServerProcess(demo.directory, "--max-batch", "2") as server, ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(long, server, stream=bool(n % 2)) for n in range(8)]
        wait_until(
            lambda: server.metric("seq2edge_queue_length") + server.metric("seq2edge_running") == 8,
            "all are accepted",
        )
        server.process.send_signal(number)
        wait_until(lambda: server.get("/ready").status_code == 503, "it drains")
        assert server.get("/health").status_code == 200
        refused = server.generate("keyboard")
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        answers = [future.result() for future in taken]
        [first, *others] = [answer.json()["results"][0] for answer in answers[::2]]
        assert first["new_tokens"] == LONG
        assert others == [first] * 3
        for answer in answers[1::2]:
            *pieces, last = [json.loads(event[6:]) for event in answer.text.split("\n\n")[:-1]]
            assert last["new_tokens"] == LONG
            assert "".join(piece["text"] for piece in pieces) == first["text"]
        assert server.wait() == 0
        assert server.lines[-1]["message"] == "stopped"


def test_a_body_that_does_not_come_is_not_waited_for_at_the_end(demo: Bundle) -> None:
    """Found under systemd: its client got a 500 without a word, and the log an exception."""
    with ServerProcess(demo.directory, "--drain-timeout", "0.3") as server:
        head = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(head)
            # Its beginning is read when a second one, which came later, is answered.
            assert server.get("/health").status_code == 200
            server.process.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"the service is being stopped" in answer
        assert server.wait() == 0
        assert not [line for line in server.lines if line["level"] == "error"]


def test_the_end_is_not_waited_for_without_end(demo: Bundle) -> None:
    arguments = ("--max-new-tokens", "100000", "--drain-timeout", "0.3")
    with ServerProcess(demo.directory, *arguments) as server, ThreadPoolExecutor(1) as pool:
        endless = pool.submit(long, server, 100_000)
        wait_until(lambda: server.metric("seq2edge_running") == 1, "it runs")
        assert server.end() == 0
        answer = endless.result()
        assert answer.status_code == 503
        assert "being stopped" in answer.json()["error"]["message"]


def test_a_request_may_not_take_for_ever(demo: Bundle) -> None:
    arguments = ("--max-new-tokens", "100000", "--timeout", "0.5")
    with ServerProcess(demo.directory, *arguments) as server:
        answer = long(server, 100_000)
        assert answer.status_code == 503
        assert "longer than the 0.5 s" in answer.json()["error"]["message"]
        wait_until(lambda: server.metric("seq2edge_running") == 0, "it ends")
        assert server.generate("keyboard").status_code == 200


def test_texts_that_would_take_too_much_memory_are_refused(demo: Bundle) -> None:
    arguments = ("--max-memory", "2M", "--max-source-tokens", "400")
    with ServerProcess(demo.directory, *arguments) as server:
        assert server.generate("keyboard").status_code == 200
        refused = server.generate("a" * 390)
        assert refused.status_code == 400
        assert "max_memory" in refused.json()["error"]["message"]
        refused = server.generate("a" * 401)
        assert "at most 400 are taken here" in refused.json()["error"]["message"]


def test_load_can_be_put_on_a_service(server: ServerProcess) -> None:
    bodies = [{"text": word, "max_new_tokens": 4} for word in WORDS]
    load = asyncio.run(put_load(server.url, bodies, 3, 0.5))
    found = load.document()
    assert found["answered"] >= 3 and found["refused"] == 0
    assert load.tokens == sum(4 for _ in load.milliseconds)
    assert 0 < found["ms_p50"] <= found["ms_p99"] <= found["ms_max"]
    assert found["cpu_ms_per_request"] > 0
