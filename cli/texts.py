"""Texts that a command works on: from the command line, a file or standard input."""

from __future__ import annotations

import sys
from pathlib import Path


def read_texts(texts: list[str], name: str | None) -> list[str]:
    """``texts``, or the lines of the file ``name`` (``-`` is standard input) where it is given.

    Raises:
        InputError: a text that is not UTF-8, or a file that cannot be read.
    """
    return _checked(texts) if name is None else _read_lines(name)


def _checked(texts: list[str]) -> list[str]:
    from seq2edge.runtime import InputError

    for number, text in enumerate(texts, start=1):
        try:
            text.encode()
        except UnicodeEncodeError:  # Python keeps bytes that are no UTF-8 as surrogates
            raise InputError(f"text {number} is not UTF-8") from None
    return texts


def _read_lines(name: str) -> list[str]:
    from seq2edge.runtime import InputError

    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{name} is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    # Not splitlines: a form feed or a Unicode line separator does not end a text.
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]
