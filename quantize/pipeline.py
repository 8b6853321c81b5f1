"""Bundle in, bundle out."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from seq2edge.export.serialize import Progress
from seq2edge.runtime.bundle.manifest import CONCAT, MANIFEST_NAME, Manifest
from seq2edge.runtime.bundle.reader import Bundle, BundleWriter, check_destination
from seq2edge.runtime.bundle.version import package_version

from .calibration import Calibration
from .check import Check, Checker, NotChecked, remedies
from .concat import write_concat
from .errors import QuantizationError, QuantizationWarning
from .numerics.rounding import fitting_block
from .passes.apply import Lowering
from .passes.smoothquant import migrate
from .recipe.layers import Layer
from .recipe.options import DEFAULT_BLOCK_SIZES, Options
from .recipe.schemes import Scheme, decide, find_scheme, is_excluded, nothing
from .recipe.weight_formats import BlockWeights, ChannelWeights, DynamicInt8, StaticInt8, Treatment
from .request import (
    CalibrationFiles,
    Request,
    check_finite,
    find_calibration,
    layers_of,
    load_models,
    needs_statistics,
    open_source,
)
from .write import write


@dataclass(frozen=True)
class QuantizeResult:
    """What was written.

    Attributes:
        path: the new bundle.
        manifest: its manifest; ``quantization`` says what was done.
        treatments: of each layer; None: nothing.
        exact: for each graph, values in float32 because float16 does not hold them.
        check: how far it is from the float32 bundle.
    """

    path: Path
    manifest: Manifest
    treatments: Mapping[str, Treatment | None]
    exact: Mapping[str, Sequence[str]] = field(default_factory=dict)
    check: Check = NotChecked("not asked for")  # noqa: RUF009

    @property
    def bytes(self) -> int:
        """Of all files but the manifest."""
        return sum(file.size for file in self.manifest.files.values())

    def __repr__(self) -> str:
        done = self.manifest.quantization
        made = f"{done.get('scheme')} for {done.get('target')}"
        return f"QuantizeResult({str(self.path)!r}, {made}, {self.bytes / 1e6:.1f} MB)"


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
    check: bool = True,
) -> QuantizeResult:
    """Write a quantized copy of a bundle, and compare what both compute.

    Without a ``block_size`` in ``options``, blocks of 128 are tried first, then 32, then 16,
    until the comparison is within its bound.

    Args:
        bundle: a float32 bundle, as ``export`` writes it.
        out: folder to write; it appears complete or not at all.
        scheme: name of one of :data:`.policy.SCHEMES`.
        target: what it will run on.
        options: block size, algorithm and so on, where the scheme's own do not suit.
        calibration: text that the model will meet, for schemes that need to know its values:
            static int8 always, gptq, and float16 to find out what overflows. The copy is
            compared with the bundle on this text; without one, on random prompts.
        exclude: patterns (``fnmatch``) of layer names to leave as they are.
        overwrite: replace a bundle that is already there.
        progress: called with the stage, what is done of it and what there is to do.
        check: whether to compare the copy with the bundle, on this machine's CPU: agreement
            and KL divergence of next-token distributions (``result.check``, and ``check`` in
            the manifest's record).

    Warns:
        QuantizationWarning: the copy computes something else; what to try.

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
        check=check,
    )
    result = _quantized(request, {}, _block_sizes(request))
    _warn(request, result)
    return result


def quantize_request(
    request: Request,
    *,
    notes: Mapping[str, Any] = MappingProxyType({}),
    choose_block: bool = True,
) -> QuantizeResult:
    """:func:`quantize_bundle`, with three things more.

    ``request.more_exact`` are patterns of layers that get the scheme's more exact treatment;
    ``notes`` go into the manifest's record; ``choose_block=False`` takes the scheme's own block
    size, whatever the comparison says.
    """
    sizes = _block_sizes(request) if choose_block else (request.options.block_size,)
    result = _quantized(request, notes, sizes)
    _warn(request, result)
    return result


def _block_sizes(request: Request) -> tuple[int | None, ...]:
    """Block sizes to try, in this order, until the check passes; None: the scheme's own."""
    scheme = find_scheme(request.scheme, request.target)
    given = request.options.block_size
    if given is None and request.check and "block_size" in scheme.uses:
        return DEFAULT_BLOCK_SIZES
    return (given,)


def _warn(request: Request, result: QuantizeResult) -> None:
    if isinstance(result.check, NotChecked) or result.check.passed:
        return
    scheme = find_scheme(request.scheme, request.target)
    options = request.options
    if options.block_size is None and "block_size" in scheme.uses:  # all sizes were tried
        options = replace(options, block_size=min(DEFAULT_BLOCK_SIZES))
    warnings.warn(
        f"{result.path} computes something else than {request.bundle}:"
        f" {result.check.excess()}; {result.check.describe()}. Try"
        f" {remedies(scheme, options)}",
        QuantizationWarning,
        stacklevel=3,
    )


