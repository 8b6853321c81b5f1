"""Lines of text from a file or a pipe: the one reader of every command that takes text."""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Iterator
from typing import BinaryIO

from ..errors import InputError

#: What may be done with bytes that are not UTF-8 (a subset of Python's error handlers).
ENCODING_ERRORS = ("strict", "replace")

_ENDS = (b"\r\n", b"\n", b"\r")

_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # begins with UTF-16's mark, so it is looked for first
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_lines(
    stream: BinaryIO, name: str, *, encoding_errors: str = "strict", warn: bool = True
) -> Iterator[str]:
    r"""The lines of a UTF-8 stream without their ends, one at a time as they are read.

    A line ends as in Python's text files: LF, CRLF or a lone CR. Nothing else ends one: a form
    feed, U+0085 or U+2028 stays in its line. A byte order mark at the start is not part of the
    text, and the last line needs no end. NUL is a character like any other.

    Args:
        stream: binary; it is not closed.
        name: what error messages call it.
        encoding_errors: ``strict``, or ``replace``: bytes that are not UTF-8 become U+FFFD, and
            a warning at the end says in how many lines.
        warn: give that warning.

    Raises:
        InputError: a line that is not UTF-8, named by its number and the byte's offset; a
            stream in UTF-16 or UTF-32; another value of ``encoding_errors``; a read that fails.
    """
    if encoding_errors not in ENCODING_ERRORS:
        raise InputError(
            f"encoding errors can be {' or '.join(ENCODING_ERRORS)}, not {encoding_errors!r}"
        )
    replaced: list[int] = []
    for number, (offset, line) in enumerate(_byte_lines(stream, name), start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            if encoding_errors == "strict":
                raise InputError(_not_utf8(name, number, offset, error)) from None
            replaced.append(number)
            yield line.decode(errors="replace")
    if replaced and warn:
        count = len(replaced)
        where = f"line {replaced[0]}" if count == 1 else f"{count} lines, the first line"
        where += "" if count == 1 else f" {replaced[0]}"
        warnings.warn(
            f"{name}: bytes that are not UTF-8 were replaced by U+FFFD in {where}", stacklevel=2
        )


def _byte_lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Each line's offset in the stream and its bytes."""
    offset = 0
    try:
        for raw in stream:  # a stream of bytes is split at LF only
            if not offset:
                _check_encoding(raw, name)
                if raw.startswith(codecs.BOM_UTF8):
                    offset, raw = len(codecs.BOM_UTF8), raw[len(codecs.BOM_UTF8) :]
                    if not raw:  # nothing but the mark
                        return
            end = next((end for end in _ENDS if raw.endswith(end)), b"")
            start = offset
            for line in raw[: len(raw) - len(end)].split(b"\r"):
                yield start, line
                start += len(line) + 1
            offset += len(raw)
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None


def _check_encoding(start: bytes, name: str) -> None:
    found = next((e for mark, e in _OTHER_ENCODINGS.items() if start.startswith(mark)), None)
    even, odd = start[::2], start[1::2]
    ascii_in_16_bits = (all(even) and not any(odd)) or (all(odd) and not any(even))
    if found is None and len(start) > 3 and any(start) and ascii_in_16_bits:
        found = "UTF-16"  # without its mark
    if found is not None:
        raise InputError(
            f"{name} is not UTF-8 but {found}: convert it first"
            f" (iconv -f {found} -t UTF-8 FILE > NEW)"
        )


def _not_utf8(name: str, number: int, offset: int, error: UnicodeDecodeError) -> str:
    byte, place = error.object[error.start], error.start
    return (
        f"{name}, line {number} is not UTF-8 text: byte 0x{byte:02x} at offset {place} of the line"
        f" (offset {offset + place} of the file); convert the file (such as iconv -f ISO-8859-1 -t"
        " UTF-8 FILE > NEW), or replace such bytes with --encoding-errors replace"
    )
