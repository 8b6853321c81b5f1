"""Texts that a command works on: from the command line, a file or standard input."""

from __future__ import annotations

import argparse
import itertools
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

#: A window of so many batches is sorted by length: little padding, and results still come while
#: a long input runs.
_BATCHES_PER_WINDOW = 16


def add_texts(parser: argparse.ArgumentParser) -> None:
    """Texts as arguments, or ``--input``."""
    parser.add_argument("text", nargs="*", help="source texts")
    parser.add_argument(
        "--input",
        metavar="FILE",
        help="read source texts from a file, one per line; - is stdin. A blank line is answered"
        " with a blank line",
    )
    add_encoding(parser)


def add_encoding(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--encoding-errors",
        choices=("strict", "replace"),
        default="strict",
        help="bytes that are not UTF-8: stop and name the line (strict, default), or put U+FFFD in"
        " their place (replace)",
    )


@dataclass(frozen=True)
class Texts:
    """Source texts in order.

    Attributes:
        unit: what an error message calls one: ``text`` or ``line``.
        total: how many there are; None: standard input or a pipe will tell.
    """

    lines: Iterable[str]
    unit: str
    total: int | None

    def windows(self, batch_size: int) -> Iterator[Window]:
        """All texts, some batches at a time, so that only those are in memory."""
        lines, start = iter(self.lines), 0
        while part := list(itertools.islice(lines, batch_size * _BATCHES_PER_WINDOW)):
            yield Window(part, start, self.unit)
            start += len(part)


@dataclass(frozen=True)
class Window:
    """Texts that follow each other: ``start`` have come before them."""

    texts: list[str]
    start: int
    unit: str

    @property
    def end(self) -> int:
        """How many texts there have been with these."""
        return self.start + len(self.texts)

    @property
    def filled(self) -> list[str]:
        """Those that are not blank."""
        return [self.texts[index] for index in self.positions]

    @property
    def positions(self) -> list[int]:
        """Where ``filled`` are among ``texts``."""
        return [index for index, text in enumerate(self.texts) if text.strip()]

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Errors and warnings about one of ``filled`` name it by its number in the whole input.

        Raises:
            InputError: in place of a SourceError.
        """
        from seq2edge.runtime import InputError
        from seq2edge.runtime.errors import SourceError, SourceWarning

        def named(about: SourceError | SourceWarning) -> str:
            number = self.start + self.positions[about.index] + 1
            return f"{self.unit} {number} {about.reason}"

        def renamed(message: Warning | str, *rest: Any, **more: Any) -> None:
            show(named(message) if isinstance(message, SourceWarning) else message, *rest, **more)

        with warnings.catch_warnings():
            show, warnings.showwarning = warnings.showwarning, renamed
            try:
                yield
            except SourceError as error:
                raise InputError(named(error)) from None


def write(text: str) -> None:
    """To stdout in one piece, at once: a run that is killed leaves whole lines."""
    print(text, end="", flush=True)


@contextmanager
def open_texts(options: argparse.Namespace, *, blank: bool = True) -> Iterator[Texts]:
    """The texts of :func:`add_texts`.

    A file is read twice, the first time to check all of it before a text is answered; a pipe
    only once, so that an error in it is found where it stands.

    Args:
        blank: whether a line may be blank. A blank argument is always refused: it is what an
            unset variable of the shell leaves.

    Raises:
        InputError: not UTF-8, a blank text that may not be, or a file that cannot be read.
    """
    from seq2edge.runtime import InputError

    if bool(options.text) == (options.input is not None):
        raise InputError("give either texts or --input FILE")
    if options.input is None:
        texts = _arguments(options.text, options.encoding_errors)
        yield Texts(texts, "text", len(texts))
        return
    with _opened(options.input) as stream:
        total = None
        if stream.seekable():
            start = stream.tell()
            total = sum(1 for _ in _lines(stream, options, blank, warn=False))
            stream.seek(start)
        yield Texts(_lines(stream, options, blank), "line", total)


def _arguments(texts: list[str], encoding_errors: str) -> list[str]:
    from seq2edge.runtime import InputError

    decoded = []
    for number, text in enumerate(texts, start=1):
        # Python keeps bytes of arguments that are not UTF-8 as surrogates (PEP 383).
        try:
            text = text.encode(errors="surrogateescape").decode(errors=encoding_errors)
        except UnicodeError:
            raise InputError(
                f"text {number} is not UTF-8; --encoding-errors replace takes it all the same"
            ) from None
        if not text.strip():
            raise InputError(f"text {number} is empty")
        decoded.append(text)
    return decoded


def _opened(name: str) -> BinaryIO:
    from seq2edge.runtime import InputError

    if name == "-":
        if sys.stdin is None:
            raise InputError("cannot read -: standard input is closed")
        return sys.stdin.buffer
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None


def _lines(
    stream: BinaryIO, options: argparse.Namespace, blank: bool, *, warn: bool = True
) -> Iterator[str]:
    from seq2edge.runtime import InputError
    from seq2edge.runtime.text.lines import read_lines

    name = "standard input" if options.input == "-" else options.input
    lines = read_lines(stream, name, encoding_errors=options.encoding_errors, warn=warn)
    for number, line in enumerate(lines, start=1):
        if not blank and not line.strip():
            raise InputError(f"line {number} is empty; without --strict its answer is a blank line")
        yield line