def _quantized(
    request: Request, notes: Mapping[str, Any], block_sizes: Sequence[int | None]
) -> QuantizeResult:
    """Write the copy with the first of ``block_sizes`` that passes the check, or the best."""
    source, chosen = open_source(request)
    check_destination(request.out, request.overwrite)
    models = load_models(source)
    layers = layers_of(source, models)
    treatments = _treatments(layers, chosen, request)
    if chosen.compute == "float32" and not any(treatments.values()):
        raise QuantizationError("every layer is left as it is; exclude fewer of them")
    check_finite(models)
    calibration = find_calibration(source, layers, chosen, request)
    examples = calibration.examples if calibration else ()
    seen = calibration if needs_statistics(chosen, request.options) else None
    with (
        BundleWriter(request.out, overwrite=request.overwrite) as writer,
        Checker(source, examples, request.progress) as checker,
    ):
        job = _Job(source, chosen, request, seen, writer, checker if request.check else None)
        tried: dict[int | None, Check] = {}
        for size in block_sizes:
            result = job.run(size)
            tried[size] = result.check
            if result.check.passed:
                break
        best = min(tried, key=lambda size: (not tried[size].passed, tried[size].loss))
        if best != size:
            result = job.run(best)
        record = {**result.manifest.quantization, "check": result.check.record()}
        if len(tried) > 1:
            record["block_sizes"] = {
                "chosen": best,
                "tried": {str(size): check.record() for size, check in tried.items()},
            }
        record.update(notes)
        manifest = replace(result.manifest, quantization=record)
        writer.commit(manifest)
    return replace(result, manifest=manifest)


@dataclass(frozen=True)
class _Job:
    """All that candidates of one request have in common."""

    source: Bundle
    scheme: Scheme
    request: Request
    calibration: Calibration | None
    writer: BundleWriter
    checker: Checker | None

    def run(self, block_size: int | None) -> QuantizeResult:
        """Quantize into the writer's folder, whatever is there, and check what came of it."""
        chosen, seen = self.scheme, self.calibration
        request = replace(
            self.request, options=replace(self.request.options, block_size=block_size)
        )
        models = load_models(self.source)
        layers = layers_of(self.source, models)
        treatments = _treatments(layers, chosen, request)
        inputs = seen.inputs if seen else {}
        if seen and request.options.migration is not None:
            static = [layer for layer in layers if isinstance(treatments[layer.name], StaticInt8)]
            inputs = migrate(models, static, inputs, request.options.migration)
        lowering = Lowering(models, inputs)
        stage = "gptq" if request.options.algorithm == "gptq" else "quantizing"
        for number, layer in enumerate(layers):
            self._report(stage, number, len(layers))
            lowering.layer(layer, treatments[layer.name])
        self._report(stage, len(layers), len(layers))
        untouched = [layer for layer in layers if is_excluded(layer, _untouched(chosen, request))]
        record = _record(chosen, self.request, treatments, {layer.name for layer in untouched})
        record["parameters"] = self.source.manifest.parameters
        exact: dict[str, list[str]] = {}
        if chosen.compute != "float32":
            exact = lowering.compute(chosen.compute, untouched, seen, target=chosen.target)
            record["float32_values"] = exact
        if seen:
            record["calibration"] = asdict(seen.origin)
        concat = self.source.manifest.cache == CONCAT
        write_graphs = write_concat if concat else write
        written = write_graphs(self.source, models, self.writer, request.progress)
        manifest = replace(
            written,
            producer=f"seq2edge {package_version()}",
            quantization=record,
            graphs={
                name: replace(info, precision=chosen.precision) if info.weight_bytes else info
                for name, info in written.graphs.items()
            },
        )
        return QuantizeResult(request.out, manifest, treatments, exact, self._check(manifest))

    def _check(self, manifest: Manifest) -> Check:
        """Compare what lies in the writer's folder with the source."""
        if self.checker is None:
            return NotChecked("not asked for")
        if self.scheme.compute == "bfloat16":
            return NotChecked("ONNX Runtime has no bfloat16 kernels for the CPU")
        self.writer.write(MANIFEST_NAME, manifest.to_bytes())
        try:
            candidate = Bundle.open(self.writer.directory, single_stack=("encoder", "decoder"))
            return self.checker.compare(candidate)
        finally:
            (self.writer.directory / MANIFEST_NAME).unlink()

    def _report(self, stage: str, done: int, total: int) -> None:
        if self.request.progress is not None:
            self.request.progress(stage, done, total)


def load_calibration(request: Request) -> Calibration | None:
    """The calibration that ``request`` names, calibrating now if it is text.

    Raises:
        QuantizationError, InputError, BundleError: see :func:`quantize_bundle`.
    """
    source, chosen = open_source(request)
    return find_calibration(source, _layers(source), chosen, request)


def improvable_layers(request: Request) -> dict[str, bool]:
    """Layers that are not excluded, and whether ``more_exact`` would change them.

    Raises:
        QuantizationError, BundleError: see :func:`quantize_bundle`.
    """
    source, chosen = open_source(request)
    layers = _layers(source)
    now = _treatments(layers, chosen, request)
    then = _treatments(layers, chosen, replace(request, more_exact=("*",)))
    return {
        layer.name: chosen.policy is nothing or now[layer.name] != then[layer.name]
        for layer in layers
        if not is_excluded(layer, request.exclude)
    }


def _layers(bundle: Bundle) -> list[Layer]:
    return layers_of(bundle, load_models(bundle))


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
