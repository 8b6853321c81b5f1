"""What a report comes to, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from .schema import Entry, Report
from .statistics import ratio_interval

#: Settings of entries that say how much is done.
WORK = ("source_length", "audio_seconds", "new_tokens", "batch_size", "num_beams")
#: Ends the name of a checkpoint that was made for its sizes.
RANDOM_WEIGHTS = "random weights"
#: The one that ratios, plots and the verdict are about, by kind of report.
_MAIN = ("all", "text", "recording")


def main_measurement(report: Report) -> str | None:
    """The time that stands for an entry."""
    there = {name for entry in report.entries for name in entry.measurements}
    return next((name for name in _MAIN if name in there), None)


def baseline(report: Report) -> Entry | None:
    """What ratios are to: the fastest peer whose tokens are right, or the reference bundle."""
    main = main_measurement(report)
    entries = [entry for entry in report.entries if main in entry.measurements]
    if main is None or len(entries) < 2:
        return None
    if report.kind != "peers":
        return entries[0]
    peers = [
        entry for entry in entries if entry.library != "seq2edge" and entry.name not in report.wrong
    ]
    return min(peers, key=lambda entry: entry.measurements[main].p50, default=None)


def token_unit(report: Report) -> str:
    """What a report's tokens are."""
    return "words" if report.settings.get("audio") else "tokens"


def verdict(report: Report) -> list[str]:
    """One sentence for each thing that a reader must know first."""
    return list(_verdict(report))


def _verdict(report: Report) -> Iterator[str]:
    main, reference = main_measurement(report), baseline(report)
    ours = [e for e in report.entries if e.library == "seq2edge" and main in e.measurements]
    if main is not None and reference is not None and ours:
        others = [
            entry for entry in ours if entry.name != reference.name and _same_work(entry, reference)
        ]
        # Of variants the fastest that is not measurably worse, if there is one.
        others = [entry for entry in others if not _is_worse(entry)] or others
        best = min(others, key=lambda e: e.measurements[main].p50, default=None)
        if best is not None:
            yield f"{_against(best, reference, main, report.kind)}{_tokens(best, report)}."
        elif report.kind == "bench":  # a grid of one bundle
            yield _alone(ours[0], main)
        if report.kind == "peers":
            yield from _by_precision(report, main)
    elif main is not None and ours:
        yield _alone(ours[0], main)
    for name in report.wrong:
        entry = report.entry(name)
        assert entry is not None  # it is one of them
        assert entry.tokens is not None  # which is why it is wrong
        yield (
            f"{name} is WRONG: in float32 it gives {entry.tokens.common} of"
            f" {entry.tokens.total} tokens as {entry.tokens.reference} does; its times"
            " do not count."
        )
    for name in report.disputed:
        entry = report.entry(name)
        if entry is not None and entry.tokens is not None:
            yield (
                f"{name} and {entry.tokens.reference} give different tokens in float32, and nobody"
                " else says which are right: add transformers:float32."
            )
    for reason in dict.fromkeys(report.left_out.values()):
        names = [name for name, why in report.left_out.items() if why == reason]
        were = "was" if len(names) == 1 else "were"
        yield f"{', '.join(names)} {were} not measured: {reason}"
    for note in report.notes:
        yield f"{note[:1].upper()}{note[1:]}."
    for when, found in (("before", report.before), ("after", report.after)):
        if found.busy is not None and found.busy > 0.1:
            yield f"Other programs took {100 * found.busy:.0f} % of the processor {when} the run."


def _alone(entry: Entry, main: str) -> str:
    found = entry.measurements[main]
    return (
        f"{entry.name}: {found.p50:.4g} ms [{found.interval.low:.4g}, {found.interval.high:.4g}]"
        f" for {main if main != 'all' else 'a generation'}, 99 % of calls within"
        f" {found.p99:.4g} ms."
    )


def _by_precision(report: Report, main: str) -> Iterator[str]:
    """Ours beside the fastest peer of the same precision."""
    right = [e for e in report.entries if main in e.measurements and e.name not in report.wrong]
    for precision in dict.fromkeys(entry.precision for entry in right):
        same = [entry for entry in right if entry.precision == precision]
        peers = [entry for entry in same if entry.library != "seq2edge"]
        ours = [entry for entry in same if entry.library == "seq2edge"]
        if peers and ours:
            first, other = (
                min(some, key=lambda e: e.measurements[main].p50) for some in (ours, peers)
            )
            yield f"In {precision}: {_against(first, other, main, 'precision')}."


def _same_work(entry: Entry, other: Entry) -> bool:
    """Whether both have the lengths, batch and beams of one another; a grid has many."""
    return all(entry.settings.get(name) == other.settings.get(name) for name in WORK)


def _is_worse(entry: Entry) -> bool:
    """Whether all of the interval of its difference is on the bad side."""
    quality = entry.quality
    if quality is None:
        return False
    difference = quality.difference_interval
    return difference.low > 0 if quality.lower_is_better else difference.high < 0


def _against(best: Entry, reference: Entry, main: str, kind: str) -> str:
    ratio, interval = ratio_interval(
        reference.measurements[main].samples, best.measurements[main].samples, paired=True
    )
    who = "the best peer, " if kind == "peers" else ""
    said = (
        f"{best.name} takes {ratio:.2f} x the time [{interval.low:.2f}, {interval.high:.2f}] of"
        f" {who}{reference.name}"
    )
    quality = best.quality
    if quality is not None:
        said += (
            f"; {quality.metric} {quality.value:.2f} {quality.unit}, {quality.difference:+.2f}"
            f" [{quality.difference_interval.low:+.2f}, {quality.difference_interval.high:+.2f}]"
        )
    return said


def _tokens(best: Entry, report: Report) -> str:
    """How much of it is what the reference gives, where it was compared with one.

    Of random weights fewer bits choose other tokens, which says nothing about them.
    """
    found = best.tokens
    if report.kind != "peers" or found is None or found.reference == best.name:
        return ""
    if found.verdict == "same":
        return f"; {token_unit(report)} as {found.reference}'s"
    if str(report.settings.get("checkpoint", "")).endswith(RANDOM_WEIGHTS):
        return ""
    return f"; {found.common} of {found.total} first {token_unit(report)} as {found.reference}'s"
