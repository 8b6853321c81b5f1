"""Make a quantized bundle of an open one, and check it before it is published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import onnx_ir as ir

from seq2edge.runtime.bundle.manifest import (
    BLOCK_ENCODER,
    CONCAT,
    CPU_GRAPHS,
    CUDA_GRAPHS,
    MANIFEST_NAME,
    GraphInfo,
    Manifest,
)
from seq2edge.runtime.bundle.reader import Bundle, BundleWriter
from seq2edge.runtime.bundle.version import package_version
from seq2edge.runtime.generation.divergence import TokenPair

from .check import Check, Checker, NotChecked, complaint
from .concat import write_concat
from .errors import QuantizationError
from .long_sources import LongSourceCheck, check_long_sources
from .passes import cuda_lowering
from .passes.cpu_lowering import MINIMUM_ONNXRUNTIME, Lowering, lower_for_cpu
from .passes.cpu_lowering.two_stage_head import PROPOSALS
from .passes.cuda_lowering import lower_for_cuda
from .proposals import ProposalCheck, check_proposals
from .recipe.options import DEFAULT_BLOCK_SIZES
from .recipe.plan import plan_layers
from .recipe.schemes import QuantizationScheme, leave_layers
from .recipe.weight_formats import WeightFormat
from .request import Request
from .source import Source
from .transform import transform
from .write import write

#: Weights from which on a head in two stages pays for speech.
_LARGE_HEAD = 4_000_000
#: What the manifest says of a head that has not two stages.
_WHOLE = "whole"
#: Bytes that an encoder reads of its weights from which on it is written in blocks as well: what
#: decides on it costs each call some microseconds, which those of smaller ones are short for.
_LARGE_ENCODER = 4_000_000
#: What the manifest says of the encoder's attention.
_ATTENTION = {"floats": "float32, in blocks", "integers": "int8 products, in blocks"}


@dataclass(frozen=True)
class QuantizeResult:
    """What was written.

    Attributes:
        path: the new bundle.
        manifest: its manifest; ``quantization`` says what was done.
        formats: of each layer's weight; None: as the scheme computes.
        float32_values: for each graph, values in float32 because float16 does not hold them.
        check: how far it is from the float32 bundle.
        proposals: how safe the head in two stages is that was asked for; None: it was not, or
            nothing was checked.
    """

    path: Path
    manifest: Manifest
    formats: Mapping[str, WeightFormat | None]
    float32_values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    check: Check = NotChecked("not asked for")  # noqa: RUF009
    proposals: ProposalCheck | None = None

    @property
    def bytes(self) -> int:
        """Of all files but the manifest."""
        return sum(file.size for file in self.manifest.files.values())

    def complaints(self, scheme: QuantizationScheme, request: Request) -> Iterator[str]:
        """What the checks of what ``request`` asked for did not pass, and what to try."""
        message = complaint(self.check, scheme, request)
        if message is not None:
            yield message
        if self.proposals is not None and not self.proposals.passed:
            yield f"{self.path} {self.proposals.excess()}"

    def __repr__(self) -> str:
        done = self.manifest.quantization
        made = f"{done.get('scheme')} for {done.get('target')}"
        return f"QuantizeResult({str(self.path)!r}, {made}, {self.bytes / 1e6:.1f} MB)"


def write_quantized(
    source: Source,
    request: Request,
    *,
    notes: Mapping[str, Any] = MappingProxyType({}),
    choose_block: bool = True,
) -> QuantizeResult:
    """Write a quantized copy of ``source`` to ``request.out``.

    Without a block size in the options, the first of ``DEFAULT_BLOCK_SIZES`` is taken that
    passes the check, or the best of them.

    Args:
        request: one that differs from the request that ``source`` was opened with in ``out``,
            ``overwrite``, ``exclude``, ``fallback_layers``, ``progress`` or ``check`` at most.
        notes: added to the manifest's record.
        choose_block: False: take the scheme's own block size, whatever the check says.

    Raises:
        QuantizationError: a pattern that matches no layer, or a weight that does not fit.
        OutputExistsError, OutputError: the copy cannot be written.
    """
    size: int | None = request.options.block_size
    sizes: tuple[int | None, ...] = (size,)
    if size is None and choose_block and request.check and "block_size" in source.scheme.uses:
        sizes = DEFAULT_BLOCK_SIZES
    examples = source.calibration.examples if source.calibration else ()
    with (
        BundleWriter(request.out, overwrite=request.overwrite) as writer,
        Checker(source.bundle, examples, request.progress, source.sounds) as checker,
    ):
        candidate = _Candidate(source, request, writer, checker)
        tried: dict[int | None, Check] = {}
        for size in sizes:
            result = candidate.make(size)
            tried[size] = result.check
            if result.check.passed:
                break
        best = min(tried, key=lambda size: (not tried[size].passed, tried[size].loss))
        if best != size:
            result = candidate.make(best)
        proposals = candidate.check_head(result.manifest)
        attention = candidate.check_attention(result)
        if attention is not None and not attention.passed:
            result = candidate.make(best, int8_attention=False)
        record = {**result.manifest.quantization, "check": result.check.record()}
        for name, found in (("proposals", proposals), ("long_sources", attention)):
            if found is not None:
                record["lowering"] = {**record["lowering"], name: found.record()}
        if len(tried) > 1:
            record["block_sizes"] = {
                "chosen": best,
                "tried": {str(size): check.record() for size, check in tried.items()},
            }
        record.update(notes)
        manifest = replace(result.manifest, quantization=record)
        writer.commit(manifest)
    return replace(result, manifest=manifest, proposals=proposals)


@dataclass(frozen=True)
class _Candidate:
    """A quantized bundle in the writer's folder; the next one takes its place."""

    source: Source
    request: Request
    writer: BundleWriter
    checker: Checker

    def make(self, block_size: int | None, *, int8_attention: bool | None = None) -> QuantizeResult:
        """Quantize with that block size, write, and check what came of it.

        ``int8_attention`` of the encoder; None: as the options say, or where it may be.
        """
        source, scheme, request = self.source, self.source.scheme, self.request
        options = replace(request.options, block_size=block_size)
        plan = plan_layers(
            source.layers,
            scheme,
            options,
            request.exclude,
            request.fallback_layers,
            source.outliers,
        )
        statistics = source.statistics(options)
        models, float32_values = transform(source, plan, options, statistics, request.progress)
        layers = plan.describe(scheme.compute)
        record: dict[str, Any] = {
            "scheme": scheme.name,
            "target": scheme.target,
            "compute": scheme.compute,
            "options": request.options.given(),
            "exclude": list(request.exclude),
            "layers": layers,
            "summary": dict(sorted(Counter(layers.values()).items())),
            "parameters": source.bundle.manifest.parameters,
        }
        if scheme.compute != "float32":
            record["float32_values"] = float32_values
        if source.sounds is not None:
            record["sounds"] = source.sounds.kind
            record["outliers"] = dict(source.outliers)
        if statistics is not None:
            record["calibration"] = asdict(statistics.origin)
        concat = source.bundle.manifest.cache == CONCAT
        write_graphs = write_concat if concat else write
        if scheme.lowers and not concat and options.lowering is not False:
            if scheme.target == "cuda":
                models |= self._lowered_for_cuda(models, record)
            else:
                models |= self._lowered(models, record, int8_attention)
        written = write_graphs(source.bundle, models, self.writer, request.progress)
        manifest = replace(
            written,
            producer=f"seq2edge {package_version()}",
            quantization=record,
            graphs={
                name: _described(name, info, scheme.precision)
                for name, info in written.graphs.items()
            },
        )
        check = self._check(manifest)
        return QuantizeResult(request.out, manifest, plan.formats, float32_values, check)

    def check_head(self, manifest: Manifest) -> ProposalCheck | None:
        """How safe the two stages are of what lies in the writer's folder.

        None: nobody asked for them, or nothing is checked.
        """
        asked = self.request.options.two_stage_head and self.request.check
        head = manifest.quantization.get("lowering", {}).get("head", _WHOLE)
        if not asked or head == _WHOLE:
            return None
        with self._opened(manifest) as written:
            return check_proposals(written, self.checker.pairs, self.request.progress)

    @property
    def _measures_attention(self) -> bool:
        """Whether int8 attention is a choice that :meth:`check_attention` makes."""
        chosen = self.request.options.int8_attention is not None
        return self.request.check and not chosen and self.source.bundle.manifest.speech is None

    def check_attention(self, result: QuantizeResult) -> LongSourceCheck | None:
        """How near what lies in the writer's folder is after long sources.

        None: its encoder has no int8 attention, or its user has chosen.
        """
        done = result.manifest.quantization.get("lowering", {}).get("attention")
        if not self._measures_attention or done != _ATTENTION["integers"]:
            return None
        pairs = [pair for pair in self.checker.pairs if isinstance(pair, TokenPair)]
        allowed = getattr(result.check, "allowed", 0.0)
        with self._opened(result.manifest) as written:
            return check_long_sources(
                self.source.bundle, written, pairs, allowed, self.request.progress
            )

    def _blocks(self, int8_attention: bool | None) -> Literal["floats", "integers"] | None:
        """How the encoder computes attention over long sources."""
        source, scheme = self.source.bundle.manifest, self.source.scheme
        asked = self.request.options.int8_attention
        encoder = source.graphs.get("encoder")
        if encoder is None or (encoder.weight_bytes < _LARGE_ENCODER and asked is None):
            return None
        if int8_attention is None:
            int8_attention = asked
        if int8_attention is None:  # of speech it costs words (docs/results, long sources)
            int8_attention = scheme.integer_encoder and self._measures_attention
        return "integers" if int8_attention else "floats"

    def _lowered(
        self,
        models: Mapping[str, ir.Model],
        record: dict[str, Any],
        int8_attention: bool | None,
    ) -> Mapping[str, ir.Model]:
        """The graphs for the CPU alone; ``record`` says what became of it.

        Raises:
            QuantizationError: there are none, and the request is about nothing else.
        """
        source, scheme = self.source.bundle.manifest, self.source.scheme
        int8_source = self.request.options.int8_cross_kv
        if int8_source is None:  # a step over the 1500 positions of 30 s is bound by reading them
            int8_source = source.speech is not None and scheme.quantizes_source
        two_stages = self.request.options.two_stage_head
        if two_stages is None:  # in text it gains too little for the size of a second head
            dims = source.dimensions
            large = dims.vocab_size * dims.d_model >= _LARGE_HEAD
            two_stages = large and source.speech is not None and scheme.quantizes_source
        how = Lowering(
            int8_source,
            two_stages,
            source.generation.get("suppress_tokens") or (),
            _first_weighed(source),
            self._blocks(int8_attention),
        )
        lowered = lower_for_cpu(models, how)
        done: dict[str, Any] = {
            "graphs": sorted(lowered.models),
            "onnxruntime": MINIMUM_ONNXRUNTIME,
            "source": "int8 keys and values per channel" if int8_source else "float32",
            "head": f"{PROPOSALS} tokens proposed by 4 bits" if lowered.two_stages else _WHOLE,
        }
        if BLOCK_ENCODER in lowered.models and how.blocks is not None:
            done["attention"] = _ATTENTION[how.blocks]
        elif lowered.whole_attention is not None:
            done["attention"] = f"whole ({lowered.whole_attention})"
        if lowered.refusal is not None:
            done = {"refused": lowered.refusal}
            if scheme.recipe is leave_layers or self.request.options.lowering:
                raise QuantizationError(
                    f"{self.source.bundle.directory} has no other form for the CPU:"
                    f" {lowered.refusal}; run it as it is"
                )
        record["lowering"] = done
        return lowered.models

    def _lowered_for_cuda(
        self, models: Mapping[str, ir.Model], record: dict[str, Any]
    ) -> Mapping[str, ir.Model]:
        """The decoder for the CUDA provider; ``record`` says what became of it."""
        lowered, refusal = lower_for_cuda(models)
        record["lowering"] = (
            {"refused": refusal}
            if refusal is not None
            else {"graphs": sorted(lowered), "onnxruntime": cuda_lowering.MINIMUM_ONNXRUNTIME}
        )
        return lowered

    def _check(self, manifest: Manifest) -> Check:
        """Compare what lies in the writer's folder with the source."""
        if not self.request.check:
            return NotChecked("not asked for")
        if self.source.scheme.compute == "bfloat16":
            return NotChecked("ONNX Runtime has no bfloat16 kernels for the CPU")
        with self._opened(manifest) as written:
            return self.checker.compare(written)

    @contextmanager
    def _opened(self, manifest: Manifest) -> Iterator[Bundle]:
        """What lies in the writer's folder, as a bundle for now."""
        self.writer.write(MANIFEST_NAME, manifest.to_bytes())
        try:
            yield Bundle.open(self.writer.directory, single_stack=("encoder", "decoder"))
        finally:
            (self.writer.directory / MANIFEST_NAME).unlink()


def _first_weighed(manifest: Manifest) -> int | None:
    """The first of the tokens that rules weigh one by one: from the end token on, Whisper's
    vocabulary has control tokens and timestamps."""
    if manifest.speech is None or manifest.speech.timestamp_begin is None:
        return None
    first = min(manifest.special_tokens.eos)
    return first if first < manifest.speech.timestamp_begin else None


def _described(name: str, info: GraphInfo, precision: str) -> GraphInfo:
    """``info`` with what is known beyond the graph itself."""
    if name in (*CPU_GRAPHS.values(), BLOCK_ENCODER):
        info = replace(info, minimum_onnxruntime=MINIMUM_ONNXRUNTIME)
    if name in CUDA_GRAPHS.values():
        info = replace(info, minimum_onnxruntime=cuda_lowering.MINIMUM_ONNXRUNTIME)
    return replace(info, precision=precision) if info.weight_bytes else info
