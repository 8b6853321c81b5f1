"""The scripts of benchmarks/peers, which are run from the repository and not installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"


@pytest.fixture
def peer_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A function from a script's name to its module, imported as when it is run."""
    monkeypatch.syspath_prepend(PEERS)
    return importlib.import_module
