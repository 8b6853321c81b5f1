"""Who may ask, and where: keys, loopback, Unix sockets, and a start that fails in one line."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from seq2edge.deploy.serve.keys import KeyRing, bearer, read_keys
from seq2edge.deploy.serve.run import make_room, open_socket
from seq2edge.deploy.serve.settings import Settings
from seq2edge.runtime import Bundle, InputError, OutputExistsError

from .process import ServerProcess

KEYS = ("a-key-of-some-length", "another-key-of-some-length")


@pytest.fixture(scope="module")
def locked(demo: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A key in a file and one in the environment, for every address."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# those who may ask\n\n{KEYS[0]}\n")
    arguments = (demo.directory, "--api-keys", file, "--host", "0.0.0.0")
    pair = ("--translates", "g2p=text:sounds")
    with ServerProcess(*arguments, *pair, SEQ2EDGE_API_KEYS=KEYS[1]) as process:
        process.url = process.url.replace("0.0.0.0", "127.0.0.1")
        yield process


@pytest.mark.parametrize("key", KEYS)
def test_with_a_key_it_answers(locked: ServerProcess, key: str, spoken: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    found = locked.post("/v1/generate", json={"text": "keyboard"}, headers=headers)
    assert found.json()["results"][0]["text"] == spoken["keyboard"]
    assert locked.get("/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": KEYS[0]},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {KEYS[0]}x"},
        {"Authorization": f"Basic {KEYS[0]}"},
    ],
)
def test_without_one_it_does_not(locked: ServerProcess, headers: dict[str, str]) -> None:
    for path in ("/v1/models", "/metrics", "/languages", "/nope"):
        refused = locked.get(path, headers=headers)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    refused = locked.post("/v1/generate", json={"text": "a"}, headers=headers)
    assert refused.json()["error"]["type"] == "authentication_error"
    # Who looks after it needs none.
    assert locked.get("/health", headers=headers).status_code == 200
    assert locked.get("/ready", headers=headers).status_code == 200


def test_libretranslates_key_may_stand_in_the_body(
    locked: ServerProcess, spoken: dict[str, str]
) -> None:
    body = {"q": "keyboard", "source": "text", "target": "sounds"}
    found = locked.post("/translate", data={**body, "api_key": KEYS[0]}).json()
    assert found == {"translatedText": spoken["keyboard"]}
    for wrong in ({}, {"api_key": "x" * 20}, {"api_key": ""}):
        assert locked.post("/translate", json={**body, **wrong}).status_code == 401
    assert locked.post("/translate", json={**body, "api_key": 5}).status_code == 401


def test_no_key_is_ever_logged(locked: ServerProcess) -> None:
    assert not any(key in str(locked.lines) for key in KEYS)


def test_keys_are_read_from_a_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"#\n  {KEYS[0]}  \n{KEYS[0]}\n")
    monkeypatch.setenv("SEQ2EDGE_API_KEYS", f"{KEYS[1]},{KEYS[0]}")
    assert read_keys(file) == (KEYS[1], KEYS[0])
    monkeypatch.delenv("SEQ2EDGE_API_KEYS")
    assert read_keys(None) == ()
    for text, said in (("# none\n", "holds no API key"), ("short\n", "API key 1 is none")):
        file.write_text(text)
        with pytest.raises(InputError, match=said):
            read_keys(file)


def test_a_ring_without_keys_admits_everyone() -> None:
    assert KeyRing(()).admits(None)
    ring = KeyRing(KEYS)
    assert ring.admits(KEYS[1]) and not ring.admits(None) and not ring.admits("")
    assert bearer(f"bearer {KEYS[0]}") == KEYS[0]
    assert bearer(None) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "everyone who reaches 0.0.0.0 could use the models"),
        (("--host", "::"), "everyone who reaches ::"),
        (("--wyoming", "0.0.0.0:0"), "Wyoming, which has no keys"),
        (("--wyoming", "10300"), "--wyoming takes HOST:PORT"),
        (("--wyoming", "127.0.0.1:0"), "no speech bundle is served"),
        (("--api-keys", "/nowhere"), "cannot read /nowhere"),
        (("--translates", "g2p"), "--translates takes NAME=SOURCE"),
        (("--translates", "other=a:b"), "no bundle is named 'other'"),
        (("--port", "1", "--host", "192.0.2.1", "--without-keys"), "cannot listen at 192.0.2.1:1"),
        (("--unix-socket", "/nowhere/socket"), "cannot listen at /nowhere/socket"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(
    demo: Bundle, arguments: tuple[str, ...], said: str
) -> None:
    done = start(demo.directory, *arguments)
    assert done.returncode == 2
    [*_, line] = done.stderr.splitlines()
    assert line.startswith("seq2edge: error: ") and said in line


def test_bundles_that_cannot_be_served(demo: Bundle, tmp_path: Path) -> None:
    for words, said in (
        ((tmp_path / "missing",), "no such bundle"),
        ((demo.directory, demo.directory), "two bundles are named 'g2p'"),
        ((f"a b={demo.directory}",), "'a b' is no name of a bundle"),
    ):
        done = start(*words)
        assert done.returncode == 2
        assert said in done.stderr and "Traceback" not in done.stderr


def start(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seq2edge.cli.main", "serve", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_port_in_use_is_said_before_a_model_is_loaded(
    server: ServerProcess, demo: Bundle
) -> None:
    done = start(demo.directory, "--port", str(server.port))
    assert done.returncode == 2
    assert f"cannot listen at 127.0.0.1:{server.port}" in done.stderr
    assert "loaded" not in done.stderr


def test_a_unix_socket_serves_local_users(
    demo: Bundle, tmp_path: Path, spoken: dict[str, str]
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as killed:  # as a run that was killed leaves it
        killed.bind(os.fspath(path))
    with ServerProcess(demo.directory, "--unix-socket", path) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        transport = httpx.HTTPTransport(uds=os.fspath(path))
        with httpx.Client(transport=transport, base_url="http://x") as client:
            found = client.post("/v1/generate", json={"text": "keyboard"}, timeout=60).json()
        assert found["results"][0]["text"] == spoken["keyboard"]
        with pytest.raises(OutputExistsError, match="a service that is running"):
            make_room(path)
        assert server.end() == 0
    assert not path.exists()


def test_a_file_is_never_taken_for_a_socket(tmp_path: Path) -> None:
    file = tmp_path / "mine"
    file.write_text("mine")
    with pytest.raises(OutputExistsError, match="is not a socket"):
        make_room(file)
    assert file.read_text() == "mine"


def test_help_names_every_limit_and_needs_no_package() -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = sys.modules['starlette'] = None;"
        "from seq2edge.cli.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "serve"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert {"--max-queue", "--drain-timeout"} <= set(re.findall("--[a-z-]+", shown))
    done = subprocess.run([*command, "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "serve needs" in done.stderr and "pip install" in done.stderr


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "192.168.1.5", "[::2]:80", ""])
def test_a_page_whose_name_leads_here_gets_nothing(server: ServerProcess, host: str) -> None:
    refused = server.get("/v1/models", headers={"Host": host})
    assert refused.status_code == 403
    assert "localhost only" in refused.json()["error"]["message"]


@pytest.mark.parametrize("origin", ["https://evil.example", "http://192.168.1.5:8080", "null"])
def test_a_page_from_elsewhere_has_nothing_done(server: ServerProcess, origin: str) -> None:
    """Browsers send what a page asks for, and keep only the answer from it."""
    before = server.metric("seq2edge_source_tokens_total")
    with server.client() as client:
        refused = client.post("/v1/generate", content='{"text": "a"}', headers={"Origin": origin})
    assert refused.status_code == 403
    assert "a web page from" in refused.json()["error"]["message"]
    assert server.metric("seq2edge_source_tokens_total") == before


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://[::1]", "moz-extension://a1"])
def test_pages_of_this_machine_and_extensions_may_ask(server: ServerProcess, origin: str) -> None:
    assert server.get("/v1/models", headers={"Origin": origin}).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8080", "127.0.0.1", "[::1]:80"])
def test_this_machines_names_are_answered(server: ServerProcess, host: str) -> None:
    assert server.get("/v1/models", headers={"Host": host}).status_code == 200


def test_ctrl_c_ends_it_too(demo: Bundle) -> None:
    with ServerProcess(demo.directory) as server:
        with contextlib.suppress(httpx.HTTPError):
            server.get("/health")
        assert server.end(2) == 0


def test_no_part_of_a_response_waits_for_an_acknowledgement_of_the_one_before() -> None:
    with open_socket(Settings(port=0)) as listening:
        listening.listen()
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
