"""The TOML file that describes a state dict (docs/pytorch.md)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from seq2edge.runtime.bundle.manifest import SpecialTokens
from seq2edge.runtime.dependencies import needs

from ..errors import CheckpointError
from ..spec import Activation
from .parts import LayerOptions, ModuleDescription, ModuleParts, PositionalEncoding

_ROOT_KEYS = (
    "encoder",
    "decoder",
    "source_embedding",
    "target_embedding",
    "generator",
    "embedding_scale",
    "target_embedding_scale",
    "encoder_norm",
    "decoder_norm",
    "ignored",
    "positions",
    "target_positions",
    "layers",
    "encoder_layers",
    "decoder_layers",
    "tokens",
)
_LAYER_KEYS = ("nhead", "activation", "norm_first", "layer_norm_eps", "final_norm_eps")
_POSITION_KEYS = ("kind", "table", "length")
_TOKEN_KEYS = ("pad", "decoder_start", "eos")
#: Short for transformers' name of the tanh approximation.
_TANH_NAMES = ("gelu_tanh", "gelu_pytorch_tanh")
_REQUIRED: Any = object()


def read_description(path: Path) -> tuple[ModuleDescription, SpecialTokens]:
    """Parts, layers' options and special tokens.

    Raises:
        CheckpointError: unreadable, or a key that is unknown, missing or of a wrong type.
        MissingDependencyError: Python 3.10 without the package tomli.
    """
    root = _Table(path, "", _load(path), _ROOT_KEYS)
    parts = ModuleParts(
        encoder=root.get("encoder", str),
        decoder=root.get("decoder", str),
        source_embedding=root.get("source_embedding", str),
        target_embedding=root.get("target_embedding", str),
        generator=root.get("generator", str, None),
        positions=_positions(root.table("positions", _POSITION_KEYS)),
        target_positions=(
            _positions(root.table("target_positions", _POSITION_KEYS))
            if "target_positions" in root.values
            else None
        ),
        embedding_scale=root.get("embedding_scale", (int, float, str), 1.0),
        target_embedding_scale=root.get("target_embedding_scale", (int, float, str), None),
        encoder_norm=root.get("encoder_norm", str, None),
        decoder_norm=root.get("decoder_norm", str, None),
        ignored=tuple(root.items("ignored", str, [])),
    )
    tokens = root.table("tokens", _TOKEN_KEYS)
    special = SpecialTokens(
        pad=tokens.get("pad", int),
        decoder_start=tokens.get("decoder_start", int),
        eos=tuple(tokens.items("eos", int)),
    )
    return ModuleDescription(parts, _options(root, "encoder"), _options(root, "decoder")), special


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


def _positions(table: _Table) -> PositionalEncoding:
    return PositionalEncoding(
        kind=table.get("kind", str),
        table=table.get("table", str, None),
        length=table.get("length", int, None),
    )


def _options(root: _Table, side: str) -> LayerOptions:
    """``[layers]``, and over it what ``[encoder_layers]`` or ``[decoder_layers]`` has."""
    table = root.table("layers", _LAYER_KEYS)
    own = f"{side}_layers"
    if own in root.values:
        over = root.table(own, _LAYER_KEYS)
        table = _Table(root.path, over.section, {**table.values, **over.values}, _LAYER_KEYS)
    epsilon = table.get("layer_norm_eps", (int, float), 1e-5)
    return LayerOptions(
        heads=table.get("nhead", int),
        activation=_activation(table),
        norm_first=table.get("norm_first", bool),
        epsilon=float(epsilon),
        final_epsilon=float(table.get("final_norm_eps", (int, float), epsilon)),
    )


def _activation(table: _Table) -> Activation:
    value = table.get("activation", str)
    try:
        return Activation("gelu_new" if value in _TANH_NAMES else value)
    except ValueError:
        known = ", ".join(sorted([*(a.value for a in Activation), *_TANH_NAMES]))
        raise CheckpointError(
            f"{table.path}: {table.section}activation {value!r} is not supported; known"
            f" activations: {known}"
        ) from None


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

    def table(self, key: str, known: tuple[str, ...]) -> _Table:
        """A table within this one.

        Raises:
            CheckpointError: missing, no table, or one with unknown keys.
        """
        return _Table(self.path, f"{key}.", self.get(key, dict), known)
