"""Whether a bundle's ONNX files are what its manifest says, and do nothing but compute.

ONNX Runtime opens what a graph names: until 1.23 a path that leads out of the bundle too. So every
place that a graph reads from is held against the manifest before a session is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

from ..manifest import CONCAT, DTYPE_BITS, WEIGHTS_NAME, GraphInfo, Manifest, TensorSpec
from .onnx_wire import DamagedGraphError, OnnxFile, Tensor, Value, read_onnx

#: Domains of the operators that ``export`` and ``quantize`` write, ONNX's own first.
OUR_DOMAINS = frozenset({"", "com.microsoft"})
#: Of other makers' graphs (:data:`..manifest.CONCAT`), beside functions that a file itself defines.
OTHER_DOMAINS = frozenset({*OUR_DOMAINS, "ai.onnx", "ai.onnx.ml"})
#: Operators that read files of their own: compiled parts of a graph.
_READS_FILES = frozenset({"EPContext"})

#: Types of TensorProto (onnx.proto) by the names that manifests use.
_DTYPES = {
    **{1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16"},
    **{16: "bfloat16", 21: "uint4", 22: "int4"},
}
#: Bits of an element of all types that have a size.
_BITS = {
    **{number: DTYPE_BITS[name] for number, name in _DTYPES.items()},
    **{4: 16, 5: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128},
    **{17: 8, 18: 8, 19: 8, 20: 8, 23: 4, 24: 8, 25: 2, 26: 2},
}
#: Elements that a byte can hold at most: two bits each.
_PER_BYTE = 4
#: Problems of one graph that are told.
_MOST = 4


def graph_problems(directory: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the graphs of a bundle whose manifest and sizes were checked."""
    problems = []
    for name, info in manifest.graphs.items():
        try:
            found = read_onnx(directory / info.file)
        except DamagedGraphError as error:
            problems.append(f"{info.file} is damaged ({error}); copy or export it again")
            continue
        except OSError as error:
            problems.append(f"cannot read {info.file}: {error.strerror}")
            continue
        of_graph = list(_problems(name, info, found, manifest))
        problems += of_graph[:_MOST]
        if len(of_graph) > _MOST:
            problems.append(f"{info.file} has {len(of_graph) - _MOST} more faults")
    return problems


def external_locations(path: Path) -> set[str]:
    """Files that a graph says it reads, as it says it; none if it is damaged."""
    try:
        found = read_onnx(path)
    except (DamagedGraphError, OSError):
        return set()
    return {tensor.external.get("location", "") for tensor in found.tensors if tensor.external}


def _problems(name: str, info: GraphInfo, found: OnnxFile, manifest: Manifest) -> Iterator[str]:
    ours, file = manifest.cache != CONCAT, info.file
    yield from _operators(found, file, ours)
    for tensor in found.tensors:
        reason = _tensor_problem(tensor, manifest, ours)
        if reason is not None:
            yield f"{file}: tensor {tensor.name} {reason}"
    opset = found.opsets.get("", found.opsets.get("ai.onnx", 0))
    if ours or info.opset:  # what was read of another maker's folder says nothing of the graphs
        yield from _differences(f"{file}: input", info.inputs, found.inputs)
        yield from _differences(f"{file}: output", info.outputs, found.outputs)
    if ours:
        counts: Counter[str] = Counter()
        for (_, operator), count in found.operators.items():
            counts[operator] += count
        if counts != info.operators or opset != info.opset:
            yield f"{file} does not have the operators that the manifest says of the {name}"


#: Nodes that a graph within a ``Scan`` may be within: an ``If`` of the main graph, and itself.
_SCAN_DEPTH = 2


def _operators(found: OnnxFile, file: str, ours: bool) -> Iterator[str]:
    domains = OUR_DOMAINS if ours else OTHER_DOMAINS | found.functions
    wrong = {
        f"{domain}.{operator}" if domain else operator
        for domain, operator in (*found.operators, *found.nested)
        if domain not in domains or operator in _READS_FILES
    }
    if wrong:
        allowed = ", ".join(sorted(domain or "ONNX" for domain in domains))
        yield f"{file} has operators that are not run ({', '.join(sorted(wrong))}; only {allowed})"
    # Heads of two stages and grouped queries have branches, and attention in blocks a Scan in one
    # (quantize/passes/cpu_lowering). A Scan runs its graph once for each row of a tensor that is
    # there, so memory bounds how often; but not where it is within another one.
    scans = found.nested["", "Scan"]
    graphs = 2 * (found.operators["", "If"] + found.nested["", "If"]) + scans
    loops = any(operator == "Loop" for _, operator in (*found.operators, *found.nested))
    loops |= found.operators["", "Scan"] > 0 or (scans > 0 and found.deepest > _SCAN_DEPTH)
    if ours and (loops or found.subgraphs != graphs or found.functions):
        yield f"{file} has graphs within nodes (Loop, Scan) or functions, which are not run"


def _tensor_problem(tensor: Tensor, manifest: Manifest, ours: bool) -> str | None:
    """What is wrong with where a tensor's data lies."""
    if any(size < 0 for size in tensor.dims):
        return f"has the shape {list(tensor.dims)}"
    elements = prod(tensor.dims)
    if tensor.external is None:
        if elements > _PER_BYTE * tensor.inline:
            return f"has {tensor.inline} bytes for the shape {list(tensor.dims)}"
        return None
    if tensor.owner == "attribute":
        return "of a node lies in another file"
    location = tensor.external.get("location", "")
    if location not in manifest.files or (ours and location != WEIGHTS_NAME):
        listed = WEIGHTS_NAME if ours else "the files of the manifest"
        return f"is read from {location!r}, which is not {listed}"
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        return "has a type without a size"
    size = -(-elements * bits // 8)
    offset, length = _number(tensor, "offset", 0), _number(tensor, "length", size)
    if offset is None or length != size:
        return f"has another length than its shape {list(tensor.dims)} and type"
    if offset + size > manifest.files[location].size:
        return f"ends outside {location}"
    if not ours:
        return None
    listed_as = manifest.weights.get(tensor.name)
    if (
        listed_as is None
        or (listed_as.offset, listed_as.length, listed_as.shape) != (offset, size, tensor.dims)
        or listed_as.dtype != _DTYPES.get(tensor.data_type)
    ):
        return "has another place, shape or type than the manifest says"
    return None


def _number(tensor: Tensor, key: str, default: int) -> int | None:
    """An entry of external data; None: no number."""
    text = (tensor.external or {}).get(key)
    if text is None:
        return default
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _differences(what: str, said: tuple[TensorSpec, ...], found: list[Value]) -> Iterator[str]:
    there = {value.name: value for value in found}
    if len(there) != len(found) or there.keys() != {spec.name for spec in said}:
        yield f"{what}s are not those of the manifest"
        return
    for spec in said:
        value = there[spec.name]
        if _DTYPES.get(value.data_type) != spec.dtype or not _fits(spec.shape, value.shape):
            yield f"{what} {spec.name} has another type or shape than the manifest says"


def _fits(said: tuple[int | str, ...], found: tuple[int | str | None, ...] | None) -> bool:
    return found is not None and said == tuple(str(s) if s is None else s for s in found)
