"""Bundles whose cache grows (``export_callables``, folders of optimum): weights of few bits.

Their graphs are whatever was traced, so nothing is known of them but this: a ``MatMul`` or ``Gemm``
with a constant matrix is a linear layer. Its weight becomes blocks (``MatMulNBits``); all else is
as it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace

import onnx_ir as ir

from seq2edge.export.concat_cache import describe_graph
from seq2edge.export.serialize import Progress
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME, Manifest
from seq2edge.runtime.bundle.reader import Bundle, BundleWriter
from seq2edge.runtime.errors import BundleError

from .errors import QuantizationError
from .passes.rewrite import initializer, insert_before, remove_unused_initializers, replace_node
from .recipe.layers import Kind, Layer, Use
from .recipe.options import Options
from .recipe.schemes import WEIGHT_ONLY, Scheme


def concat_scheme(scheme: Scheme, options: Options) -> Scheme:
    """The scheme with weights alone quantized.

    Raises:
        QuantizationError: it is another than int8 or int4 for the CPU, or asks for gptq.
    """
    if scheme.target != "cpu" or scheme.name not in WEIGHT_ONLY:
        known = " and ".join(WEIGHT_ONLY)
        raise QuantizationError(
            f"a bundle whose cache grows has {known} for the target cpu; {scheme.name} for"
            f" {scheme.target} takes the graphs of 'seq2edge export'"
        )
    if options.algorithm == "gptq":
        raise QuantizationError(
            "gptq replays the graphs of 'seq2edge export'; for a bundle whose cache grows choose"
            " rtn or k-quant"
        )
    fallback = None if scheme.name == "int8" else WEIGHT_ONLY["int8"]
    return replace(scheme, policy=WEIGHT_ONLY[scheme.name], fallback=fallback)


def find_concat_layers(models: Mapping[str, ir.Model], vocab_size: int) -> list[Layer]:
    """Linear layers by graph and name of the weight, such as ``decoder.model.fc1.weight``.

    Graphs are changed on the way, in ways that change nothing of what they compute: a ``Gemm``
    becomes a ``MatMul`` and an ``Add``, and a constant that is transposed is stored transposed.

    Args:
        vocab_size: outputs of the head, which 4 bit schemes keep in 8.

    Raises:
        QuantizationError: there are none.
    """
    layers: dict[str, Layer] = {}
    for graph, model in models.items():
        for node in list(model.graph.all_nodes()):
            node = _as_matmul(model, node)
            weight = node.inputs[1] if node.op_type == "MatMul" and len(node.inputs) > 1 else None
            weight = weight if weight is None else _untransposed(model, node, weight)
            tensor = _matrix(weight)
            if weight is None or tensor is None:
                continue
            name = f"{graph}.{weight.name}"
            outputs = int(tensor.shape.numpy()[1])
            kind = Kind.HEAD if outputs == vocab_size and graph != "encoder" else Kind.LINEAR
            layer = layers.setdefault(name, Layer(name, kind, tensor))
            layer.uses.append(Use(graph, node))
    if not layers:
        raise QuantizationError("the graphs have no MatMul or Gemm with a constant float matrix")
    return list(layers.values())


def _matrix(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The constant matrix in float32 that a value is."""
    tensor = None if value is None else value.const_value
    if value is None or tensor is None or not value.is_initializer():
        return None
    return tensor if tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 2 else None


def _as_matmul(model: ir.Model, node: ir.Node) -> ir.Node:
    """A plain ``Gemm`` with a constant matrix as ``MatMul`` and ``Add``; others as they are."""
    if node.op_type != "Gemm" or _matrix(node.inputs[1]) is None:
        return node
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if any(attributes.get(name, value) != value for name, value in plain.items()):
        return node
    weight = node.inputs[1]
    if attributes.get("transB", 0):
        weight = _transposed(model, weight)
    inputs, bias = [node.inputs[0], weight], node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return replace_node(model, node, "MatMul", inputs)
    product = insert_before(model, node, "MatMul", inputs)
    replace_node(model, node, "Add", [product.outputs[0], bias])
    return product


def _untransposed(model: ir.Model, node: ir.Node, weight: ir.Value) -> ir.Value:
    """A constant that a ``Transpose`` turns round, stored as the node reads it."""
    producer = weight.producer()
    if producer is None or producer.op_type != "Transpose" or _matrix(producer.inputs[0]) is None:
        return weight
    stored = _transposed(model, producer.inputs[0])
    node.replace_input_with(1, stored)
    if not producer.outputs[0].uses() and producer.graph is not None:
        producer.graph.remove(producer, safe=True)
    return stored


def _transposed(model: ir.Model, weight: ir.Value | None) -> ir.Value:
    tensor = _matrix(weight)
    if weight is None or tensor is None:
        raise AssertionError("only a constant matrix is stored transposed")
    return initializer(model, f"{weight.name}.transposed", tensor.numpy().T)


def write_concat(
    source: Bundle,
    models: Mapping[str, ir.Model],
    writer: BundleWriter,
    progress: Progress | None,
) -> Manifest:
    """Fill the writer's folder; the source's manifest with what is there now.

    Raises:
        BundleError: a file of the source cannot be read.
    """
    manifest = source.manifest
    stored = {info.file for info in manifest.graphs.values()} | {MANIFEST_NAME}
    stored |= {location for model in models.values() for location in _external(model)}
    graphs = {}
    for number, (name, model) in enumerate(models.items()):
        if progress is not None:
            progress("writing graphs", number, len(models))
        file = manifest.graphs[name].file
        remove_unused_initializers(model)
        graphs[name] = describe_graph(model, file)
        ir.save(model, writer.directory / file, external_data=f"{file}_data")
    for name in manifest.files:
        if name not in stored:
            try:
                shutil.copyfile(source.path(name), writer.directory / name)
            except OSError as error:
                raise BundleError(f"cannot read {source.path(name)}: {error.strerror}") from None
    return replace(manifest, graphs=graphs, files=writer.files())


def _external(model: ir.Model) -> Iterator[str]:
    """Files that hold a graph's weights."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield str(value.const_value.location)
