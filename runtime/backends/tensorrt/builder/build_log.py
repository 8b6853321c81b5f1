"""The layers of a built engine, read from the builder's log.

With detailed profiling verbosity the builder ends its log with a list of the *engine's* layers
(after fusion): name, kind, tensors with shape and data type, and which ONNX nodes they come
from. An engine can be opened only on the kind of GPU that it is for, so where it was built
without one, this list is the only view of it. Its text is no documented format: a line that
does not read as expected is left out, and a report then says less.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..library import Message

_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\],"
    r" Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\],"
    r" TacticName: .*?, Metadata: (?P<origins>.*)"
)
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[([-\d,]*)\],.*?Datatype: (\w+)")
_ORIGIN = re.compile(r"\[ONNX Layer: (.*?)\]")
_PIECE = re.compile(r"_myl(\d+)_\d+$")
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")

#: TensorRT's names of data types, in its log and its API, where they are not numpy's.
_DTYPES = {"half": "float16", "float": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class EngineTensor:
    """A tensor of an engine; -1 in ``shape`` is dynamic. ``dtype`` is numpy's name, or
    ``bfloat16``, ``int4`` and the like."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def matrix_elements(self) -> int:
        """How many elements a constant matrix has; 0 for vectors and scalars."""
        sizes = [size for size in self.shape if size != 1]
        if len(sizes) < 2 or min(sizes) < 0:
            return 0
        count = 1
        for size in sizes:
            count *= size
        return count


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine: mostly one kernel.

    Attributes:
        kind: ``gemm``, ``kgen`` (a generated kernel), ``runtime_fusion`` (a GEMM with what is
            around it, generated when the engine is first run), ...
        constants: weights among them.
        origins: names of the ONNX nodes that it computes, or parts of them.
    """

    name: str
    kind: str
    inputs: tuple[EngineTensor, ...]
    constants: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    origins: frozenset[str]


@dataclass(frozen=True)
class EngineLog:
    """An engine as a build's log describes it; bytes are None where it does not say.

    ``profiles`` holds the layers of each optimization profile; it is empty where they cannot be
    told apart or read.
    """

    profiles: tuple[tuple[EngineLayer, ...], ...]
    weight_bytes: int | None
    activation_bytes: int | None


def read_log(messages: Iterable[Message], profiles: int = 1) -> EngineLog:
    """Read the messages of one build, whose engine has so many optimization profiles."""
    texts = [message.text for message in messages]
    lines = [line for text in texts if "LayerType: " in text for line in text.splitlines()]
    matches = (_LAYER.match(line) for line in lines)
    return EngineLog(
        profiles=_by_profile([_layer(match) for match in matches if match], profiles),
        weight_bytes=_last_number(_WEIGHTS, texts),
        activation_bytes=_last_number(_ACTIVATIONS, texts),
    )


def dtype_name(name: str) -> str:
    """numpy's name of one of TensorRT's data types."""
    lower = name.lower()
    return _DTYPES.get(lower, lower)


def origins_of(metadata: str) -> frozenset[str]:
    """The ONNX nodes that a layer's metadata names."""
    return frozenset(_ORIGIN.findall(metadata))


def _by_profile(layers: list[EngineLayer], profiles: int) -> tuple[tuple[EngineLayer, ...], ...]:
    """The builder compiles each profile as one piece, whose number is in its layers' names."""
    if profiles == 1:
        return (tuple(layers),) if layers else ()
    pieces: dict[str, list[EngineLayer]] = {}
    for layer in layers:
        piece = _PIECE.search(layer.name)
        pieces.setdefault(piece[1] if piece else "", []).append(layer)
    if len(pieces) != profiles or "" in pieces:
        return ()
    return tuple(tuple(pieces[number]) for number in sorted(pieces, key=int))


def _layer(match: re.Match[str]) -> EngineLayer:
    return EngineLayer(
        name=match["name"],
        kind=match["kind"],
        inputs=_tensors(match["inputs"]),
        constants=_tensors(match["constants"]),
        outputs=_tensors(match["outputs"]),
        origins=origins_of(match["origins"]),
    )


def _tensors(text: str) -> tuple[EngineTensor, ...]:
    return tuple(
        EngineTensor(name, tuple(int(size) for size in shape.split(",") if size), dtype_name(dtype))
        for name, shape, dtype in _TENSOR.findall(text)
    )


def _last_number(pattern: re.Pattern[str], texts: list[str]) -> int | None:
    matches = [match for text in texts if (match := pattern.search(text))]
    return int(matches[-1][1]) if matches else None
