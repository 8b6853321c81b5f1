"""A comparison as a table, a Markdown page and a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from seq2edge.runtime.bundle.atomic_write import OutputFolder

from .bootstrap import Interval
from .compare import Comparison, Variant
from .picture import draw
from .speed import SpeechSpeed

#: The files of a report; the first one tells a report from any other folder.
REPORT_KIND = "a report"
REPORT_FILES = ("report.json", "report.md", "report.svg")

_Column = tuple[str, Callable[[Variant], str]]

_LEGEND = (
    ("difference", "to the reference, on the same resampled examples"),
    ("identical", "sequences whose tokens are all the reference's"),
    ("prefix", "tokens before the first one that differs, mean over the sequences"),
    ("KL", "KL(reference || variant) of the next-token distribution, nats per token, mean"),
    (
        "ms",
        "per {source}, batch 1, greedy, median over the {source}s; x ms: divided by the"
        " reference's",
    ),
    ("tokens", "generated per {source} where it was timed, mean"),
)
_SPEECH_LEGEND = (
    ("encoder", "ms of the encoder over the first window of a recording, median"),
    ("token", "ms of decoding the first window greedily, by token, median"),
    ("real time", "seconds that recordings took, by the seconds that they last"),
)


def table(comparison: Comparison) -> str:
    """Aligned columns for a terminal, with a line above that says what was measured."""
    columns = _columns(comparison)
    rows = [[title for title, _ in columns]]
    rows += [[cell(variant) for _, cell in columns] for variant in comparison.variants]
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    lines = [_headline(comparison)]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]))
    return "\n".join([*lines, *comparison.notes])


def markdown(comparison: Comparison) -> str:
    """A page with the table, what its columns mean, the picture and the machine."""
    columns = _columns(comparison)
    rows = [[title for title, _ in columns], ["---"] * len(columns)]
    rows += [[cell(variant) for _, cell in columns] for variant in comparison.variants]
    lines = ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows]
    return "\n".join(
        [
            f"# {comparison.variants[0].name} and its variants",
            "",
            f"{_headline(comparison)}.",
            f"The metric counts {comparison.definition}.",
            "",
            *lines,
            "",
            f"![size and speed against {comparison.metric}](report.svg)",
            "",
            *(f"- {name}: {meaning}" for name, meaning in _legend(comparison)),
            *(f"- {note}" for note in comparison.notes),
            "",
            _circumstances(comparison),
            "",
        ]
    )


def write_report(comparison: Comparison, folder: Path, overwrite: bool) -> None:
    """Write :data:`REPORT_FILES` into ``folder``, all of them or nothing.

    Raises:
        OutputExistsError, OutputError: ``folder`` may not or cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    document = json.dumps(comparison.to_json(), indent=2, allow_nan=False) + "\n"
    contents = (document.encode(), markdown(comparison).encode(), draw(comparison))
    files = dict(zip(REPORT_FILES, contents, strict=True))
    with OutputFolder(folder, overwrite=overwrite, marker=REPORT_FILES[0], kind=REPORT_KIND) as out:
        for name, data in files.items():
            (out.directory / name).write_bytes(data)
        out.publish()


def _legend(comparison: Comparison) -> list[tuple[str, str]]:
    source = comparison.sources.removesuffix("s")
    more = _SPEECH_LEGEND if source == "recording" else ()
    return [(name, meaning.format(source=source)) for name, meaning in (*_LEGEND, *more)]


def _columns(comparison: Comparison) -> list[_Column]:
    size = comparison.variants[0].bytes
    return [
        ("bundle", lambda v: v.name),
        ("scheme", lambda v: v.scheme),
        ("MB", lambda v: f"{v.bytes / 1e6:.2f}"),
        ("x MB", lambda v: f"{v.bytes / size:.3f}"),
        (
            f"{comparison.metric} {comparison.unit}",
            lambda v: f"{v.value:.2f} {_between(v.interval)}",
        ),
        ("difference", lambda v: f"{v.difference:+.2f} {_between(v.difference_interval, '+')}"),
        ("identical", lambda v: f"{100 * v.agreement.identical:.1f} %"),
        ("prefix", lambda v: f"{100 * v.agreement.prefix:.1f} %"),
        ("KL", lambda v: f"{v.divergence:.2g}"),
        ("ms", lambda v: f"{v.speed.milliseconds:.3f}"),
        ("x ms", lambda v: f"{v.speed.ratio:.3f}"),
        ("tokens", lambda v: f"{v.speed.tokens:.1f}"),
        *(_SPEECH_COLUMNS if comparison.sources == "recordings" else ()),
    ]


def _of_speech(part: Callable[[SpeechSpeed], float]) -> Callable[[Variant], str]:
    return lambda v: "" if v.speed.speech is None else f"{part(v.speed.speech):.3f}"


_SPEECH_COLUMNS: tuple[_Column, ...] = (
    ("encoder", _of_speech(lambda speech: speech.encoder_ms)),
    ("token", _of_speech(lambda speech: speech.token_ms)),
    ("real time", _of_speech(lambda speech: speech.real_time_factor)),
)


def _between(interval: Interval, sign: str = "") -> str:
    return f"[{interval.low:{sign}.2f}, {interval.high:{sign}.2f}]"


def _headline(comparison: Comparison) -> str:
    better = "lower" if comparison.lower_is_better else "higher"
    data = comparison.settings.data
    examples = "examples" if comparison.sources == "texts" else comparison.sources
    return (
        f"{comparison.examples} {examples}{data and f' of {data}'}, {comparison.metric}"
        f" ({better} is better) with 95 % intervals"
    )


def _circumstances(comparison: Comparison) -> str:
    threads = {variant.threads or "all" for variant in comparison.variants}
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    return (
        f"KL over {comparison.divergence_examples} examples, times over"
        f" {comparison.speed_texts} {comparison.sources}, variants in turns; threads:"
        f" {', '.join(map(str, sorted(threads, key=str)))}; {comparison.cpu}; {versions}."
    )


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
