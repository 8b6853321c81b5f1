"""Load on a running service: so many clients, each of which asks again as soon as it is answered.

    python -m seq2edge.benchmarks.service http://127.0.0.1:8080 texts.txt --clients 1 8 64

A client is a connection that is kept; all of them are coroutines of one thread, which does little
but copy bytes, so that it takes as little as can be from the service beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np


@dataclass
class Load:
    """What so many clients have met.

    Attributes:
        clients: at once.
        seconds: from the first request to the last answer.
        milliseconds: of each answered request, from its first byte to the answer's last.
        refused: milliseconds of each request that was refused (429).
        tokens: new tokens of all answers.
        cpu_seconds: of the service's process, which others on the machine hardly change.
    """

    clients: int
    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    tokens: int = 0
    cpu_seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        """Rates per second, and percentiles of latency in milliseconds."""
        found = {
            "clients": self.clients,
            "answered": len(self.milliseconds),
            "requests_per_second": len(self.milliseconds) / self.seconds,
            "tokens_per_second": self.tokens / self.seconds,
            "cpu_ms_per_request": 1000 * self.cpu_seconds / max(1, len(self.milliseconds)),
        }
        for name, values in (("ms", self.milliseconds), ("refused_ms", self.refused)):
            if values:
                p50, p99, most = np.percentile(values, (50, 99, 100))
                found |= {f"{name}_p50": p50, f"{name}_p99": p99, f"{name}_max": most}
        return {**found, "refused": len(self.refused)}


async def put_load(
    url: str, bodies: Sequence[dict[str, Any]], clients: int, seconds: float
) -> Load:
    """Ask ``/v1/generate`` with ``bodies`` in turn, for so long; what was begun is waited for."""
    load, following = Load(clients), itertools.cycle(_requests(url, bodies))
    cpu = await _cpu_seconds(url)
    start = time.perf_counter()
    await asyncio.gather(*(_client(url, following, start + seconds, load) for _ in range(clients)))
    load.seconds = time.perf_counter() - start
    load.cpu_seconds = await _cpu_seconds(url) - cpu
    return load


async def _cpu_seconds(url: str) -> float:
    """That the service has used so far, as its metrics say."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(
        f"GET /metrics HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode()
    )
    text = (await reader.read()).decode()
    writer.close()
    return float(text.partition("\nprocess_cpu_seconds_total ")[2].partition("\n")[0])


def _requests(url: str, bodies: Sequence[dict[str, Any]]) -> list[bytes]:
    host = urlsplit(url).netloc
    found = []
    for body in bodies:
        data = json.dumps(body).encode()
        head = (
            f"POST /v1/generate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        found.append(head.encode() + data)
    return found


async def _client(url: str, following: Iterator[bytes], until: float, load: Load) -> None:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        while time.perf_counter() < until:
            start = time.perf_counter()
            writer.write(next(following))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            took = (time.perf_counter() - start) * 1000
            status = int(head.split(b" ", 2)[1])
            if status == 429:
                load.refused.append(took)
                await asyncio.sleep(0.1)  # sooner than Retry-After says
                continue
            if status != 200:
                raise SystemExit(f"the service says {status}: {body.decode(errors='replace')}")
            load.milliseconds.append(took)
            load.tokens += json.loads(body)["usage"]["new_tokens"]
    finally:
        writer.close()


def main() -> None:
    """The program: a line of JSON for each number of clients."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("texts", type=Path, help="a text a line")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each (default: 8)")
    parser.add_argument(
        "--new-tokens",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="of each answer, in turn (default: what the model writes)",
    )
    options = parser.parse_args()
    bodies: list[dict[str, Any]] = [
        {"text": line} for line in options.texts.read_text(encoding="utf-8").splitlines()
    ]
    for body, count in zip(bodies, itertools.cycle(options.new_tokens or [0]), strict=False):
        if count:
            body |= {"min_new_tokens": count, "max_new_tokens": count}
    asyncio.run(put_load(options.url, bodies, 1, 1.0))  # all is warm
    for clients in options.clients:
        load = asyncio.run(put_load(options.url, bodies, clients, options.seconds))
        print(json.dumps(load.document()), flush=True)


if __name__ == "__main__":
    main()
