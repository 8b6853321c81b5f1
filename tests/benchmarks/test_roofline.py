"""A decoder step beside the bandwidth: the figures fit together and with the bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from seq2edge.benchmarks import bandwidth
from seq2edge.benchmarks import bench as bench_module
from seq2edge.benchmarks.limit import Bound
from seq2edge.benchmarks.roofline import measure_rooflines
from seq2edge.benchmarks.workload import Workload
from seq2edge.runtime import Bundle
from seq2edge.runtime.backends.limits import cache_bytes
from seq2edge.runtime.errors import BundleError, InputError

WORK = Workload(source_length=5, new_tokens=8, batch_size=2, runs=2, warmup=1, threads=1)


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_MEMORY_BYTES", 2_000_000)


def test_figures_fit_together(bundle_of: Callable[[str], Path]) -> None:
    (found,) = measure_rooflines([bundle_of("t5")], WORK)
    decoder = Bundle.open(bundle_of("t5")).manifest.graphs["decoder"]
    assert (found.device, found.plan_weight_bytes) == ("cpu", None)
    assert found.weight_bytes == decoder.weight_bytes
    # Keys and values of 2 layers, 3 heads of 24 float32, for 2 sequences.
    assert found.cache_bytes == 2 * 2 * 3 * 24 * 4 * 2 * (8 + 5)
    assert (found.cache_slots, found.source_length, found.batch_size) == (8, 5, 2)
    assert found.threads == 1
    read = found.weight_bytes + found.cache_bytes
    bandwidth = max(found.memory_bandwidth, found.same_size_bandwidth)
    assert found.memory_ms == pytest.approx(1e3 * read / bandwidth)
    assert found.step_bandwidth == pytest.approx(1e3 * read / found.step_ms.p50)
    assert found.compute_ms == pytest.approx(
        1e3 * found.operations["float32"] / found.gemm["float32"]
    )
    assert found.bound_ms == max(found.memory_ms, found.compute_ms)
    assert found.share == pytest.approx(found.bound_ms / found.step_ms.p50)
    assert 0 < found.best_step_ms <= found.step_ms.p50
    assert found.best_bandwidth >= bandwidth
    assert found.best_gemm["float32"] >= found.gemm["float32"]
    best = max(
        read / found.best_bandwidth, found.operations["float32"] / found.best_gemm["float32"]
    )
    assert found.best_share == pytest.approx(1e3 * best / found.best_step_ms)


def test_the_encoder_has_a_bound_of_its_own(bundle_of: Callable[[str], Path]) -> None:
    (found,) = measure_rooflines([bundle_of("t5")], WORK)
    encoder = found.encoder
    assert encoder is not None
    graphs = Bundle.open(bundle_of("t5")).manifest.graphs
    # Written: keys and values of 2 layers, 3 heads of 24 float32, of 2 sources of 5 tokens.
    assert encoder.bytes == graphs["encoder"].weight_bytes + 2 * 2 * 3 * 24 * 4 * 2 * 5
    bandwidth = max(found.memory_bandwidth, found.same_size_bandwidth)
    assert encoder.memory_ms == pytest.approx(1e3 * encoder.bytes / bandwidth)
    assert encoder.compute_ms == pytest.approx(
        1e3 * encoder.operations["float32"] / found.gemm["float32"]
    )
    assert encoder.bound_ms == max(encoder.memory_ms, encoder.compute_ms)
    assert encoder.share == pytest.approx(encoder.bound_ms / encoder.ms.p50)


def test_a_step_of_beams_computes_for_each(bundle_of: Callable[[str], Path]) -> None:
    (one,) = measure_rooflines([bundle_of("bart")], replace(WORK, runs=1))
    (four,) = measure_rooflines([bundle_of("bart")], replace(WORK, runs=1, num_beams=4))
    # The tokens before are shared, each beam has its own last one.
    assert (one.cache_slots, four.cache_slots) == (8, 11)
    assert four.weight_bytes == one.weight_bytes
    linear = [found.operations["float32"] - found.attention_operations for found in (one, four)]
    assert linear[1] == 4 * linear[0]
    assert four.attention_operations == 4 * one.attention_operations * (11 + 5) // (8 + 5)


def test_a_bound_is_the_longer_of_two() -> None:
    rates = {"float32": 1e9, "int8": 4e9}
    bound = Bound.of(2e6, 1e9, {"float32": 1e6, "int8": 8e6}, rates)
    assert (bound.memory_ms, bound.compute_ms) == (2.0, 3.0)
    assert (bound.ms, bound.bound_by) == (3.0, "compute")
    assert Bound.of(4e6, 1e9, {"float32": 1e6}, rates).bound_by == "memory"
    # Nobody counted, or there is no rate: bytes bound it, and no time of computing is made up.
    for operations in ({}, {"float64": 1.0}):
        assert Bound.of(2e6, 1e9, operations, rates) == Bound(2.0, None)


def test_bundles_are_measured_in_the_same_rounds(bundle_of: Callable[[str], Path]) -> None:
    rounds: list[tuple[int, int]] = []
    paths = [bundle_of("t5"), bundle_of("bart")]
    found = measure_rooflines(paths, WORK, lambda done, total: rounds.append((done, total)))
    expected = [Bundle.open(path).manifest.graphs["decoder"].weight_bytes for path in paths]
    assert [report.weight_bytes for report in found] == expected
    assert rounds == [(1, 3), (2, 3), (3, 3)]


def test_a_cache_in_fewer_bits_counts_as_fewer_bytes(bundle_of: Callable[[str], Path]) -> None:
    decoder = Bundle.open(bundle_of("t5")).manifest.graphs["decoder"]
    half = replace(
        decoder,
        inputs=tuple(
            replace(spec, dtype="float16") if spec.name.startswith(("past_", "cross_")) else spec
            for spec in decoder.inputs
        ),
    )
    assert cache_bytes(half, 1, 10, 7) == cache_bytes(decoder, 1, 10, 7) / 2


def test_what_cannot_be_measured_is_refused(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--new-tokens 81 is more than the model's 80"):
        measure_rooflines([bundle_of("bart")], Workload(new_tokens=81))
    with pytest.raises(BundleError, match="no such bundle"):
        measure_rooflines([bundle_of("t5"), tmp_path / "none"], WORK)


def test_a_step_faster_than_its_limit_is_noted(
    bundle_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure_rooflines([bundle_of("t5")], replace(WORK, runs=1))
    for share, notes in ((0.9, 0), (1.7, 1)):
        given = [replace(found[0], share=share)]
        monkeypatch.setattr(bench_module, "measure_rooflines", lambda *_, given=given: given)
        work = replace(WORK, runs=1)
        report = bench_module.bench([bundle_of("t5")], [work], roofline=True, processes=1)
        assert sum("faster than what was measured" in note for note in report.notes) == notes
