"""Lines are those of Python's text files, and a line that is not UTF-8 is named."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2edge.runtime import InputError
from seq2edge.runtime.text.lines import read_lines


def lines(data: bytes, encoding_errors: str = "strict") -> list[str]:
    return list(read_lines(io.BytesIO(data), "FILE", encoding_errors=encoding_errors))


def python(data: bytes) -> list[str]:
    """What Python's own text files make of it."""
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline=None)
    return [line.removesuffix("\n") for line in text]


PIECES = ["a", "ü", "\n", "\r", "\r\n", "\0", "\ufeff", "\x0c", "\u2028", "\x85", " ", "\t"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_lines_are_those_of_a_text_file(text: str) -> None:
    # A letter first: two bytes of which one is NUL may be UTF-16.
    for data in (f"text{text}".encode(), f"\ufefftext{text}".encode()):
        assert lines(data) == python(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\n", [""]),
        (b"\r", [""]),
        (b"\xef\xbb\xbf\n", [""]),
        (b"one\n\ntwo", ["one", "", "two"]),
        (b"one\rtwo\r\r\nthree\r", ["one", "two", "", "three"]),
        (b"nul \0 byte\n\0\n", ["nul \0 byte", "\0"]),
        (b"\xef\xbb\xbfone\r\n\xef\xbb\xbftwo", ["one", "\ufefftwo"]),  # only one mark
    ],
)
def test_ends_marks_and_blank_lines(data: bytes, expected: list[str]) -> None:
    assert lines(data) == expected
    assert python(data) == expected


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\x80"])
def test_a_bad_byte_is_named_by_line_and_offset(mark: bytes, end: bytes, bad: bytes) -> None:
    data = mark + b"one" + end + b"two" + end + "größ".encode() + bad + b"!" + end + b"four"
    place = data.index(bad + b"!")
    expected = (
        rf"^FILE, line 3 is not UTF-8 text: byte 0x{bad[0]:02x} at offset 6 of the line \(offset"
        rf" {place} of the file\); .*iconv.*--encoding-errors replace$"
    )
    reader = read_lines(io.BytesIO(data), "FILE")
    assert [next(reader), next(reader)] == ["one", "two"]  # those before it are given
    with pytest.raises(InputError, match=expected):
        next(reader)


def test_bytes_can_be_replaced_and_that_is_said() -> None:
    data = b"fine\n\xffbad\nfine\nand \xc3\n"
    with pytest.warns(UserWarning, match=r"FILE: .* U\+FFFD in 2 lines, the first line 2"):
        assert lines(data, "replace") == ["fine", "\ufffdbad", "fine", "and \ufffd"]
    with pytest.warns(UserWarning, match=r"U\+FFFD in line 1$"):
        lines(b"\xff", "replace")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lines("größe\n".encode(), "replace") == ["größe"]
    with pytest.raises(InputError, match="strict or replace, not 'ignore'"):
        lines(b"", "ignore")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("encoding_errors", ["strict", "replace"])
def test_other_encodings_are_named(encoding: str, encoding_errors: str) -> None:
    data = "hello world\r\nsecond\r\n".encode(encoding)
    kind = encoding[:6].upper()
    with pytest.raises(InputError, match=rf"FILE is not UTF-8 but {kind}: convert it.*iconv"):
        lines(data, encoding_errors)


def test_a_read_that_fails_is_named() -> None:
    with (
        Path("/proc/self/mem").open("rb") as stream,
        pytest.raises(InputError, match="cannot read"),
    ):
        list(read_lines(stream, "FILE"))
