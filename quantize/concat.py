"""Bundles whose cache grows (``export_callables``, folders of optimum): weights of few bits.

Their graphs are whatever was traced, so nothing is known of them but this: a ``MatMul`` or ``Gemm``
with a constant matrix is a linear layer. Its weight becomes blocks (``MatMulNBits``); all else is
as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import onnx_ir as ir

from seq2edge.export.concat_cache import describe_graph
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME, Manifest
from seq2edge.runtime.bundle.reader import Bundle, BundleWriter
from seq2edge.runtime.progress import StageProgress

from .errors import QuantizationError
from .passes.plain_matmul import PlainMatMulPass, constant_matrix
from .passes.rewrite import apply_passes
from .recipe.layers import Kind, Layer, Use
from .recipe.options import Options
from .recipe.schemes import WEIGHT_ONLY, QuantizationScheme
from .write import copy_others


def concat_scheme(scheme: QuantizationScheme, options: Options) -> QuantizationScheme:
    """The scheme with weights alone quantized.

    Raises:
        QuantizationError: it is another than int8 or int4 for the CPU, or asks for gptq.
    """
    if scheme.target != "cpu" or scheme.name not in WEIGHT_ONLY:
        names = " and ".join(WEIGHT_ONLY)
        raise QuantizationError(
            f"a bundle whose cache grows has {names} for the target cpu; {scheme.name} for"
            f" {scheme.target} takes the graphs of 'seq2edge export'"
        )
    if options.algorithm == "gptq":
        raise QuantizationError(
            "gptq replays the graphs of 'seq2edge export'; for a bundle whose cache grows choose"
            " rtn or k-quant"
        )
    fallback = None if scheme.name == "int8" else WEIGHT_ONLY["int8"]
    return replace(scheme, recipe=WEIGHT_ONLY[scheme.name], fallback=fallback)


def find_concat_layers(models: Mapping[str, ir.Model], vocab_size: int) -> list[Layer]:
    """Linear layers by graph and name of the weight, such as ``decoder.model.fc1.weight``.

    Graphs are changed on the way by :class:`.PlainMatMulPass`.

    Args:
        vocab_size: outputs of the head, which 4 bit schemes keep in 8.

    Raises:
        QuantizationError: there are none.
    """
    layers: dict[str, Layer] = {}
    for graph, model in models.items():
        apply_passes(model, [PlainMatMulPass()])
        for node in model.graph.all_nodes():
            weight = node.inputs[1] if node.op_type == "MatMul" and len(node.inputs) > 1 else None
            tensor = constant_matrix(weight)
            if weight is None or tensor is None:
                continue
            name = f"{graph}.{weight.name}"
            outputs = int(tensor.shape.numpy()[1])
            kind = Kind.HEAD if outputs == vocab_size and graph != "encoder" else Kind.LINEAR
            layer = layers.setdefault(name, Layer(name, kind, tensor))
            layer.uses.append(Use(graph, model, node))
    if not layers:
        raise QuantizationError("the graphs have no MatMul or Gemm with a constant float matrix")
    return list(layers.values())


def write_concat(
    source: Bundle,
    models: Mapping[str, ir.Model],
    writer: BundleWriter,
    progress: StageProgress | None,
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
        graphs[name] = describe_graph(model, file)
        ir.save(model, writer.directory / file, external_data=f"{file}_data")
    copy_others(source, stored, writer)
    return replace(manifest, graphs=graphs, files=writer.files())


def _external(model: ir.Model) -> Iterator[str]:
    """Files that hold a graph's weights."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield str(value.const_value.location)
