"""Families by the ``model_type`` of config.json. A new one is one file and one line here."""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError
from . import bart, t5
from .base import Config, Family

FAMILIES: tuple[Family, ...] = (t5.FAMILY, bart.FAMILY)


def find_family(config: dict[str, Any]) -> tuple[Family, Config]:
    """The family of a config.json, and the config with that family's defaults.

    Raises:
        CheckpointError: an unknown ``model_type``, with the known ones.
    """
    kind = config.get("model_type")
    for family in FAMILIES:
        if kind in family.model_types:
            defaults = {**family.defaults, **family.type_defaults.get(str(kind), {})}
            return family, Config(config, defaults)
    known = ", ".join(sorted(name for family in FAMILIES for name in family.model_types))
    raise CheckpointError(f"config.json: model_type {kind!r} is not supported; known: {known}")
