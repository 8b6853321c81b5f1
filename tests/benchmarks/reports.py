"""Reports with all that pages and plots show."""

from __future__ import annotations

from collections.abc import Sequence

from seq2edge.benchmarks.report.schema import Entry, Quality, Report, Tokens
from seq2edge.benchmarks.report.statistics import Interval, Measurement

from .test_report import MACHINE, THEN, times


def roofline(scale: float, precision: str) -> dict[str, object]:
    """A step of 2 ms * ``scale`` at half of what memory allows, and an encoder at a quarter."""
    moved, operations = 4_000_000 * scale, {precision: int(8e6 * scale)}
    return {
        "weight_bytes": moved,
        "cache_bytes": 0,
        "step_ms": {"p50": 2.0 * scale},
        "bound_ms": scale,
        "share": 0.5,
        "memory_bandwidth": 4e9,
        "same_size_bandwidth": 8e9,
        "operations": operations,
        "gemm": {"float32": 1e11, "int8": 4e11},
        "encoder": {
            "ms": {"p50": 8.0 * scale},
            "bytes": 4_000_000 * scale,
            "operations": {precision: int(4e8 * scale)},
        },
    }


def entry(name: str, scale: float, megabytes: float, quality: float | None = None) -> Entry:
    library, _, precision = name.partition(":")
    ids = [[1, 2, 3]]
    return Entry(
        name=name,
        library=library,
        precision=precision,
        settings={"threads": 2},
        versions={"onnxruntime": "1.32.0"},
        sha256=None,
        disk_bytes=int(1e6 * megabytes),
        loaded_bytes=None,
        measurements={"all": Measurement.of(times(int(100 * scale), scale))},
        values={"load_ms": 12.0},
        tokens=Tokens.of(ids, "a", ids, exact=False),
        quality=None
        if quality is None
        else Quality(
            *("wer", "%", True, quality, Interval(quality - 0.4, quality + 0.4)),
            *(0.1, Interval(-0.1, 0.3), 0.9, 0.95, 0.01),
        ),
        details={"roofline": roofline(scale, "float32" if precision == "float32" else "int8")}
        if library == "seq2edge"
        else {},
    )


def report_of(entries: Sequence[Entry], kind: str = "peers") -> Report:
    return Report(
        kind=kind,
        title="<small> & fast",
        command=("seq2edge", "peers", "--peers", "all"),
        machine=MACHINE,
        before=THEN,
        after=THEN,
        revision="0123456789ab",
        settings={"threads": 2},
        entries=tuple(entries),
        left_out={"openvino:int4": "no </script> network"},
    )


def peers_report() -> Report:
    """Four variants of three libraries."""
    names = ("optimum:float32", "openvino:int8", "seq2edge:float32", "seq2edge:int8")
    scales = zip(names, (10, 4, 8, 2), (800, 60, 240, 61), strict=True)
    return report_of([entry(*values) for values in scales])
