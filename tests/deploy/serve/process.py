"""``seq2edge serve`` in a process of its own, as its clients meet it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

_PATIENCE = 60


class ServerProcess:
    """A running service.

    Args:
        arguments: of the command, beside the port.
        files: the process may have open; None: as many as here.
        environment: more variables.

    Attributes:
        url: where HTTP is spoken; "" at a Unix socket.
        lines: of its log, so far.
    """

    def __init__(
        self, *arguments: str | Path, files: int | None = None, **environment: str
    ) -> None:
        command = ["-m", "seq2edge.cli.main", "serve", *map(str, arguments), "--port", "0"]
        self._start(command, files, environment)

    @classmethod
    def of_code(cls, code: str, *arguments: str | Path) -> ServerProcess:
        """A service that a program of its own starts."""
        made = cls.__new__(cls)
        made._start(["-c", code, *map(str, arguments)], None, {})
        return made

    def _start(self, words: list[str], files: int | None, environment: dict[str, str]) -> None:
        command = [sys.executable, *words]
        if files is not None:
            command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        self.lines: list[dict[str, Any]] = []
        self._ready: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        ready = self._ready.get(timeout=_PATIENCE)
        assert ready is not None, self.lines
        where = ready["addresses"][0]
        self.url = where if where.startswith("http") else ""
        wyoming = [line["port"] for line in self.lines if line["message"] == "ready for Wyoming"]
        self.wyoming_port: int = wyoming[0] if wyoming else 0

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        # Without certificates, which take longer to read than most answers to come.
        return httpx.Client(
            base_url=self.url, timeout=_PATIENCE, trust_env=False, verify=False, **options
        )

    def post(self, path: str, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.get(path, **options)

    def generate(self, text: Any, **options: Any) -> httpx.Response:
        return self.post("/v1/generate", json={"text": text, **options})

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample, 0 where there is none; those of several series are added."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(_PATIENCE)
        self._reader.join(_PATIENCE)
        return code

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                try:
                    found = json.loads(line)
                except ValueError:
                    found = {"message": line.decode(errors="replace"), "level": "plain"}
                self.lines.append(found)
                if found["message"] == "ready":
                    self._ready.put(found)
        self._ready.put(None)
