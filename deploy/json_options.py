"""Generation options as JSON has them: by the names of GenerationConfig, each read or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from seq2edge.runtime import Choices, GenerationConfig, InputError, JsonSchema, Regex
from seq2edge.runtime.generation.validation import read_with

#: Options that are objects of Python's; the constraints below stand for the last.
_NOT_JSON = {"logits_processors", "prefix_allowed_tokens", "draft_model", "constraint"}
_CONSTRAINTS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "choices": (list, lambda texts: Choices(tuple(map(str, texts)))),
    "regex": (str, Regex),
    "json_schema": (dict, JsonSchema),
}
_JSON: dict[type, str] = {list: "array", str: "string", dict: "object"}

#: All names that :func:`generation_options` takes.
NAMES = frozenset({spec.name for spec in fields(GenerationConfig)} - _NOT_JSON | set(_CONSTRAINTS))


def generation_options(own: GenerationConfig, given: Mapping[str, Any]) -> GenerationConfig:
    """The bundle's ``own`` options with those of a JSON object in their place.

    Their values are checked when they are used.

    Raises:
        InputError: an option that does not exist or is an object of Python's, or one that nothing
            reads beside the others (``top_p`` without ``do_sample``).
    """
    for name in given:
        if name not in NAMES:
            raise InputError(f"unknown option {name!r}; there are: {', '.join(sorted(NAMES))}")
    constraints = [name for name in _CONSTRAINTS if name in given]
    if len(constraints) > 1:
        raise InputError(f"{' and '.join(constraints)}: give one of them")
    values = {name: _frozen(value) for name, value in given.items() if name not in _CONSTRAINTS}
    if isinstance(values.get("sequence_bias"), dict):  # JSON's keys are strings
        biases = values["sequence_bias"].items()
        values["sequence_bias"] = {_token(key): bias for key, bias in biases}
    for name in constraints:
        kind, make = _CONSTRAINTS[name]
        if not isinstance(given[name], kind):
            raise InputError(f"{name} must be a JSON {_JSON[kind]}, not {given[name]!r}")
        values["constraint"] = make(given[name])
    config = replace(own, **values)
    defaults = GenerationConfig()
    for name, condition in read_with(config).items():
        if values.get(name) not in (None, getattr(defaults, name)):
            raise InputError(f"{name}={values[name]!r} is not read without {condition}")
    return config


def _token(key: str) -> int:
    try:
        return int(key)
    except ValueError:
        raise InputError(
            f"sequence_bias maps token ids to numbers, and {key!r} is none; for several tokens list"
            " pairs: [[[5, 6], -2.0]]"
        ) from None


def _frozen(value: Any) -> Any:
    """Lists as tuples, as GenerationConfig has them."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
