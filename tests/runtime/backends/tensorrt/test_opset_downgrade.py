"""Downgraded graphs become engines as well: the same GEMMs, and no cache update in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from seq2edge.quantize import downgrade_opset
from seq2edge.runtime import Bundle
from seq2edge.runtime.backends.tensorrt import GraphReport, Limits, Options, build_engines

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

BundleOf = Callable[[str, str], Path]

_LIMITS = Limits(max_batch=2, max_source_length=48, max_target_length=32, max_num_tokens=4)


def reports(bundle: Path, out: Path) -> dict[str, GraphReport]:
    options = Options(limits=_LIMITS, compute_capabilities=("8.6",))
    made = build_engines(Bundle.open(bundle), out, options)
    return {name: engine.report for name, engine in made.engines.items()}


@pytest.mark.parametrize(
    ("shape", "scheme"),
    [("t5", "fp16"), ("bart", "fp16"), ("t5", "int8-qdq"), ("bart-odd", "int4")],
)
def test_a_downgraded_bundle_builds_with_the_same_gemms(
    shape: str, scheme: str, tensorrt_bundle_of: BundleOf, tmp_path: Path
) -> None:
    source = tensorrt_bundle_of(shape, scheme)
    downgrade_opset(source, tmp_path / "downgraded")
    before = reports(source, tmp_path / "before")
    after = reports(tmp_path / "downgraded", tmp_path / "after")
    for name, report in after.items():
        assert not report.lost
        assert gemms(report) == gemms(before[name])
        assert (report.attentions, report.cache_updates) == (0, 0)


def gemms(report: GraphReport) -> Counter[tuple[str, str]]:
    """Types of weights and inputs, as built."""
    return Counter(
        (gemm.built.weights, gemm.asked.inputs) for gemm in report.gemms if gemm.built is not None
    )
