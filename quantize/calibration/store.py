"""What calibration found, in memory and in a file that a later run can use."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from seq2edge.runtime.bundle.atomic_write import output_file
from seq2edge.runtime.bundle.checks.json_text import parse_json
from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.generation.divergence import TokenPair
from seq2edge.runtime.progress import StageProgress

from ..errors import QuantizationError
from .capture import Key, capture_activations, generate_pairs
from .statistics import BINS, ActivationStatistics
from .texts import Text, parse_texts, read_bytes

_FORMAT = 1
#: Texts whose answers are kept, to check quantized bundles on.
EXAMPLES = 16
T = TypeVar("T")

#: What a zip archive begins with (PKWARE's APPNOTE, 4.3.7), as numpy's files do.
_ZIP = b"PK\x03\x04"
#: What reading damaged archives and arrays raises.
_DAMAGED = (
    OSError,
    RecursionError,
    MemoryError,  # of an array's header that says more than any file holds
    AttributeError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    NotImplementedError,
    SyntaxError,  # of an array's header, which is Python's notation
    tokenize.TokenError,
    zipfile.BadZipFile,
    RuntimeError,  # of a member that says it is encrypted
    lzma.LZMAError,
    zlib.error,
)


@dataclass(frozen=True)
class Origin:
    """Where it came from: SHA-256 of the bundle's files and of the text, and how much of it."""

    bundle: str
    text: str
    texts: int
    tokens: int


@dataclass(frozen=True)
class Calibration:
    """Values of a bundle over some text.

    Attributes:
        largest: magnitude of every float value, by graph and name.
        inputs: statistics of the linear layers' inputs, by graph and name.
        examples: some of the texts, with the model's answers.
    """

    origin: Origin
    largest: dict[Key, float] = field(default_factory=dict)
    inputs: dict[Key, ActivationStatistics] = field(default_factory=dict)
    examples: tuple[TokenPair, ...] = ()

    def largest_in(self, graph: str) -> dict[str, float]:
        """Magnitudes of the values of one graph, by name."""
        return {name: value for (of, name), value in self.largest.items() if of == graph}


def calibrate(
    bundle: Bundle,
    texts: Sequence[Text],
    inputs: Collection[Key],
    *,
    moments: bool = False,
    statistics: bool = True,
    progress: StageProgress | None = None,
) -> Calibration:
    """Run the bundle over ``texts`` and keep what its values held.

    Args:
        bundle: a float32 bundle.
        texts: sources; the model's own output goes to the decoder.
        inputs: values to keep statistics of.
        moments: keep second moments too, which GPTQ needs (D x D float32 a layer).
        statistics: False: keep only answers to some of the texts (``examples``).
        progress: called with the stage, what is done of it and what there is to do.

    Raises:
        InputError: the bundle has no tokenizer, or a text is too long or has no tokens.
    """
    largest: dict[Key, float] = {}
    activations: dict[Key, ActivationStatistics] = {}

    def observe(key: Key, values: NDArray[np.float32]) -> None:
        if not values.size:
            return
        most = max(float(values.max()), -float(values.min()))
        if not math.isfinite(most):
            raise QuantizationError(
                f"the {key[0]}'s value {key[1]} is not a finite number over the calibration"
                " text: the float32 bundle itself overflows"
            )
        largest[key] = max(largest.get(key, 0.0), most)
        if key in inputs:
            if key not in activations:
                activations[key] = ActivationStatistics.empty(values.shape[-1], moments=moments)
            activations[key].add(values)

    if statistics:
        pairs = capture_activations(bundle, texts, observe, progress)
    else:
        pairs = generate_pairs(bundle, _spread(texts), progress)
    text = hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
    tokens = sum(len(pair.target) for pair in pairs)
    origin = Origin(fingerprint(bundle), text, len(texts), tokens)
    return Calibration(origin, largest, activations, tuple(_spread(pairs)))


