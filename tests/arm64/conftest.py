"""The scripts of this folder, which are run from the repository and not installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


def _script(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(HERE)
    return importlib.import_module(name)


@pytest.fixture
def debian(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _script(monkeypatch, "debian")


@pytest.fixture
def agreement(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _script(monkeypatch, "agreement")


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return _script(monkeypatch, "emulator")
