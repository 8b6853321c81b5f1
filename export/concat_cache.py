"""Bundles with a concatenating KV cache: their graphs, and a run before they are published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from importlib.util import find_spec
from math import prod

import numpy as np
import onnx_ir as ir

from seq2edge.runtime.backends import load_backend
from seq2edge.runtime.bundle.manifest import MANIFEST_NAME, GraphInfo, Manifest
from seq2edge.runtime.bundle.reader import Bundle, BundleWriter
from seq2edge.runtime.errors import BackendError
from seq2edge.runtime.generation import GenerationConfig
from seq2edge.runtime.model import Seq2SeqModel

from .errors import CheckpointError
from .serialize import tensor_spec

#: The input of optimum's merged decoder that says whether there is a cache. It is the condition
#: of the graph's ``If``, whose ``then_branch`` is every step but the first.
_BRANCH, _STEP_BRANCH = "use_cache_branch", "then_branch"
#: Initializers of these types are shapes, indices and flags, not weights; so are single numbers.
_NO_WEIGHTS = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.STRING}

#: Of the run before a bundle is published.
_TOKENS = 3


def describe_graph(model: ir.Model, file: str) -> GraphInfo:
    """A graph as the manifest has it; ``weight_bytes`` are those that a step with a cache reads."""
    initializers = [value for graph in _graphs(model) for value in graph.initializers.values()]
    tensors = {value: value.const_value for value in initializers if _is_weight(value)}
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        if tensor is not None:
            if tensor.dtype == ir.DataType.UNDEFINED:
                raise CheckpointError(
                    f"{file} is damaged: {tensor.name} has no type; copy it again"
                )
            sizes[str(tensor.dtype.numpy())] += tensor.nbytes
    read = {
        value
        for node in _step_nodes(model)
        if "Gather" not in node.op_type  # a table of which rows are looked up
        for value in node.inputs
        if value is not None
    }
    return GraphInfo(
        file=file,
        opset=model.opset_imports.get("", 0),
        precision=max(sizes, key=sizes.__getitem__, default="float32"),
        inputs=tuple(tensor_spec(value) for value in model.graph.inputs),
        outputs=tuple(tensor_spec(value) for value in model.graph.outputs),
        operators=dict(sorted(Counter(node.op_type for node in model.graph.all_nodes()).items())),
        weight_bytes=sum(
            t.nbytes for value, t in tensors.items() if t is not None and value in read
        ),
    )


def count_parameters(models: Iterable[ir.Model]) -> int:
    """Weights of all graphs; tensors of equal bytes, as graphs that share them have, count once."""
    seen: dict[bytes, int] = {}
    for model in models:
        for graph in _graphs(model):
            for value in filter(_is_weight, graph.initializers.values()):
                tensor = value.const_value
                if tensor is not None:
                    seen[sha256(tensor.tobytes()).digest()] = prod(tensor.shape.numpy())
    return sum(seen.values())


def publish(out: BundleWriter, manifest: Manifest) -> None:
    """Run the bundle that ``out`` holds on a few tokens, if onnxruntime is installed; commit it.

    ``manifest`` has the files that are written so far.

    Raises:
        CheckpointError: the graphs do not run, or give logits of another size.
        OutputExistsError, OutputError: the bundle cannot be written.
    """
    check_vocabulary(manifest)
    out.write(MANIFEST_NAME, manifest.to_bytes())
    if find_spec("onnxruntime") is not None:
        _run(out, manifest)
    out.commit(manifest)


def check_vocabulary(manifest: Manifest) -> None:
    """Refuse graphs whose logits do not have the vocabulary's size.

    Raises:
        CheckpointError: both sizes.
    """
    vocab_size = manifest.dimensions.vocab_size
    for spec in manifest.graphs["decoder"].outputs:
        size = spec.shape[-1] if spec.shape else None
        if spec.name == "logits" and isinstance(size, int) and size != vocab_size:
            raise CheckpointError(
                f"the decoder gives logits over {size} tokens, and the vocabulary has {vocab_size}"
            )


def _run(out: BundleWriter, manifest: Manifest) -> None:
    bundle = Bundle.open(out.directory)
    limit = manifest.dimensions.max_target_length or _TOKENS
    options = GenerationConfig(num_beams=2, max_new_tokens=min(_TOKENS, limit))
    sources = np.zeros((2, min(_TOKENS, manifest.dimensions.max_source_length or _TOKENS)), int)
    try:
        with Seq2SeqModel(bundle, load_backend(bundle, num_threads=None), None) as model:
            model.generate_ids(sources, np.ones_like(sources), options)
    except BackendError as error:
        raise CheckpointError(f"the graphs do not run: {error}") from None


def _graphs(model: ir.Model) -> Iterable[ir.Graph]:
    yield model.graph
    yield from (graph for graph in model.graph.subgraphs())


def _is_weight(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and len(tensor.shape) > 0 and tensor.dtype not in _NO_WEIGHTS


def _step_nodes(model: ir.Model) -> Iterable[ir.Node]:
    """Nodes that run in a step with a cache."""
    for node in model.graph:
        yield node
        for name, attribute in node.attributes.items():
            branch = attribute.type == ir.AttributeType.GRAPH
            condition = node.inputs[0] if node.inputs else None
            merged = condition is not None and condition.name == _BRANCH
            if branch and (not merged or name == _STEP_BRANCH):
                yield from attribute.as_graph().all_nodes()