def _spread(items: Sequence[T]) -> list[T]:
    """At most ``EXAMPLES`` of the items, evenly spaced."""
    count = min(len(items), EXAMPLES)
    return [items[number * len(items) // count] for number in range(count)]


def fingerprint(bundle: Bundle) -> str:
    """SHA-256 over the hashes of the bundle's graphs and weights."""
    files = bundle.manifest.files
    names = sorted(name for name in files if name.endswith((".onnx", ".bin")))
    joined = "".join(files[name].sha256 for name in names)
    return hashlib.sha256(joined.encode()).hexdigest()


def load_or_calibrate(
    path: str | os.PathLike[str],
    bundle: Bundle,
    inputs: Collection[Key],
    *,
    moments: bool = False,
    statistics: bool = True,
    progress: StageProgress | None = None,
    encoding_errors: str = "strict",
) -> Calibration:
    """Read a saved calibration, or calibrate on the text that the file holds.

    Raises:
        QuantizationError: the file cannot be read or is empty, or the calibration it holds is
            of another bundle or lacks what is needed.
        InputError: see :func:`calibrate`.
    """
    path = Path(path)
    data = read_bytes(path)  # once: it may be a pipe
    if not zipfile.is_zipfile(io.BytesIO(data)):
        if data.startswith(_ZIP):
            raise QuantizationError(f"{path} is not a whole calibration file; calibrate again")
        texts = parse_texts(path, data, encoding_errors)
        return calibrate(
            bundle, texts, inputs, moments=moments, statistics=statistics, progress=progress
        )
    calibration = _parsed(path, data)
    check_origin(calibration, bundle, path)
    if moments and not all(kept.moments is not None for kept in calibration.inputs.values()):
        raise QuantizationError(
            f"{path} holds no second moments, which gptq needs; give the text instead"
        )
    return calibration


def check_origin(
    calibration: Calibration, bundle: Bundle, name: object = "the calibration"
) -> None:
    """Refuse what was calibrated on another bundle.

    Raises:
        QuantizationError: ``name`` and what to do.
    """
    if calibration.origin.bundle != fingerprint(bundle):
        raise QuantizationError(
            f"{name} was calibrated on another bundle; give the text instead, or the bundle"
            " that it was made with"
        )


def save(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Write a file for :func:`load`; it appears complete or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    record = {
        "format": _FORMAT,
        "origin": asdict(calibration.origin),
        "largest": [[*key, value] for key, value in calibration.largest.items()],
        "inputs": [[*key, a.edge, a.minimum, a.tokens] for key, a in calibration.inputs.items()],
        "examples": [[list(pair.source), list(pair.target)] for pair in calibration.examples],
    }
    arrays: dict[str, NDArray[Any]] = {
        "record": np.frombuffer(json.dumps(record).encode(), np.uint8)
    }
    for number, activation in enumerate(calibration.inputs.values()):
        arrays[f"channel_max.{number}"] = activation.channel_max
        arrays[f"histogram.{number}"] = activation.histogram
        if activation.moments is not None:
            arrays[f"moments.{number}"] = activation.moments
    with output_file(Path(path)) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load(path: str | os.PathLike[str]) -> Calibration:
    """Read a file that :func:`save` wrote.

    Raises:
        QuantizationError: it cannot be read, is damaged, or of a newer format.
    """
    return _parsed(path, read_bytes(path))


def _parsed(path: str | os.PathLike[str], data: bytes) -> Calibration:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return _parse(arrays)
    except _DAMAGED as error:
        raise QuantizationError(
            f"{path} is not a whole calibration file of this version ({error}); calibrate again"
        ) from None


def _parse(arrays: Any) -> Calibration:
    record = parse_json(arrays["record"].tobytes(), "its record")
    if record["format"] != _FORMAT:
        raise ValueError(f"format {record['format']}")
    inputs: dict[Key, ActivationStatistics] = {}
    for number, (graph, name, edge, minimum, tokens) in enumerate(record["inputs"]):
        histogram = arrays[f"histogram.{number}"]
        if histogram.shape != (BINS,):
            raise ValueError("a histogram of another size")
        moments = f"moments.{number}"
        inputs[graph, name] = ActivationStatistics(
            channel_max=arrays[f"channel_max.{number}"],
            histogram=histogram,
            edge=edge,
            moments=arrays.get(moments),
            minimum=minimum,
            tokens=tokens,
        )
    largest = {(graph, name): value for graph, name, value in record["largest"]}
    # Files that were saved before examples were kept have none.
    examples = tuple(TokenPair(*pair) for pair in record.get("examples", ()))
    return Calibration(Origin(**record["origin"]), largest, inputs, examples)


def linear_inputs(layers: Collection[Any]) -> set[Key]:
    """The values that linear layers read."""
    keys: set[Key] = set()
    for layer in layers:
        for use in layer.uses:
            value: ir.Value | None = use.node.inputs[0]
            if use.node.op_type in ("MatMul", "Gemm") and value is not None:
                keys.add((use.graph, str(value.name)))
    return keys
