"""Decisions before any step runs: backend, schemes to try, downgrade, and why."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from seq2edge.deploy import TARGETS, advise_target
from seq2edge.deploy.doctor import Advice
from seq2edge.runtime.errors import InputError

FLOAT32 = "float32"
#: More exact schemes, which follow one that loses too much; those of the target.
_MORE_EXACT = {
    "int4": ("int8", "fp16", "bf16"),
    "int8-dynamic": ("int8", "fp16", "bf16"),
    "int8-qdq": ("int8", "fp16", "bf16"),
    "int8": ("fp16", "bf16"),
    "fp16": ("bf16",),
}


@dataclass(frozen=True)
class Decision:
    """One line of the plan: what was decided, and why."""

    about: str
    choice: str
    reason: str

    def __str__(self) -> str:
        return f"{self.about}: {self.choice} ({self.reason})"


@dataclass(frozen=True)
class Plan:
    """The plan for a target.

    Attributes:
        backend: as ``seq2edge pack --backend`` names it.
        quantize_target: as ``seq2edge quantize --target`` names it.
        schemes: in the order in which they are tried; more than one: until one is good enough.
        downgrade: whether the bundle is downgraded.
    """

    backend: str
    quantize_target: str
    schemes: tuple[str, ...]
    downgrade: bool
    decisions: tuple[Decision, ...]


def decide(options: argparse.Namespace) -> Plan:
    """The plan for the target and the scheme that were asked for.

    Raises:
        InputError: an unknown target, or a JetPack or an engine that it does not have.
        QuantizationError: a scheme that the target does not have, or that needs texts.
    """
    advice = advise_target(options.target, jetpack=options.jetpack, backend=options.backend)
    backend = advice.backend.removesuffix("-gpu")
    target = _quantize_target(advice.backend)
    schemes, scheme = _schemes(options, advice, target)
    return Plan(
        backend=backend,
        quantize_target=target,
        schemes=schemes,
        downgrade=advice.downgrade is not None,
        decisions=(
            _machine(options),
            Decision("backend", backend, advice.reason),
            scheme,
            _operators(advice),
        ),
    )


def _machine(options: argparse.Namespace) -> Decision:
    target = next(target for target in TARGETS if target.name == options.target)
    if target.jetpack is None:
        return Decision("target", target.name, target.summary)
    version = options.jetpack or target.jetpack
    named = "as asked for" if options.jetpack else f"{target.summary}; --jetpack names another"
    return Decision("target", f"{target.name}, JetPack {version}", named)


def _quantize_target(backend: str) -> str:
    if backend.startswith("tensorrt"):
        return "tensorrt"
    return "cuda" if backend == "onnxruntime-gpu" else "cpu"


def _schemes(
    options: argparse.Namespace, advice: Advice, target: str
) -> tuple[tuple[str, ...], Decision]:
    from seq2edge.quantize import SCHEMES
    from seq2edge.quantize.recipe.schemes import find_scheme

    named = options.scheme
    if named != "auto":
        if named != FLOAT32 and find_scheme(named, target).calibrated and options.texts is None:
            raise InputError(f"{named} needs to see the model at work: give it text with --texts")
        return (named,), Decision("scheme", f"{named} for {target}", "as asked for")
    available = {scheme.name for scheme in SCHEMES if scheme.target == target}
    first = advice.schemes[0]
    later = [name for name in _MORE_EXACT.get(first.scheme, ()) if name in available]
    schemes = (first.scheme, *later, FLOAT32)
    reason = f"{first.when}; if it loses too much: {', '.join(schemes[1:])}"
    return schemes, Decision("scheme", f"{first.scheme} for {target}", reason)


def _operators(advice: Advice) -> Decision:
    if advice.downgrade is None:
        return Decision("operators", "as exported", "the target's runtime has all of them")
    return Decision("operators", "downgraded", advice.downgrade)
