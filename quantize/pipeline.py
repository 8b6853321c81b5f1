"""Bundle in, bundle out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir

from seq2edge.export.serialize import Progress
from seq2edge.runtime.bundle.atomic_write import check_file
from seq2edge.runtime.bundle.manifest import Manifest
from seq2edge.runtime.bundle.reader import Bundle, BundleWriter, check_destination
from seq2edge.runtime.bundle.version import package_version
from seq2edge.runtime.errors import BundleError

from . import calibration as calibrating
from .calibration import Calibration
from .errors import QuantizationError
from .numerics.rounding import fitting_block
from .passes.apply import Lowering
from .passes.smoothquant import migrate
from .recipe.layers import Layer, find_layers
from .recipe.options import Options, check_options
from .recipe.schemes import Scheme, decide, find_scheme, is_excluded, nothing
from .recipe.weight_formats import BlockWeights, ChannelWeights, DynamicInt8, StaticInt8, Treatment
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

    @property
    def bytes(self) -> int:
        """Of all files but the manifest."""
        return sum(file.size for file in self.manifest.files.values())

    def __repr__(self) -> str:
        done = self.manifest.quantization
        made = f"{done.get('scheme')} for {done.get('target')}"
        return f"QuantizeResult({str(self.path)!r}, {made}, {self.bytes / 1e6:.1f} MB)"


@dataclass(frozen=True)
class CalibrationFiles:
    """Where calibration comes from and goes to.

    Attributes:
        source: text (one per line, or .jsonl), or a calibration that was saved.
        save: file to save the calibration to.
        encoding_errors: what to do with text that is not UTF-8: ``strict`` or ``replace``.
    """

    source: str | os.PathLike[str]
    save: str | os.PathLike[str] | None = None
    encoding_errors: str = "strict"


@dataclass(frozen=True)
class Request:
    """What :func:`quantize_request` is to do; see :func:`quantize_bundle`."""

    bundle: Path
    out: Path
    scheme: str
    target: str = "cpu"
    options: Options = field(default_factory=Options)
    calibration: CalibrationFiles | Calibration | None = None
    exclude: tuple[str, ...] = ()
    more_exact: tuple[str, ...] = ()
    overwrite: bool = False
    progress: Progress | None = None


def quantize_bundle(
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    scheme: str,
    *,
    target: str = "cpu",
    options: Options | None = None,
    calibration: CalibrationFiles | Calibration | None = None,
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
        options: block size, algorithm and so on, where the scheme's own do not suit.
        calibration: text that the model will meet, for schemes that need to know its values:
            static int8 always, gptq, and float16 to find out what overflows.
        exclude: patterns (``fnmatch``) of layer names to leave as they are.
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
    request = Request(
        Path(bundle),
        Path(out),
        scheme,
        target,
        options or Options(),
        calibration,
        tuple(exclude),
        overwrite=overwrite,
        progress=progress,
    )
    return quantize_request(request)


def quantize_request(
    request: Request, *, notes: Mapping[str, Any] = MappingProxyType({})
) -> QuantizeResult:
    """:func:`quantize_bundle`, with two things more.

    ``request.more_exact`` are patterns of layers that get the scheme's more exact treatment;
    ``notes`` go into the manifest's record.
    """
    source, chosen = _opened(request)
    check_destination(request.out, request.overwrite)
    manifest = source.manifest
    models = load_models(source)
    layers = find_layers(models)
    treatments = _treatments(layers, chosen, request)
    if chosen.compute == "float32" and not any(treatments.values()):
        raise QuantizationError("every layer is left as it is; exclude fewer of them")
    _check_finite(models)
    seen = _calibration(source, layers, chosen, request)
    inputs = seen.inputs if seen else {}
    if seen and request.options.migration is not None:
        static = [layer for layer in layers if isinstance(treatments[layer.name], StaticInt8)]
        inputs = migrate(models, static, inputs, request.options.migration)
    lowering = Lowering(models, inputs)
    for number, layer in enumerate(layers):
        if request.progress is not None:
            request.progress("quantizing", number, len(layers))
        lowering.layer(layer, treatments[layer.name])
    untouched = [layer for layer in layers if is_excluded(layer, _untouched(chosen, request))]
    record = _record(chosen, request, treatments, {layer.name for layer in untouched})
    record["parameters"] = manifest.parameters
    exact: dict[str, list[str]] = {}
    if chosen.compute != "float32":
        exact = lowering.compute(chosen.compute, untouched, seen, target=chosen.target)
        record["float32_values"] = exact
    if seen:
        record["calibration"] = asdict(seen.origin)
    record.update(notes)
    with BundleWriter(request.out, overwrite=request.overwrite) as writer:
        written = write(source, models, writer, request.progress)
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
    return QuantizeResult(request.out, result, treatments, exact)


def load_calibration(request: Request) -> Calibration | None:
    """The calibration that ``request`` names, calibrating now if it is text.

    Raises:
        QuantizationError, InputError, BundleError: see :func:`quantize_bundle`.
    """
    source, chosen = _opened(request)
    return _calibration(source, _layers(source), chosen, request)


def improvable_layers(request: Request) -> dict[str, bool]:
    """Layers that are not excluded, and whether ``more_exact`` would change them.

    Raises:
        QuantizationError, BundleError: see :func:`quantize_bundle`.
    """
    source, chosen = _opened(request)
    layers = _layers(source)
    now = _treatments(layers, chosen, request)
    then = _treatments(layers, chosen, replace(request, more_exact=("*",)))
    return {
        layer.name: chosen.policy is nothing or now[layer.name] != then[layer.name]
        for layer in layers
        if not is_excluded(layer, request.exclude)
    }


def _layers(bundle: Bundle) -> list[Layer]:
    return find_layers(load_models(bundle))


def load_models(bundle: Bundle) -> dict[str, ir.Model]:
    models = {}
    for name, info in bundle.manifest.graphs.items():
        path = bundle.path(info.file)
        try:
            models[name] = ir.load(path)
        except Exception as error:  # protobuf's are of no common class
            raise BundleError(f"{path} is damaged: {error}; export the bundle again") from None
    return models


def check_paths(source: Bundle, request: Request) -> None:
    """Keep what is written from replacing what is read, or something else that is written.

    Raises:
        QuantizationError: two paths are one, or one lies in the other.
    """
    given = request.calibration
    read = {"the bundle": source.directory}
    written = {"the output": request.out}
    if isinstance(given, CalibrationFiles):
        read["the calibration text"] = Path(given.source)
        if given.save is not None:
            written["the saved calibration"] = Path(given.save)
    folders = {"the bundle", "the output"}
    for name, path in written.items():
        for other, taken in {**read, **written}.items():
            if name == other:
                continue
            ours, theirs = path.resolve(), taken.resolve()
            if ours == theirs:
                raise QuantizationError(f"{name} and {other} are the same: {path}")
            inside = other in folders and ours.is_relative_to(theirs)
            if inside or (name in folders and theirs.is_relative_to(ours)):
                raise QuantizationError(
                    f"{name} and {other} lie in one another: {path}, {taken}; choose other paths"
                )


def _opened(request: Request) -> tuple[Bundle, Scheme]:
    """The bundle and the scheme, once both and the paths are known to fit."""
    chosen = find_scheme(request.scheme, request.target)
    check_options(request.options, request.scheme, request.target, chosen.uses)
    source = Bundle.open(request.bundle, single_stack=("encoder", "decoder"))
    source.require_slots("quantize")
    done = source.manifest.quantization
    if "legacy" in done:
        raise QuantizationError(
            f"{source.directory} has legacy operators; quantize the bundle that it was made from,"
            " then lower it"
        )
    if done:
        raise QuantizationError(
            f"{source.directory} is quantized already ({done['scheme']}); start from the"
            " float32 bundle"
        )
    check_paths(source, request)
    source.verify()
    return source, chosen


def _untouched(scheme: Scheme, request: Request) -> tuple[str, ...]:
    """Patterns of layers to leave in float32; more exact than float16 is nothing else."""
    return request.exclude + (request.more_exact if scheme.policy is nothing else ())


def _treatments(
    layers: Sequence[Layer], scheme: Scheme, request: Request
) -> dict[str, Treatment | None]:
    policy = scheme.policy(request.options)
    exact = (scheme.fallback or nothing)(request.options)
    decided = decide(
        layers,
        lambda layer: (exact if is_excluded(layer, request.more_exact) else policy)(layer),
        request.exclude,
    )
    return {layer.name: _fitted(layer, treatment) for layer, treatment in decided}


def _fitted(layer: Layer, treatment: Treatment | None) -> Treatment | None:
    """The treatment with a block size that suits the layer; none if no block does."""
    if isinstance(treatment, DynamicInt8) and treatment.stored is not None:
        stored = treatment.stored
        block = fitting_block(layer.matrix_shape[0], stored, whole=True)
        return DynamicInt8(replace(stored, block_size=block) if block else None)
    if not isinstance(treatment, BlockWeights):
        return treatment
    inputs, outputs = layer.matrix_shape
    # A table's rows are looked up, and standard blocks are, whole.
    whole = layer.outputs_first or treatment.standard
    if treatment.standard:  # two blocks a row at least: see passes/weight_only_standard.py
        treatment = replace(treatment, block_size=min(treatment.block_size, inputs // 2))
    block = fitting_block(inputs, treatment, whole=whole)
    if treatment.standard and (not block or outputs % 2):
        return ChannelWeights()
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
    bundle: Bundle, layers: Collection[Layer], scheme: Scheme, request: Request
) -> Calibration | None:
    given, gptq = request.calibration, request.options.algorithm == "gptq"
    if given is None:
        if scheme.calibrated or gptq:
            needing = "gptq" if gptq else f"{scheme.name} for {scheme.target}"
            raise QuantizationError(
                f"{needing} needs to see the model at work: give it text with --calibration"
            )
        return None
    if bundle.manifest.single_stack is not None:
        raise QuantizationError(
            f"{bundle.directory} holds only one of encoder and decoder, and a calibration replays"
            " both; choose a scheme without one"
        )
    used = scheme.calibrated or gptq or scheme.compute == "float16"
    if isinstance(given, Calibration):
        calibrating.check_origin(given, bundle)
        return given if used else None
    if not used:
        raise QuantizationError(
            f"{scheme.name} for {scheme.target} does not look at a calibration; leave it out"
            + ("" if "algorithm" not in scheme.uses else ", or choose the algorithm gptq")
        )
    if given.save is not None:
        check_file(Path(given.save), request.overwrite)
    inputs = calibrating.linear_inputs(layers)
    found = calibrating.load_or_calibrate(
        given.source,
        bundle,
        inputs,
        moments=gptq,
        progress=request.progress,
        encoding_errors=given.encoding_errors,
    )
    if given.save is not None:
        calibrating.save(found, given.save)
    return found


def _record(
    scheme: Scheme,
    request: Request,
    treatments: Mapping[str, Treatment | None],
    untouched: Collection[str],
) -> dict[str, Any]:
    """What the manifest says of it."""
    described = {}
    for name, treatment in treatments.items():
        plain = "float32" if name in untouched else scheme.compute
        described[name] = plain if treatment is None else treatment.describe()
    options = asdict(request.options)
    return {
        "scheme": scheme.name,
        "target": scheme.target,
        "compute": scheme.compute,
        "options": {name: value for name, value in options.items() if value is not None},
        "exclude": list(request.exclude),
        "layers": described,
        "summary": dict(sorted(Counter(described.values()).items())),
    }
