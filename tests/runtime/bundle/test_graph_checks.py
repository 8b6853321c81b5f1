"""What a bundle's graphs would read or run is held against the manifest before any session."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from seq2edge.runtime import Bundle, BundleError
from seq2edge.runtime.bundle.checks.onnx_wire import DamagedGraphError, read_onnx
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME

BundleOf = Callable[[str], Path]
CopyOf = Callable[[Path], Path]


def edit_manifest(bundle: Path, change: Callable[[Any], None]) -> None:
    file = bundle / MANIFEST_NAME
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))


def edit_graph(bundle: Path, change: Callable[[Any], None], name: str = "decoder") -> None:
    """Change a graph, and let the manifest list the file that came of it."""
    file = bundle / f"{name}.onnx"
    model = onnx.load(file, load_external_data=False)
    change(model)
    data = model.SerializeToString()
    file.write_bytes(data)
    info = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_manifest(bundle, lambda raw: raw["files"].update({file.name: info}))


def external(model: Any) -> Any:
    """The first tensor that lies in another file."""
    return next(t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)


def entry(key: str, value: str) -> Callable[[Any], None]:
    """Sets a field of the first external tensor."""

    def change(model: Any) -> None:
        for item in external(model).external_data:
            if item.key == key:
                item.value = value

    return change


def add_node(operator: str, domain: str = "", **attributes: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        node = helper.make_node(operator, [], ["extra"], domain=domain, **attributes)
        model.graph.node.append(node)

    return change


def add_unnamed(operator: str, inputs: list[str], outputs: list[str]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.graph.node.append(helper.make_node(operator, inputs, outputs))

    return change


def _branch() -> Any:
    constant = helper.make_node("Constant", [], ["c"], value_int=1)
    output = helper.make_tensor_value_info("c", TensorProto.INT64, [])
    return helper.make_graph([constant], "branch", [], [output])


def _hidden() -> Any:
    """A constant of a node whose data lies elsewhere."""
    tensor = TensorProto(name="hidden", dims=[4], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def add_initializer(tensor: Any) -> Callable[[Any], None]:
    return lambda model: model.graph.initializer.append(tensor)


def add_function(model: Any) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(
        helper.make_function("own", "F", ["x"], ["y"], [node], model.opset_import)
    )


def loop_beside_if(model: Any) -> None:
    """As many graphs within nodes as an ``If`` would have."""
    add_node("Loop", body=_branch())(model)
    add_node("If", then_branch=_branch())(model)


def branch_with(depth: int, op_type: str = "Scan") -> Callable[[Any], None]:
    """An ``If`` one of whose branches holds a node with a graph, which holds another and so on."""
    body = _branch()
    for _ in range(depth):
        node, inner = helper.make_node(op_type, [], ["looped"], body=body), _branch()
        inner.node.append(node)
        body = inner
    return add_node("If", then_branch=body, else_branch=_branch())


def add_sparse(model: Any) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def grow(model: Any) -> None:
    external(model).dims[0] *= 1000


HUGE = TensorProto(name="huge", dims=[1 << 20, 1 << 20], data_type=TensorProto.FLOAT)
CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "leads out": (entry("location", "../canary.bin"), "is read from '../canary.bin', which is not"),
    "absolute": (entry("location", "/etc/passwd"), "is read from '/etc/passwd', which is not"),
    "unlisted": (entry("location", "other.bin"), "is read from 'other.bin', which is not"),
    "another of the bundle's": (entry("location", "encoder.onnx"), "is read from 'encoder.onnx'"),
    "beyond the end": (entry("offset", str(1 << 40)), "ends outside weights.bin"),
    "another place": (entry("offset", "64"), "has another place, shape or type than"),
    "not a number": (entry("offset", "-8"), "has another length than its shape"),
    "too short": (entry("length", "4"), "has another length than its shape"),
    "larger": (grow, "has another length than its shape"),
    "no data": (add_initializer(HUGE), "tensor huge has 0 bytes for the shape"),
    "in a node": (add_node("Constant", value=_hidden()), "hidden of a node lies in another file"),
    "domain": (add_node("Run", "evil.example"), r"are not run \(evil.example.Run; only ONNX, com"),
    "compiled": (add_node("EPContext", "com.microsoft"), "are not run .com.microsoft.EPContext"),
    "If": (
        add_node("If", then_branch=_branch(), else_branch=_branch()),
        "the operators that the manifest says",
    ),
    "Loop": (add_node("Loop", body=_branch()), "graphs within nodes"),
    "Loop beside half an If": (loop_beside_if, "graphs within nodes"),
    "Scan": (add_node("Scan", body=_branch()), "graphs within nodes"),
    "Scan in a branch": (branch_with(1), "the operators that the manifest says"),
    "Scan in a Scan": (branch_with(2), "graphs within nodes"),
    "Loop in a branch": (branch_with(1, "Loop"), "graphs within nodes"),
    "no input": (
        add_unnamed("Min", ["logits", ""], ["m"]),
        "an input or output of Min has no name",
    ),
    "no output": (
        add_unnamed("Split", ["logits"], ["a", ""]),
        "decoder.onnx is damaged .an input or output of Split has no name",
    ),
    "function": (add_function, "graphs within nodes .Loop, Scan. or functions"),
    "sparse": (add_sparse, "sparse initializers, which are not supported"),
    "operator": (add_node("RandomNormal", shape=[1]), "the operators that the manifest says"),
    "input": (lambda m: m.graph.input.pop(), "inputs are not those of the manifest"),
    "type": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT),
        "input input_ids has another type or shape than the manifest says",
    ),
    "output": (
        lambda m: setattr(m.graph.output[0], "name", "other"),
        "outputs are not those of the manifest",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_graph_that_reads_or_runs_something_else_is_refused(
    name: str, bundle_of: BundleOf, copy_of: CopyOf
) -> None:
    change, message = CHANGES[name]
    bundle = copy_of(bundle_of("t5"))
    (bundle.parent / "canary.bin").write_bytes(bytes(1000))
    (bundle / "other.bin").write_bytes((bundle / "weights.bin").read_bytes())
    edit_graph(bundle, change)
    with pytest.raises(BundleError, match=message) as refused:
        Bundle.open(bundle)
    assert len(str(refused.value)) < 4000


def test_swapped_graphs_are_refused(bundle_of: BundleOf, copy_of: CopyOf) -> None:
    """Fault: the bindings' RuntimeError."""
    bundle = copy_of(bundle_of("t5"))

    def swap(raw: Any) -> None:
        graphs = raw["graphs"]
        files = graphs["encoder"]["file"], graphs["logsumexp"]["file"]
        graphs["logsumexp"]["file"], graphs["encoder"]["file"] = files

    edit_manifest(bundle, swap)
    with pytest.raises(BundleError, match=r"logsumexp\.onnx: inputs are not those"):
        Bundle.open(bundle)


