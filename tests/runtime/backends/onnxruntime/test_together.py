"""Encoder and decoder are opened at once: results, errors and settings are as if one by one."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from seq2edge.runtime import BackendError, Seq2SeqModel
from seq2edge.runtime.backends.onnxruntime.session import profiled
from seq2edge.runtime.backends.onnxruntime.together import together

_SETTING: contextvars.ContextVar[int] = contextvars.ContextVar("setting", default=0)


def test_both_run_at_once_and_give_their_results() -> None:
    both = threading.Barrier(2, timeout=30)

    def call(value: str) -> Callable[[], str]:
        def run() -> str:
            both.wait()
            return value

        return run

    assert together(call("encoder"), call("decoder")) == ("encoder", "decoder")


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_comes_when_the_other_has_ended(failing: int) -> None:
    ended: list[int] = []

    def call(number: int) -> Callable[[], None]:
        def run() -> None:
            if number == failing:
                raise BackendError(f"number {number}")
            ended.append(number)

        return run

    with pytest.raises(BackendError, match=f"number {failing}"):
        together(call(0), call(1))
    assert ended == [1 - failing]


def test_settings_of_the_caller_hold_in_both() -> None:
    token = _SETTING.set(7)
    try:
        assert together(_SETTING.get, _SETTING.get) == (7, 7)
    finally:
        _SETTING.reset(token)


def test_both_graphs_are_profiled(bundle_of: Callable[[str], Path], tmp_path: Path) -> None:
    with profiled(str(tmp_path / "nodes")), Seq2SeqModel.load(bundle_of("t5")) as model:
        model.generate_ids([[5, 6, 1]], max_new_tokens=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    for graph in ("encoder", "decoder"):
        assert any(name.startswith(f"nodes.{graph}") for name in names), names
