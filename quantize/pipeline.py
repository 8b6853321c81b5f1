"""Bundle in, bundle out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from seq2edge.export.serialize import Progress
from seq2edge.runtime.bundle import Bundle, BundleWriter, check_destination
from seq2edge.runtime.manifest import Manifest
from seq2edge.runtime.version import package_version

from . import calibration as calibrating
from .calibration import Calibration
from .errors import QuantizationError
from .layers import Layer, find_layers
from .lower import Lowering
from .migration import migrate
from .numerics import fitting_block
from .options import Options, check_options
from .policy import Scheme, decide, find_scheme, is_excluded
from .treatments import BlockWeights, ChannelWeights, StaticInt8, Treatment
from .write import write


@dataclass(frozen=True)
class QuantizeResult:
    """What was written.

    Attributes:
        path: the new bundle.
        manifest: its manifest; ``quantization`` says what was done.
        treatments: of each layer; None: nothing.
        exact: for each graph, values in float32 because float16 does not hold them.
    """

    path: Path
    manifest: Manifest
    treatments: Mapping[str, Treatment | None]
    exact: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class CalibrationFiles:
    """Where calibration comes from and goes to.

    Attributes:
        source: text (a line each, or .jsonl), or a calibration that was saved.
        save: file to save the calibration to.
    """

    source: str | os.PathLike[str]
    save: str | os.PathLike[str] | None = None


def quantize_bundle(
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    scheme: str,
    *,
    target: str = "cpu",
    options: Options | None = None,
    calibration: CalibrationFiles | Calibration | None = None,
    exclude: Sequence[str] = (),
    more_exact: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Write a quantized copy of a bundle.

    Args:
        bundle: a float32 bundle, as ``export`` writes it.
        out: folder to write; it appears complete or not at all.
        scheme: name of one of :data:`.policy.SCHEMES`.
        target: what it will run on.
        options: block size, algorithm and so on, where the scheme's own do not suit.
        calibration: text that the model will meet, for schemes that need to know its values:
            static int8 always, gptq, and float16 to find out what overflows.
        exclude: patterns (``fnmatch``) of layer names to leave as they are.
        more_exact: names of layers that get the scheme's more exact treatment instead.
        overwrite: replace a bundle that is already there.
        progress: called with the stage, what is done of it and what there is to do.

    Raises:
        QuantizationError: an unknown scheme or option, a pattern that matches no layer, a
            bundle that is quantized already, weights that are not finite, or a calibration
            that is missing, empty or of another bundle.
        InputError: calibration text that is too long, or no tokenizer for it.
        BundleError: the bundle cannot be read.
        OutputExistsError, OutputError: the copy cannot be written.
    """
    options = options or Options()
    chosen = find_scheme(scheme, target)
    check_options(options, scheme, target, chosen.uses)
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
    treatments = _treatments(layers, chosen, options, exclude, more_exact)
    _check_finite(models)
    seen = _calibration(source, layers, chosen, options, calibration, progress)
    inputs = seen.inputs if seen else {}
    if seen and options.migration is not None:
        static = [layer for layer in layers if isinstance(treatments[layer.name], StaticInt8)]
        inputs = migrate(models, static, inputs, options.migration)
    lowering = Lowering(models, inputs)
    for number, layer in enumerate(layers):
        if progress is not None:
            progress("quantizing", number, len(layers))
        lowering.layer(layer, treatments[layer.name])
    exact: dict[str, list[str]] = {}
    if chosen.compute != "float32":
        excluded = [layer for layer in layers if is_excluded(layer, exclude)]
        exact = lowering.compute(
            chosen.compute, excluded, seen, exact_norms=chosen.target == "tensorrt"
        )
    record = _record(chosen, options, exclude, treatments, layers)
    record["parameters"] = manifest.parameters
    if exact:
        record["float32_values"] = exact
    if seen:
        record["calibration"] = asdict(seen.origin)
    with BundleWriter(out, overwrite=overwrite) as writer:
        written = write(source, models, writer, progress)
        result = replace(
            written,
            producer=f"seq2edge {package_version()}",
            quantization=record,
            graphs={
                name: replace(info, precision=chosen.precision) if info.weight_bytes else info
                for name, info in written.graphs.items()
            },
        )
        writer.commit(result)
    return QuantizeResult(Path(out), result, treatments, exact)


def _treatments(
    layers: Sequence[Layer],
    scheme: Scheme,
    options: Options,
    exclude: Sequence[str],
    more_exact: Sequence[str],
) -> dict[str, Treatment | None]:
    policy = scheme.policy(options)
    exact = scheme.fallback(options) if scheme.fallback else lambda _layer: None
    decided = decide(
        layers,
        lambda layer: exact(layer) if is_excluded(layer, more_exact) else policy(layer),
        exclude,
    )
    return {layer.name: _fitted(layer, treatment) for layer, treatment in decided}


def _fitted(layer: Layer, treatment: Treatment | None) -> Treatment | None:
    """The treatment with a block size that suits the layer; none if no block does."""
    if not isinstance(treatment, BlockWeights):
        return treatment
    inputs, outputs = layer.matrix_shape
    # A table's rows are looked up, and standard blocks are, whole.
    whole = layer.outputs_first or treatment.standard
    block = fitting_block(inputs, treatment, whole=whole)
    if treatment.standard and (not block or outputs % 2 or inputs // block < 2):
        return ChannelWeights()  # see lowering/standard.py
    return replace(treatment, block_size=block) if block else None


def _check_finite(models: Mapping[str, ir.Model]) -> None:
    wrong = {
        name: None
        for model in models.values()
        for name, value in model.graph.initializers.items()
        if value.dtype == ir.DataType.FLOAT
        and value.const_value is not None
        and not np.isfinite(value.const_value.numpy()).all()
    }
    if wrong:
        raise QuantizationError(f"weights that are not finite numbers in {', '.join(wrong)}")


def _calibration(
    bundle: Bundle,
    layers: Collection[Layer],
    scheme: Scheme,
    options: Options,
    given: CalibrationFiles | Calibration | None,
    progress: Progress | None,
) -> Calibration | None:
    gptq = options.algorithm == "gptq"
    if given is None:
        if scheme.calibrated or gptq:
            needing = "gptq" if gptq else f"{scheme.name} for {scheme.target}"
            raise QuantizationError(
                f"{needing} needs to see the model at work: give it text with --calibration"
            )
        return None
    if isinstance(given, Calibration):
        return given
    if given.save is not None:
        calibrating.check_saving(given.save)
    inputs = calibrating.linear_inputs(layers)
    found = calibrating.load_or_calibrate(
        given.source, bundle, inputs, moments=gptq, progress=progress
    )
    if given.save is not None:
        calibrating.save(found, given.save)
    return found


def _record(
    scheme: Scheme,
    options: Options,
    exclude: Sequence[str],
    treatments: Mapping[str, Treatment | None],
    layers: Sequence[Layer],
) -> dict[str, Any]:
    """What the manifest says of it."""
    described = {}
    for layer in layers:
        treatment = treatments[layer.name]
        plain = "float32" if is_excluded(layer, exclude) else scheme.compute
        described[layer.name] = plain if treatment is None else treatment.describe()
    return {
        "scheme": scheme.name,
        "target": scheme.target,
        "compute": scheme.compute,
        "options": {name: v for name, v in asdict(options).items() if v is not None},
        "exclude": list(exclude),
        "layers": described,
        "summary": dict(sorted(Counter(described.values()).items())),
    }
