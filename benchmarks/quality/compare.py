"""Variants of one model against a reference: size, quality, agreement, divergence, speed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from seq2edge.runtime import Bundle, InputError
from seq2edge.runtime.bundle.version import package_version
from seq2edge.runtime.generation.divergence import Divergence, divergences
from seq2edge.runtime.progress import CountProgress, StageProgress
from seq2edge.runtime.text.tokenizer import Tokenizer, load_tokenizer

from ..report.machine import Conditions, MachineInfo, conditions, machine_info, revision
from ..report.schema import Entry, Quality, Report
from ..report.statistics import Interval, Measurement, percentile_interval
from ..report.subjects import manifest_hash, names_of, scheme_of
from .agreement import Agreement, token_agreement
from .data import Example, sample
from .evaluate import Evaluation, score
from .metrics import Metric
from .settings import Settings
from .speed import Speed, measure_speeds
from .subjects import Subject, open_subject


@dataclass(frozen=True)
class Variant:
    """One bundle beside the reference (which is a variant that differs in nothing).

    Attributes:
        name: its folder's name, or the path where two have the same name.
        scheme: how it was quantized; ``float32`` if it was not.
        target: what it was quantized for: ``cpu``, ``cuda`` or ``tensorrt``; None: it was not.
        bytes: of all files.
        value, interval: of the metric.
        difference, difference_interval: value minus the reference's; the interval is paired.
        agreement: of its tokens with the reference's.
        divergence: mean KL(reference || variant), nats per token, on the reference's outputs.
        speed: batch 1, greedy.
        threads: that an operator may use; None: all cores.
        sha256: of the manifest.
    """

    name: str
    scheme: str
    target: str | None
    bytes: int
    value: float
    interval: Interval
    difference: float
    difference_interval: Interval
    agreement: Agreement
    divergence: float
    speed: Speed
    threads: int | None
    sha256: str | None = None


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`; ``variants`` holds the reference first.

    ``sources`` says what the examples are: ``texts`` or ``recordings``.
    """

    metric: str
    definition: str
    unit: str
    lower_is_better: bool
    sources: str
    examples: int
    divergence_examples: int
    speed_texts: int
    settings: Settings
    variants: tuple[Variant, ...]
    machine: MachineInfo
    before: Conditions
    after: Conditions
    versions: dict[str, str]
    command: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the numbers: variants that are meant for another target."""
        return tuple(
            f"{variant.name} is quantized for {variant.target}, and all variants ran on the CPU:"
            " its times are not those of its target"
            for variant in self.variants
            if variant.target not in (None, "cpu")
        )

    def report(self) -> Report:
        """The same in the form that all measurements have."""
        names = {"metric", "definition", "examples", "divergence_examples", "speed_texts"}
        settings = {name: getattr(self, name) for name in sorted(names)}
        return Report(
            kind="compare",
            title=f"{self.variants[0].name} and its variants",
            command=self.command,
            machine=self.machine,
            before=self.before,
            after=self.after,
            revision=revision(),
            settings={**asdict(self.settings), **settings, "sources": self.sources},
            entries=tuple(self._entry(variant) for variant in self.variants),
            notes=self.notes,
        )

    def to_json(self) -> dict[str, Any]:
        return self.report().to_json()

    def _entry(self, variant: Variant) -> Entry:
        speed, source = variant.speed, self.sources.removesuffix("s")
        values = {"tokens": speed.tokens}
        if speed.speech is not None:
            values |= asdict(speed.speech)
        return Entry(
            name=variant.name,
            library="seq2edge",
            precision=variant.scheme,
            settings={"threads": variant.threads, "target": variant.target},
            versions=self.versions,
            sha256=variant.sha256,
            disk_bytes=variant.bytes,
            loaded_bytes=None,
            measurements={source: Measurement.of(speed.samples)},
            values=values,
            quality=Quality(
                metric=self.metric,
                unit=self.unit,
                lower_is_better=self.lower_is_better,
                value=variant.value,
                interval=variant.interval,
                difference=variant.difference,
                difference_interval=variant.difference_interval,
                identical=variant.agreement.identical,
                prefix=variant.agreement.prefix,
                divergence=variant.divergence,
            ),
        )

    def __repr__(self) -> str:
        names = ", ".join(variant.name for variant in self.variants)
        return f"Comparison({self.metric} over {self.examples} examples: {names})"


def compare(
    paths: Sequence[str | os.PathLike[str]],
    examples: Sequence[Example],
    metric: Metric,
    settings: Settings | None = None,
    progress: StageProgress | None = None,
) -> Comparison:
    """Measure bundles of one model; the first of ``paths`` is the reference.

    All of them are loaded at once; their times are taken in turns afterwards, each in a process of
    its own.

    Args:
        paths: the bundles' folders, two at least.
        examples: what quality is measured on, one at least (see :func:`.read_data`).
        metric: see :func:`.load_metric`.
        settings: None: the defaults.
        progress: told how far each stage is.

    Raises:
        BundleError, BackendError: a bundle cannot be loaded or run.
        InputError: bundles of different vocabularies, or as :func:`.evaluate`.
    """
    settings = settings or Settings()
    report, before = progress or _silent, conditions()
    with _loaded(paths, settings) as subjects:
        names = names_of(paths)
        reference = subjects[0]
        metric.check(examples)
        for subject in subjects:  # before any of them generates
            subject.check(examples)
        evaluations = [
            score(subject.answer(examples, _stage(report, f"{name}: quality")), examples, metric)
            for name, subject in zip(names, subjects, strict=True)
        ]
        pairs = [
            reference.pair(examples[index], evaluations[0].outputs[index])
            for index in sample(len(examples), settings.divergence_examples)
        ]
        report("divergence", 0, len(pairs))
        measured = divergences(
            reference.backend,
            [subject.backend for subject in subjects],
            reference.bundle.manifest,
            pairs,
            _stage(report, "divergence"),
        )
        facts = [(subject.bundle, subject.backend.num_threads) for subject in subjects]
    timed = sample(len(examples), settings.speed_texts)
    report("speed", 0, len(timed))
    speeds = measure_speeds(
        paths, [examples[index] for index in timed], settings, _stage(report, "speed")
    )
    rows = zip(names, facts, evaluations, measured, speeds, strict=True)
    return Comparison(
        metric=metric.name,
        definition=metric.definition,
        unit=metric.unit,
        lower_is_better=metric.lower_is_better,
        sources="texts" if facts[0][0].manifest.speech is None else "recordings",
        examples=len(examples),
        divergence_examples=len(pairs),
        speed_texts=len(timed),
        settings=settings,
        variants=tuple(_variant(*row, reference=evaluations[0]) for row in rows),
        machine=machine_info(),
        before=before,
        after=conditions(),
        versions=_versions(),
    )


def _variant(
    name: str,
    facts: tuple[Bundle, int | None],
    evaluation: Evaluation,
    divergence: Divergence,
    speed: Speed,
    *,
    reference: Evaluation,
) -> Variant:
    bundle, threads = facts
    return Variant(
        name=name,
        scheme=scheme_of(bundle),
        target=bundle.manifest.quantization.get("target"),
        bytes=bundle.size,
        value=evaluation.value,
        interval=evaluation.interval,
        difference=evaluation.value - reference.value,
        difference_interval=percentile_interval(evaluation.resampled - reference.resampled),
        agreement=token_agreement(
            [output.token_ids for output in reference.outputs],
            [output.token_ids for output in evaluation.outputs],
        ),
        divergence=divergence.mean_kl,
        speed=speed,
        threads=threads,
        sha256=manifest_hash(bundle),
    )


@contextmanager
def _loaded(paths: Sequence[str | os.PathLike[str]], settings: Settings) -> Iterator[list[Subject]]:
    """The bundles in engines, which are closed at the end; manifests are compared first."""
    bundles = [Bundle.open(path) for path in paths]
    tokenizers = [load_tokenizer(bundle) for bundle in bundles]
    for bundle, tokenizer in zip(bundles[1:], tokenizers[1:], strict=True):
        _check_vocabulary(bundles[0], tokenizers[0], bundle, tokenizer)
    with ExitStack() as stack:
        yield [stack.enter_context(open_subject(bundle, settings)) for bundle in bundles]


def _check_vocabulary(
    reference: Bundle, tokenizer: Tokenizer | None, other: Bundle, others: Tokenizer | None
) -> None:
    """Tokens and distributions can be compared only if a token means the same to both."""
    ours, theirs = reference.manifest, other.manifest
    sizes = ours.dimensions.vocab_size, theirs.dimensions.vocab_size
    reason = None
    if (ours.speech is None) != (theirs.speech is None):
        reason = "one hears speech, the other one reads texts"
    elif sizes[0] != sizes[1]:
        reason = f"{sizes[0]} and {sizes[1]} tokens"
    elif ours.special_tokens != theirs.special_tokens:
        reason = "different special tokens"
    elif not _same_tokenizer(reference, tokenizer, other, others):
        reason = "different tokenizers"
    if reason is not None:
        raise InputError(
            f"{reference.directory} and {other.directory} do not share a vocabulary ({reason});"
            " compare bundles of one model"
        )


def _same_tokenizer(
    reference: Bundle, tokenizer: Tokenizer | None, other: Bundle, others: Tokenizer | None
) -> bool:
    if tokenizer is None or others is None:
        return tokenizer is others
    files = [
        (bundle.manifest.tokenizer, bundle.manifest.files.get(bundle.manifest.tokenizer.file or ""))
        for bundle in (reference, other)
    ]
    # One vocabulary may be written in two ways, by two versions of the tokenizers library.
    return files[0] == files[1] or tokenizer.token_bytes() == others.token_bytes()


def _stage(progress: StageProgress, name: str) -> CountProgress:
    return lambda done, total: progress(name, done, total)


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Where nobody asked for progress."""


def _versions() -> dict[str, str]:
    import onnxruntime

    return {"seq2edge": package_version(), "onnxruntime": str(onnxruntime.__version__)}