def test_a_named_pipe_is_not_waited_for(bundle_of: BundleOf, copy_of: CopyOf) -> None:
    """Fault: a command hung."""
    bundle = copy_of(bundle_of("t5"))
    os.mkfifo(bundle / "pipe")
    edit_graph(bundle, entry("location", "pipe"))
    with pytest.raises(BundleError, match="is read from 'pipe'"):
        Bundle.open(bundle)
    (bundle / MANIFEST_NAME).unlink()
    os.mkfifo(bundle / MANIFEST_NAME)
    with pytest.raises(BundleError, match="is not a seq2edge bundle"):
        Bundle.open(bundle)


def test_the_hole_of_a_file_is_not_read_to_its_end(bundle_of: BundleOf, copy_of: CopyOf) -> None:
    """Fault: zeros were fields that nobody knows, and a hole of a terabyte takes no room."""
    bundle = copy_of(bundle_of("t5"))
    size = 1 << 40
    with (bundle / "decoder.onnx").open("r+b") as file:
        file.truncate(size)
    edit_manifest(bundle, lambda raw: raw["files"]["decoder.onnx"].update(size=size))
    with pytest.raises(BundleError, match="it is no ONNX model"):
        Bundle.open(bundle)


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_a_graph_that_was_cut_is_damaged(size: int, bundle_of: BundleOf, tmp_path: Path) -> None:
    file = tmp_path / "cut.onnx"
    file.write_bytes((bundle_of("t5") / "decoder.onnx").read_bytes()[:size])
    with pytest.raises(DamagedGraphError):
        read_onnx(file)


def test_two_readings_of_a_file_are_none(bundle_of: BundleOf, tmp_path: Path) -> None:
    """Protocol Buffers lets a second graph join the first one."""
    data = (bundle_of("t5") / "decoder.onnx").read_bytes()
    file = tmp_path / "twice.onnx"
    file.write_bytes(data + data)
    with pytest.raises(DamagedGraphError):
        read_onnx(file)


def test_weights_within_a_file_are_skipped(tmp_path: Path) -> None:
    """A graph of another maker may hold hundreds of megabytes."""
    import numpy as np

    weights = numpy_helper.from_array(np.zeros((3, 1 << 20), np.float32), "weights")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    node = helper.make_node("MatMul", ["x", "weights"], ["y"])
    graph = helper.make_graph([node], "g", [], [output], [weights])
    onnx.save(helper.make_model(graph), tmp_path / "large.onnx")
    found = read_onnx(tmp_path / "large.onnx")
    (tensor,) = found.tensors
    assert (tensor.name, tensor.dims, tensor.inline) == ("weights", (3, 1 << 20), 12 << 20)
    assert dict(found.operators) == {("", "MatMul"): 1}
    assert found.outputs[0].shape == ("batch", 3)
