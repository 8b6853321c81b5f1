"""The TOML file that describes a state dict (docs/pytorch.md)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from seq2edge.runtime.bundle.manifest import SpecialTokens
from seq2edge.runtime.dependencies import needs

from ..errors import CheckpointError
from .names import merged_names
from .parts import (
    LayerOptions,
    ModuleDescription,
    ModuleParts,
    PositionalEncoding,
    layer_options,
)
from .presets import find_layout_preset

_ROOT_KEYS = (
    "layout",
    "encoder",
    "decoder",
    "source_embedding",
    "target_embedding",
    "generator",
    "embedding_scale",
    "target_embedding_scale",
    "encoder_norm",
    "decoder_norm",
    "encoder_embedding_norm",
    "decoder_embedding_norm",
    "ignored",
    "positions",
    "target_positions",
    "names",
    "encoder_names",
    "decoder_names",
    "layers",
    "encoder_layers",
    "decoder_layers",
    "tokens",
)
_LAYER_KEYS = (
    "nhead",
    "activation",
    "norm_first",
    "layer_norm_eps",
    "final_norm_eps",
    "norm",
    "norm_offset",
)
_POSITION_KEYS = ("kind", "table", "length", "order", "offset", "scale")
_TOKEN_KEYS = ("pad", "decoder_start", "eos")
_REQUIRED: Any = object()


def read_description(path: Path) -> tuple[ModuleDescription, SpecialTokens]:
    """Parts, layers' options and special tokens.

    Raises:
        CheckpointError: unreadable, or a key that is unknown, missing or of a wrong type.
        MissingDependencyError: Python 3.10 without the package tomli.
    """
    root = _Table(path, "", _load(path), _ROOT_KEYS)
    preset = None if "layout" not in root.values else find_layout_preset(root.get("layout", str))
    usual = None if preset is None else preset.parts
    tokens = root.table("tokens", _TOKEN_KEYS)
    special = SpecialTokens(
        pad=tokens.get("pad", int),
        decoder_start=tokens.get("decoder_start", int),
        eos=tuple(tokens.items("eos", int)),
    )
    options = {} if preset is None else preset.layers
    sides = [_options(root, side, options) for side in ("encoder", "decoder")]
    return ModuleDescription(_parts(root, usual), *sides), special


def _parts(root: _Table, usual: ModuleParts | None) -> ModuleParts:
    """The parts that the file names; others are those of the layout, if it has one."""

    def default(key: str, otherwise: Any) -> Any:
        return otherwise if usual is None else getattr(usual, key)

    encoder_names = _names(root, "encoder", usual)
    decoder_names = _names(root, "decoder", usual)
    own = _REQUIRED if encoder_names is None else None
    positions = _positions(root, "positions", default("positions", _REQUIRED))
    return ModuleParts(
        encoder=root.get("encoder", str, default("encoder", own)),
        decoder=root.get("decoder", str, default("decoder", own)),
        source_embedding=root.get("source_embedding", str, default("source_embedding", _REQUIRED)),
        target_embedding=root.get("target_embedding", str, default("target_embedding", _REQUIRED)),
        generator=root.get("generator", str, default("generator", None)),
        positions=positions,
        target_positions=_positions(
            root, "target_positions", default("target_positions", None), default("positions", None)
        ),
        embedding_scale=root.get(
            "embedding_scale", (int, float, str), default("embedding_scale", 1.0)
        ),
        target_embedding_scale=root.get(
            "target_embedding_scale", (int, float, str), default("target_embedding_scale", None)
        ),
        encoder_norm=root.get("encoder_norm", str, default("encoder_norm", None)),
        decoder_norm=root.get("decoder_norm", str, default("decoder_norm", None)),
        encoder_embedding_norm=root.get(
            "encoder_embedding_norm", str, default("encoder_embedding_norm", None)
        ),
        decoder_embedding_norm=root.get(
            "decoder_embedding_norm", str, default("decoder_embedding_norm", None)
        ),
        encoder_names=encoder_names,
        decoder_names=decoder_names,
        ignored=(*default("ignored", ()), *root.items("ignored", str, [])),
        refused=default("refused", {}),
        # What the file names itself has to be there.
        optional=tuple(key for key in default("optional", ()) if key not in root.values),
    )


def _load(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        with needs(f"{path}, TOML,", instead=" (or use Python 3.11)"):
            tomllib = import_module("tomli")
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    return values


def _names(root: _Table, side: str, usual: ModuleParts | None) -> dict[str, str] | None:
    """The layout's names, over them ``[names]``, and over those the side's; None: no names."""
    preset: Mapping[str, str] = {}
    if usual is not None:
        preset = getattr(usual, f"{side}_names") or {}
    tables = {key: root.get(key, dict, {}) for key in ("names", f"{side}_names")}
    given: dict[str, str] = {}
    for section, table in tables.items():
        for key, value in _flat(table):
            if not isinstance(value, str):
                raise CheckpointError(
                    f"{root.path}: {section}.{key} must be a string, not {value!r}"
                )
            if section == "names" and side == "encoder" and key.startswith("cross_attention"):
                continue
            given[key] = value
    if not given and not preset:
        return {} if "names" in root.values else None
    return merged_names(preset, given)


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """``self_attention.query = ...`` without quotes is a table within a table."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def _positions(root: _Table, key: str, usual: Any, otherwise: Any = None) -> Any:
    """The table of that name; without a kind of its own, it changes the layout's.

    ``otherwise`` is what it changes where the layout has none under that name.
    """
    if key not in root.values and usual is not _REQUIRED:
        return usual
    table = root.table(key, _POSITION_KEYS)
    before = otherwise if usual in (None, _REQUIRED) else usual

    def default(name: str, without: Any) -> Any:
        return without if before is None or "kind" in table.values else getattr(before, name)

    return PositionalEncoding(
        kind=table.get("kind", str, default("kind", _REQUIRED)),
        table=table.get("table", str, default("table", None)),
        length=table.get("length", int, default("length", None)),
        order=table.get("order", str, default("order", "interleaved")),
        offset=table.get("offset", int, default("offset", 0)),
        scale=table.get("scale", (int, float, str), default("scale", 1.0)),
    )


