"""Libraries of the extra ``quality``, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from seq2edge.runtime.dependencies import needs


def library(module: str, user: str) -> Any:
    """Import a module of the extra ``quality``.

    Raises:
        MissingDependencyError: it is not installed; the message says what to install.
    """
    with needs(user):
        return importlib.import_module(module)
