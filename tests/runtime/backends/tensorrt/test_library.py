"""Which TensorRT is taken, and what is said where there is none."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from seq2edge.runtime import BackendError
from seq2edge.runtime.backends.tensorrt import load_library


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Only modules of these names can be imported; their version is 9.9."""
    for name in ("tensorrt_rtx", "tensorrt"):
        module = ModuleType(name)
        module.__dict__["__version__"] = "9.9"
        monkeypatch.setitem(sys.modules, name, module if name in names else None)


def test_tensorrt_rtx_is_preferred_and_either_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, "tensorrt_rtx", "tensorrt")
    assert load_library().engine == "tensorrt-rtx"
    library = load_library("tensorrt")
    assert (library.engine, library.version) == ("tensorrt", "9.9")
    assert library.module.__name__ == "tensorrt"


def test_tensorrt_is_taken_where_it_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "tensorrt")
    assert load_library().engine == "tensorrt"


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (None, r"neither tensorrt-rtx nor tensorrt is installed: pip install"),
        ("tensorrt", r"tensorrt is not installed: pip install tensorrt cuda-bindings"),
        ("openvino", r"unknown engine 'openvino'; there are: tensorrt-rtx, tensorrt"),
    ],
)
def test_what_is_not_there_is_said(
    engine: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    with pytest.raises(BackendError, match=message):
        load_library(engine)
