"""Commands whose start somebody waits for leave the cores to loading."""

from __future__ import annotations

import os

import pytest

from seq2edge.cli.main import main

TIMEOUT = "OPENBLAS_THREAD_TIMEOUT"


@pytest.mark.parametrize(
    "command, given, expected",
    [
        (["run", "no.bundle", "a"], None, "4"),
        (["encode", "no.bundle", "a"], None, "4"),
        (["transcribe", "no.bundle", "a.wav"], None, "4"),
        (["run", "no.bundle", "a"], "20", "20"),
        (["inspect", "no.bundle"], None, None),
    ],
)
def test_idle_threads_of_numpy_sleep_unless_the_user_says_otherwise(
    command: list[str], given: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT, given or "")  # so that it is as before afterwards
    if given is None:
        monkeypatch.delenv(TIMEOUT)
    assert main(command) == 2
    assert os.environ.get(TIMEOUT) == expected
