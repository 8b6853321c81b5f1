"""Progress is one line on a terminal, which is gone at the end."""

from __future__ import annotations

import io

import pytest

from seq2edge.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(terminal: Terminal) -> list[str]:
    """Each state of the line, the empty one last."""
    return terminal.getvalue().split("\r\x1b[K")[1:]


def test_a_line_counts_within_each_stage_and_is_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seq2edge.cli.progress._INTERVAL", 0)
    terminal = Terminal()
    with Progress(stream=terminal) as progress:
        progress("copying", 0, 2)
        progress("copying", 2, 2)
        progress("downloading", 0, 0)  # nobody knows how many
        progress("texts", 7, None)
    assert shown(terminal) == [
        "copying: 0 of 2",
        "copying: 2 of 2",
        "downloading: ...",
        "texts: 7",
        "",
    ]


def test_the_line_says_what_is_left_and_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seq2edge.cli.progress._INTERVAL", 0)
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    with Progress(stream=terminal) as progress:
        progress("measurement " + "x" * 100, 0, 300)
        progress("measurement " + "x" * 100, 299, 300)
    start, line, end = shown(terminal)
    assert start.endswith(": 0 of 300")
    assert line.endswith(": 299 of 300, 0 s left")
    assert end == ""
    assert max(len(start), len(line)) < 40


def test_files_and_pipes_get_nothing() -> None:
    stream, terminal = io.StringIO(), Terminal()
    with Progress(stream=stream) as progress, Progress(False, terminal) as hidden:
        progress("texts", 1, 2)
        hidden("texts", 1, 2)
    assert stream.getvalue() == terminal.getvalue() == ""
