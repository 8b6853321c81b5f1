"""A family: how to read one kind of checkpoint. Nothing here knows about graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from seq2edge.runtime.bundle.speech_info import SpeechInfo

from ..checkpoint import Checkpoint
from ..errors import CheckpointError
from ..spec import Activation, ModelSpec
from ..weights import WeightMapping

Spec = TypeVar("Spec", bound=ModelSpec)


@dataclass(frozen=True)
class FamilyDoc:
    """A model type in words, for the table of docs/families.md.

    Attributes:
        model: the class of transformers; "": it has none.
        positions: how the model knows where a token stands.
        norms: where its norms are.
        tokenizer: files that its tokenizer is read from, where there is no tokenizer.json.
        languages: codes that ``--source-lang`` and ``--target-lang`` take.
        at_run_time: what a call has to say, and what the checkpoint says itself.
    """

    model: str
    positions: str
    norms: str
    tokenizer: str
    languages: str = ""
    at_run_time: str = ""


@dataclass(frozen=True)
class Family(Generic[Spec]):
    """An architecture: how a ``model_type`` of config.json is read.

    Attributes:
        name: the family's name in manifests.
        model_types: values of ``model_type`` that it reads.
        spec: config and checkpoint to spec; it may look at which tensors exist, because
            configs do not always say what is tied.
        weight_map: the name map for a spec.
        prefix: what a model saved without its head lacks before the names.
        ignored: regular expressions of tensors that the architecture never reads.
        old_suffixes: ends of names in old checkpoints, and what they are now.
        flattened: config.json with what its nested configs say of the whole model.
        defaults: config values that the model's code assumes where config.json is silent.
        type_defaults: the same, for single model types.
        speech: of a model that hears: spec, checkpoint and the tokenizer's tokens with their ids
            to what the manifest says of sound, languages and times.
        facts: what docs/families.md says of each model type.
    """

    name: str
    model_types: tuple[str, ...]
    spec: Callable[[Config, Checkpoint], Spec]
    weight_map: Callable[[Spec], list[WeightMapping]]
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    old_suffixes: Mapping[str, str] = field(default_factory=dict)
    flattened: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    defaults: Mapping[str, Any] = field(default_factory=dict)
    type_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    speech: Callable[[ModelSpec, Checkpoint, Mapping[str, int]], SpeechInfo] | None = None
    doc: Mapping[str, FamilyDoc] = field(default_factory=dict)


class Config:
    """Typed access to config.json; an absent key falls back to the family's default.

    ``where`` is what messages put before a key of a nested config: ``encoder.``.
    """

    def __init__(
        self, values: Mapping[str, Any], defaults: Mapping[str, Any], where: str = ""
    ) -> None:
        self._values = {**defaults, **values}
        self.where = where

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def integer(self, key: str) -> int:
        value = self._values.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise CheckpointError(
            f"config.json: {self.where}{key} must be a positive integer, not {value!r}"
        )

    def number(self, key: str) -> float:
        value = self._values.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            with suppress(OverflowError):  # an integer that no float holds
                if math.isfinite(value):
                    return float(value)
            raise CheckpointError(f"config.json: {self.where}{key} is no finite number")
        raise CheckpointError(f"config.json: {self.where}{key} must be a number, not {value!r}")

    def flag(self, key: str) -> bool:
        value = self._values.get(key)
        if isinstance(value, bool):
            return value
        raise CheckpointError(
            f"config.json: {self.where}{key} must be true or false, not {value!r}"
        )

    def activation(self, key: str) -> Activation:
        return parse_activation(self.where + key, self._values.get(key))


#: Other names that transformers gives to the same functions (its ACT2FN).
_ACTIVATION_ALIASES = {"gelu_pytorch_tanh": "gelu_new", "swish": "silu"}


def parse_activation(key: str, value: Any) -> Activation:
    """An activation by its ``transformers`` name.

    Raises:
        CheckpointError: an unknown one, with the known names.
    """
    try:
        return Activation(_ACTIVATION_ALIASES.get(value, value))
    except (ValueError, TypeError):
        supported = ", ".join(sorted([a.value for a in Activation] + list(_ACTIVATION_ALIASES)))
        raise CheckpointError(
            f"config.json: {key} {value!r} is not supported; known activations: {supported}"
        ) from None
