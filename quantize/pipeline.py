"""Bundle in, bundle out."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from seq2edge.export.serialize import Progress, write_graph, write_weights
from seq2edge.runtime.bundle import Bundle, BundleWriter, check_destination
from seq2edge.runtime.errors import BundleError
from seq2edge.runtime.manifest import MANIFEST_NAME, WEIGHTS_NAME, Manifest
from seq2edge.runtime.version import package_version

from .errors import QuantizationError
from .layers import Layer, find_layers
from .lowering import aliases, lower_blocks, lower_dynamic, lower_storage
from .lowering.rewrite import remove_unused_initializers
from .numerics import fitting_block
from .policy import (
    BlockWeights,
    DynamicInt8,
    Options,
    Scheme,
    Treatment,
    check_options,
    decide,
    find_scheme,
)

#: Larger constants go to weights.bin, smaller ones stay in the graph.
_INLINE_BYTES = 1024


@dataclass(frozen=True)
class QuantizeResult:
    """What was written, and what was done to each layer (None: nothing)."""

    path: Path
    manifest: Manifest
    treatments: Mapping[str, Treatment | None]


def quantize_bundle(
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    scheme: str,
    *,
    target: str = "cpu",
    options: Options | None = None,
    exclude: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Write a quantized copy of a bundle.

    Args:
        bundle: a float32 bundle, as ``export`` writes it.
        out: folder to write; it appears complete or not at all.
        scheme: name of one of :data:`.policy.SCHEMES`.
        target: what it will run on.
        options: block size, algorithm and symmetry, where the scheme's own do not suit.
        exclude: patterns (``fnmatch``) of layer names to leave as they are.
        overwrite: replace a bundle that is already there.
        progress: called with the stage, what is done of it and what there is to do.

    Raises:
        QuantizationError: an unknown scheme or option, a pattern that matches no layer, a
            bundle that is quantized already, or weights that are not finite.
        BundleError: the bundle cannot be read.
        OutputExistsError, OutputError: the copy cannot be written.
    """
    options = options or Options()
    chosen = find_scheme(scheme, target)
    check_options(options)
    check_destination(Path(out), overwrite)
    source = Bundle.open(bundle)
    manifest = source.manifest
    if manifest.quantization:
        raise QuantizationError(
            f"{source.directory} is quantized already ({manifest.quantization['scheme']}); start"
            " from the float32 bundle"
        )
    models = {name: ir.load(source.path(info.file)) for name, info in manifest.graphs.items()}
    layers = find_layers(models)
    treatments = {
        layer.name: _fitted(layer, treatment)
        for layer, treatment in decide(layers, chosen.policy(options), exclude)
    }
    _check_finite(layers)
    for number, layer in enumerate(layers):
        if progress is not None:
            progress("quantizing", number, len(layers))
        _lower(models, layer, treatments[layer.name])
    with BundleWriter(out, overwrite=overwrite) as writer:
        written = _write(source, models, writer, progress)
        result = replace(
            written,
            producer=f"seq2edge {package_version()}",
            quantization=_record(chosen, exclude, treatments, manifest.parameters),
            graphs={
                name: replace(info, precision=chosen.precision) if info.weight_bytes else info
                for name, info in written.graphs.items()
            },
        )
        writer.commit(result)
    return QuantizeResult(Path(out), result, treatments)


def _fitted(layer: Layer, treatment: Treatment | None) -> Treatment | None:
    """The treatment with a block size that suits the layer; none if no block does."""
    if not isinstance(treatment, BlockWeights):
        return treatment
    inputs = layer.weight.shape.numpy()[1 if layer.outputs_first else 0]
    block = fitting_block(inputs, treatment, whole=layer.outputs_first)
    return replace(treatment, block_size=block) if block else None


def _lower(models: Mapping[str, ir.Model], layer: Layer, treatment: Treatment | None) -> None:
    if isinstance(treatment, BlockWeights):
        lower_blocks(models, layer, treatment)
    elif isinstance(treatment, DynamicInt8):
        lower_dynamic(models, layer)
    elif treatment is not None:
        lower_storage(models, layer)


def _check_finite(layers: Sequence[Layer]) -> None:
    wrong = [layer.name for layer in layers if not np.isfinite(layer.weight.numpy()).all()]
    if wrong:
        raise QuantizationError(f"weights that are not finite numbers in {', '.join(wrong)}")


def _write(
    source: Bundle,
    models: Mapping[str, ir.Model],
    writer: BundleWriter,
    progress: Progress | None,
) -> Manifest:
    manifest = source.manifest
    weights: dict[str, _Tensor] = {}
    for model in models.values():
        remove_unused_initializers(model)
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is not None and (
                isinstance(tensor, ir.ExternalTensor) or tensor.nbytes > _INLINE_BYTES
            ):
                weights.setdefault(name, _Tensor(tensor))
    placed = write_weights(writer, weights, progress, aliases(weights))
    graphs = {name: write_graph(writer, name, model, placed) for name, model in models.items()}
    kept = {info.file for info in manifest.graphs.values()} | {WEIGHTS_NAME, MANIFEST_NAME}
    for name in manifest.files:
        if name not in kept:
            try:
                shutil.copyfile(source.path(name), writer.directory / name)
            except OSError as error:
                raise BundleError(f"cannot read {source.path(name)}: {error.strerror}") from None
    return replace(manifest, graphs=graphs, weights=placed, files=writer.files())


class _Tensor:
    """A tensor that is read when it is written."""

    def __init__(self, tensor: ir.TensorProtocol) -> None:
        self.shape = tuple(int(size) for size in tensor.shape.numpy())
        self._tensor = tensor

    def load(self) -> np.ndarray[Any, np.dtype[Any]]:
        array: np.ndarray[Any, np.dtype[Any]] = self._tensor.numpy()
        return array


def _record(
    scheme: Scheme,
    exclude: Sequence[str],
    treatments: Mapping[str, Treatment | None],
    parameters: int,
) -> dict[str, Any]:
    """What the manifest says of it."""
    described = {
        name: "float32" if treatment is None else treatment.describe()
        for name, treatment in treatments.items()
    }
    return {
        "scheme": scheme.name,
        "target": scheme.target,
        "exclude": list(exclude),
        "layers": described,
        "parameters": parameters,
        "summary": dict(sorted(Counter(described.values()).items())),
    }
