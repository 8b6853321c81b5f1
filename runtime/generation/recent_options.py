"""Options that one call after the other gives: they are put together and checked once.

Both take as long as two or three steps of a small model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..bundle.manifest import Manifest
from .config import GenerationConfig
from .validation import check, read_with

#: Their values stay what they are: what is equal and of the same type is the same option.
_CONSTANTS = (int, float, str, bool, type(None))

#: Names, types and values of the options of a call.
_Key = tuple[tuple[str, type, Any], ...]


@dataclass
class _Entry:
    key: _Key
    config: GenerationConfig
    checked: GenerationConfig | None = None


class RecentOptions:
    """What was made of the last call's options. Several threads may use it at once.

    Args:
        default: the bundle's own options, in whose place those of calls are put.
        manifest: the bundle's.
    """

    def __init__(self, default: GenerationConfig, manifest: Manifest) -> None:
        self._default, self._manifest = default, manifest
        self._entry: _Entry | None = None
        self._own: GenerationConfig | None = None

    def find(self, own: GenerationConfig, options: Mapping[str, Any]) -> GenerationConfig | None:
        """``own`` with ``options`` in place of its own, if the last call had the same ones."""
        if not options:
            return own
        entry = self._entry
        if entry is None or own is not self._default or entry.key != _key(options):
            return None
        return entry.config

    def keep(
        self, own: GenerationConfig, options: Mapping[str, Any], config: GenerationConfig
    ) -> GenerationConfig:
        """``config``; remember that it is ``own`` with ``options``, where that can be told again.

        Not where a warning says that one of them is not read: it is to come again.
        """
        key = _key(options)
        if key is not None and own is self._default and not options.keys() & read_with(config):
            self._entry = _Entry(key, config)
        return config

    def checked(self, config: GenerationConfig) -> GenerationConfig:
        """What :func:`.check` makes of ``config``.

        Raises:
            InputError: as it does.
        """
        if config is self._default:
            self._own = self._own or check(config, self._manifest)
            return self._own
        entry = self._entry
        if entry is None or entry.config is not config:
            return check(config, self._manifest)
        entry.checked = entry.checked or check(config, self._manifest)
        return entry.checked


def _key(options: Mapping[str, Any]) -> _Key | None:
    """None: a value may be changed, or be equal to another one that means something else."""
    if any(type(value) not in _CONSTANTS for value in options.values()):
        return None
    return tuple((name, type(value), value) for name, value in options.items())
