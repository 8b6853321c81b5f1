"""Models whose arrays are on a device that every machine has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ...generation.copying import lively_bundle


@pytest.fixture(scope="session")
def lively_of(variant_of: Callable[..., Any]) -> Callable[[str], Path]:
    """A function from a shape to a random model's bundle whose outputs end at different times."""
    made: dict[str, Path] = {}

    def get(shape: str) -> Path:
        if shape not in made:
            made[shape] = lively_bundle(variant_of, shape)
        return made[shape]

    return get
