"""The float32 bundle that a request names: opened, checked and calibrated once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from seq2edge.runtime.backends import load_backend
from seq2edge.runtime.bundle.atomic_write import check_file
from seq2edge.runtime.bundle.manifest import CONCAT
from seq2edge.runtime.bundle.reader import Bundle, check_destination
from seq2edge.runtime.errors import BundleError

from . import calibration as calibrating
from .calibration import Calibration
from .concat import concat_scheme, find_concat_layers
from .errors import QuantizationError
from .recipe.layers import Layer, find_layers
from .recipe.options import Options, check_options
from .recipe.plan import LayerPlan, plan_layers
from .recipe.schemes import QuantizationScheme, find_scheme, leave_layers
from .recipe.weight_formats import DynamicQuant
from .request import CalibrationFiles, Request
from .speech import Sounds, outlier_layers, read_recordings, synthetic_sounds
from .weights import read_when_used


@dataclass(frozen=True)
class Source:
    """A bundle whose hashes were verified, from which any number of bundles can be made.

    Attributes:
        layers: of its graphs; not to be changed.
        calibration: what the scheme has to know of the model's values, and texts to check what
            is made of it; None: no calibration was given.
        sounds: of a bundle that hears speech, what the copy is compared on.
        outliers: names of layers whose inputs one int8 scale does not hold, with their decibels.
    """

    bundle: Bundle
    scheme: QuantizationScheme
    layers: Sequence[Layer]
    calibration: Calibration | None
    sounds: Sounds | None = None
    outliers: Mapping[str, float] = field(default_factory=dict)

    def statistics(self, options: Options) -> Calibration | None:
        """The calibration, if the scheme makes use of the values in it."""
        return self.calibration if _needs_statistics(self.scheme, options) else None


def open_source(request: Request) -> Source:
    """Open the request's bundle; refuse what cannot be done before any work is.

    Raises:
        QuantizationError, InputError, BundleError, OutputError, OutputExistsError: see
            :func:`.quantize_bundle`.
    """
    scheme = find_scheme(request.scheme, request.target)
    check_options(request.options, request.scheme, request.target, scheme.uses)
    bundle = Bundle.open(request.bundle, single_stack=("encoder", "decoder"))
    if bundle.manifest.cache == CONCAT:
        scheme = concat_scheme(scheme, request.options)
    done = bundle.manifest.quantization
    if "opset_downgrade" in done:
        raise QuantizationError(
            f"{bundle.directory} was downgraded to older operators; quantize the bundle that it"
            " was made from, then downgrade the result"
        )
    if done:
        raise QuantizationError(
            f"{bundle.directory} is quantized already ({done['scheme']}); start from the"
            " float32 bundle"
        )
    check_paths(bundle, request)
    check_destination(request.out, request.overwrite)
    bundle.verify()
    models = load_models(bundle)
    layers = layers_of(bundle, models)
    plan = plan_layers(layers, scheme, request.options, request.exclude, request.fallback_layers)
    if scheme.recipe is not leave_layers and not any(plan.formats.values()):
        raise QuantizationError("every layer is left as it is; exclude fewer of them")
    _check_finite(models)
    if bundle.manifest.speech is not None:
        return _open_speech(bundle, scheme, layers, plan, request)
    return Source(bundle, scheme, layers, _calibration(bundle, layers, scheme, request))


def _open_speech(
    bundle: Bundle,
    scheme: QuantizationScheme,
    layers: Sequence[Layer],
    plan: LayerPlan,
    request: Request,
) -> Source:
    """The source with sounds in place of a calibration of text."""
    given, manifest = request.calibration, bundle.manifest
    if scheme.calibrated or request.options.algorithm == "gptq":
        raise QuantizationError(
            f"{scheme.name} for {scheme.target} calibrates on text, and {bundle.directory} hears"
            " speech; choose int8 or int4 for the CPU with another algorithm, or fp16"
        )
    if isinstance(given, Calibration):
        raise QuantizationError("a saved calibration is of text; give recordings")
    if given is not None and given.save is not None:
        raise QuantizationError(
            "recordings leave no calibration to save; leave out --save-calibration"
        )
    sounds = synthetic_sounds(manifest) if given is None else read_recordings(given.paths, manifest)
    outliers: dict[str, float] = {}
    if any(isinstance(weight_format, DynamicQuant) for weight_format in plan.formats.values()):
        if request.progress is not None:
            request.progress("looking for outliers", 0, len(sounds.audio))
        backend = load_backend(bundle, num_threads=None)
        try:
            outliers = outlier_layers(bundle, layers, sounds.inputs(backend, manifest))
        finally:
            backend.close()
    return Source(bundle, scheme, layers, None, sounds, outliers)


def load_models(bundle: Bundle) -> dict[str, ir.Model]:
    """The bundle's graphs by name; weights are read when they are used.

    Raises:
        BundleError: a graph is damaged.
    """
    models = {}
    for name, info in bundle.manifest.graphs.items():
        path = bundle.path(info.file)
        try:
            models[name] = ir.load(path)
            read_when_used(models[name])
        except Exception as error:  # protobuf's are of no common class
            raise BundleError(f"{path} is damaged: {error}; export the bundle again") from None
    return models


def layers_of(bundle: Bundle, models: Mapping[str, ir.Model]) -> list[Layer]:
    """The layers of a bundle's graphs; :func:`.concat.find_concat_layers` changes them.

    Raises:
        QuantizationError: there are none.
    """
    if bundle.manifest.cache == CONCAT:
        return find_concat_layers(models, bundle.manifest.dimensions.vocab_size)
    return find_layers(models)


def check_paths(source: Bundle, request: Request) -> None:
    """Keep what is written from replacing what is read, or something else that is written.

    Raises:
        QuantizationError: two paths are one, or one lies in the other.
    """
    given = request.calibration
    read = {"the bundle": source.directory}
    written = {"the output": request.out}
    if isinstance(given, CalibrationFiles):
        for number, path in enumerate(given.paths):
            read[f"the calibration {f'file {number + 1}' if number else 'text'}"] = path
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


def _needs_statistics(scheme: QuantizationScheme, options: Options) -> bool:
    return scheme.calibrated or options.algorithm == "gptq" or scheme.compute == "float16"


def _calibration(
    bundle: Bundle, layers: Sequence[Layer], scheme: QuantizationScheme, request: Request
) -> Calibration | None:
    """The calibration that the request names, made now if it is text.

    Where the scheme needs none, it holds only texts to check the copy on.
    """
    given, gptq = request.calibration, request.options.algorithm == "gptq"
    used = _needs_statistics(scheme, request.options)
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
    if isinstance(given, Calibration):
        calibrating.check_origin(given, bundle)
        return given
    if not used and (given.save is not None or not request.check):
        save, gptq_too = given.save is not None, "algorithm" in scheme.uses
        raise QuantizationError(
            f"{scheme.name} for {scheme.target} does not look at a calibration"
            + (", and has none to save; leave out --save-calibration" if save else "; leave it out")
            + (", or choose the algorithm gptq" if gptq_too else "")
        )
    if given.save is not None:
        check_file(Path(given.save), request.overwrite)
    inputs = calibrating.linear_inputs(layers)
    if len(given.paths) != 1:
        raise QuantizationError("text to calibrate on comes from one file; join the others to it")
    calibration = calibrating.load_or_calibrate(
        given.paths[0],
        bundle,
        inputs,
        moments=gptq,
        statistics=used,
        progress=request.progress,
        encoding_errors=given.encoding_errors,
    )
    if given.save is not None:
        calibrating.save(calibration, given.save)
    return calibration
