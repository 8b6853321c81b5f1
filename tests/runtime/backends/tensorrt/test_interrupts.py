"""Ctrl-C and SIGTERM end a build, wherever TensorRT is at that moment."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seq2edge.runtime import Bundle
from seq2edge.runtime.backends.tensorrt import Options, ensure_engines, load_library
from seq2edge.runtime.backends.tensorrt.library import logger

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("message", [5, 400])
def test_an_interrupt_while_tensorrt_logs_ends_the_build(
    number: signal.Signals,
    message: int,
    bundle_of: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TensorRT calls Python to log, and loses what is raised there."""
    bundle = Bundle.open(bundle_of("t5"))
    kind: Any = type(logger(load_library("tensorrt-rtx")))
    log, left = kind.log, [message]

    def interrupted(self: Any, severity: Any, text: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(number)
        log(self, severity, text)

    def ends(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, "log", interrupted)
    before = signal.signal(number, ends)
    try:
        with pytest.raises(KeyboardInterrupt):
            ensure_engines(bundle, Options("tensorrt-rtx", compute_capabilities=("8.6",)))
        assert signal.getsignal(number) is ends
    finally:
        signal.signal(number, before)
    assert left[0] <= 0
    assert not bundle.directory.with_name(f"{bundle.directory.name}.engines").exists()
