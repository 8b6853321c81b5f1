"""How a service runs: where it listens, what it allows, how long it waits."""

from __future__ import annotations

from dataclasses import dataclass, field

from seq2edge.deploy.token_limit import MAX_NEW_TOKENS


@dataclass(frozen=True)
class Limits:
    """What a request, a client and the queue may take. Times are in seconds.

    Attributes:
        max_batch: texts of a bundle that are decoded at once.
        max_recordings: recordings of a bundle that are transcribed in turns.
        batch_wait: how long an idle model waits for company of the first request.
        max_queue: texts (or recordings) of a bundle that may wait for those that run; more are
            answered with 429.
        max_texts: texts of one request.
        max_characters: of one text.
        max_source_tokens: of one text, as an encoder's memory grows with their square; None: what
            the model takes.
        max_new_tokens: of one result.
        max_beams: beams, results and samples of one text.
        max_body: bytes of a request without a recording.
        max_audio_body: bytes of a request with one.
        max_audio_seconds: of one recording.
        timeout: of a request, waiting included.
        header_timeout: until a request's headers are there.
        body_timeout: between two parts of a body.
        write_timeout: until a client reads on.
        keep_alive: of a connection on which nothing is asked.
        max_connections: at once; the longest idle one makes room for a new one.
        drain_timeout: for what was accepted, when the service is stopped.
    """

    max_batch: int = 8
    max_recordings: int = 4
    batch_wait: float = 0.003
    max_queue: int = 64
    max_texts: int = 32
    max_characters: int = 20_000
    max_source_tokens: int | None = 4096
    max_new_tokens: int = MAX_NEW_TOKENS
    max_beams: int = 8
    max_body: int = 1 << 20
    max_audio_body: int = 64 << 20
    max_audio_seconds: float = 3600.0
    timeout: float = 300.0
    header_timeout: float = 10.0
    body_timeout: float = 20.0
    write_timeout: float = 30.0
    keep_alive: float = 15.0
    max_connections: int = 512
    drain_timeout: float = 30.0


@dataclass(frozen=True)
class Pair:
    """The languages that a bundle translates where it names none itself.

    Attributes:
        source: code of the language of the sources.
        target: code of the language that is written; None: the bundle names those.
    """

    source: str
    target: str | None = None


@dataclass(frozen=True)
class Settings:
    """A service.

    Attributes:
        host, port: where HTTP is spoken; port 0: any that is free.
        unix_socket: a socket's path in place of both; None: none.
        wyoming: host and port of the Wyoming protocol; None: it is not spoken.
        keys: API keys any of which a client must have; (): none is asked for.
        without_keys: whether everyone may ask who reaches the address; else, without keys, only
            requests that name this machine as their host are answered.
        pairs: by a bundle's name, the languages that it does not name itself.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    unix_socket: str | None = None
    wyoming: tuple[str, int] | None = None
    keys: tuple[str, ...] = field(default=(), repr=False)
    without_keys: bool = False
    limits: Limits = field(default_factory=Limits)
    pairs: dict[str, Pair] = field(default_factory=dict)