def _options(root: _Table, side: str, usual: Mapping[str, Any]) -> LayerOptions:
    """``[layers]``, and over it what ``[encoder_layers]`` or ``[decoder_layers]`` has."""
    over = root.table("layers", _LAYER_KEYS, {} if "nhead" in usual else _REQUIRED)
    values = {**usual, **over.values}
    own = f"{side}_layers"
    if own in root.values:
        over = root.table(own, _LAYER_KEYS)
        values |= over.values
    table = _Table(root.path, over.section, values, _LAYER_KEYS)
    epsilon = float(table.get("layer_norm_eps", (int, float), 1e-5))
    try:
        return layer_options(
            nhead=table.get("nhead", int),
            activation=table.get("activation", str),
            norm_first=table.get("norm_first", bool),
            layer_norm_eps=epsilon,
            final_norm_eps=float(table.get("final_norm_eps", (int, float), epsilon)),
            norm=table.get("norm", str, None),
            norm_offset=float(table.get("norm_offset", (int, float), 0.0)),
        )
    except CheckpointError as error:
        message = str(error)
        prefix = "" if message.startswith(str(root.path)) else f"{root.path}: {table.section}"
        raise CheckpointError(f"{prefix}{message}") from None


_NAMES = {str: "a string", int: "an integer", bool: "true or false", dict: "a table"}


class _Table:
    """Typed access to a table of the file.

    Raises:
        CheckpointError: here, for keys that are not among ``known``.
    """

    def __init__(
        self, path: Path, section: str, values: Mapping[str, Any], known: tuple[str, ...]
    ) -> None:
        self.path, self.section, self.values = path, section, values
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise CheckpointError(
                f"{path}: unknown keys: {', '.join(section + key for key in unknown)}; known:"
                f" {', '.join(known)}"
            )

    def get(self, key: str, kind: Any, default: Any = _REQUIRED) -> Any:
        """A value of one of the types ``kind``; without a default, it has to be there.

        Raises:
            CheckpointError: missing, or of another type.
        """
        what = _NAMES.get(kind, "a number" if kind == (int, float) else "a number or a string")
        value = self.values.get(key, default)
        if value is _REQUIRED:
            raise CheckpointError(f"{self.path}: {self.section}{key} is missing; it is {what}")
        if value is not default and (
            not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        ):
            raise CheckpointError(f"{self.path}: {self.section}{key} must be {what}, not {value!r}")
        return value

    def items(self, key: str, kind: type, default: Any = _REQUIRED) -> list[Any]:
        """A list of values of one type.

        Raises:
            CheckpointError: missing, or of another type.
        """
        values = self.values.get(key, default)
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise CheckpointError(
                f"{self.path}: {self.section}{key} must be a list, each {_NAMES[kind]}"
            )
        return values

    def table(self, key: str, known: tuple[str, ...], default: Any = _REQUIRED) -> _Table:
        """A table within this one; without a default, it has to be there.

        Raises:
            CheckpointError: missing, no table, or one with unknown keys.
        """
        return _Table(self.path, f"{key}.", self.get(key, dict, default), known)
