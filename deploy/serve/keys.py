"""API keys: where they come from, and whether a client has one."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from seq2edge.runtime import InputError
from seq2edge.runtime.bundle.checks.json_text import read_file

#: Keys in the environment, separated by white space or commas.
VARIABLE = "SEQ2EDGE_API_KEYS"
_SHORTEST = 16
_LONGEST_FILE = 1 << 20


def read_keys(file: Path | None) -> tuple[str, ...]:
    """Keys of a file (one a line; empty lines and those that begin with # are none) and of the
    environment's :data:`VARIABLE`.

    Raises:
        InputError: a key that is too short to be one or is no ASCII, or a file without any.
        BundleError: a file that cannot be read.
    """
    keys = os.environ.get(VARIABLE, "").replace(",", " ").split()
    if file is not None:
        text = read_file(file, _LONGEST_FILE).decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise InputError(f"{file} holds no API key: write one a line")
        keys += found
    for number, key in enumerate(keys, start=1):
        if len(key) < _SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(
                f"API key {number} is none: it takes at least {_SHORTEST} letters, digits and signs"
                " of ASCII, such as those that 'openssl rand -hex 24' writes"
            )
    return tuple(dict.fromkeys(keys))


class KeyRing:
    """The keys of a service. None: every client is let in."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        # Digests have one length, so a comparison tells nothing of a key's.
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admits(self, key: str | None) -> bool:
        """Whether ``key`` is one of them, in a time that does not depend on it."""
        if not self._digests:
            return True
        digest = _digest(key or "")
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found and key is not None


def bearer(header: str | None) -> str | None:
    """The key of an Authorization header."""
    kind, _, key = (header or "").partition(" ")
    return key.strip() if kind.lower() == "bearer" and key.strip() else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
