"""Reports: their statistics, their JSON, and the difference of two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seq2edge.benchmarks.report.diff import diff_reports
from seq2edge.benchmarks.report.machine import (
    Conditions,
    MachineInfo,
    conditions,
    cores_for,
    machine_info,
    revision,
)
from seq2edge.benchmarks.report.schema import Entry, Report, Tokens, read_report
from seq2edge.benchmarks.report.statistics import Measurement, holm, mann_whitney, ratio_interval
from seq2edge.cli.main import main
from seq2edge.runtime.errors import InputError

MACHINE = MachineInfo("a cpu", "x86_64", ("avx2",), 1, 2, 8 << 30, None, "Linux", "3.11")
THEN = Conditions("2026-01-01T00:00:00Z", 0.1, 0.0, 2000.0, None)


def times(seed: int, scale: float = 1.0, count: int = 20) -> list[float]:
    """Like those of a real machine: a floor, jitter, and now and then something else ran."""
    random = np.random.default_rng(seed)
    noise = random.gamma(2.0, 0.4, count) + 8 * (random.random(count) < 0.1)
    found: list[float] = (scale * (50 + noise)).tolist()
    return found


def report_of(samples: Sequence[float], tokens: Sequence[int] = (1, 2, 3)) -> Report:
    ids = [list(tokens)]
    entry = Entry(
        name="a.bundle",
        library="seq2edge",
        precision="float32",
        settings={},
        versions={"onnxruntime": "1.32.0"},
        sha256="0" * 64,
        disk_bytes=1000,
        loaded_bytes=1000,
        measurements={"all": Measurement.of(samples), "encoder": Measurement.of(times(99))},
        values={"load_ms": 3.0},
        tokens=Tokens.of(ids, "a.bundle", ids, exact=False),
    )
    return Report(
        kind="bench",
        title="a.bundle",
        command=("seq2edge", "bench", "a.bundle"),
        machine=MACHINE,
        before=THEN,
        after=THEN,
        revision=None,
        settings={"runs": len(samples)},
        entries=(entry,),
    )


def test_a_measurement_summarizes_its_samples() -> None:
    found = Measurement.of([*range(1, 101)])
    assert (found.p50, found.p90, found.max) == (50.5, pytest.approx(90.1), 100)
    assert found.interval.low < 50.5 < found.interval.high
    assert found.interval.high - found.interval.low < 25
    assert found == Measurement.of([*range(1, 101)])  # draws are seeded
    assert Measurement.of([7.0]).interval.low == 7.0


def test_intervals_of_a_median_hold_it_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    truth = np.log(2)  # of the exponential distribution
    held = 0
    for _ in range(200):
        interval = Measurement.of(random.exponential(size=30).tolist()).interval
        held += interval.low <= truth <= interval.high
    assert 0.88 <= held / 200 <= 0.99


def test_rank_test_gives_published_p_values() -> None:
    """The values of scipy.stats.mannwhitneyu, method="asymptotic", two-sided."""
    assert mann_whitney([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(0.0121858, abs=1e-6)
    # The example of scipy's page: ages at diagnosis, 5 men beside 4 women.
    found = mann_whitney([19, 22, 16, 29, 24], [20, 11, 17, 12])
    assert found == pytest.approx(0.1113468, abs=1e-6)
    assert mann_whitney([5.0] * 9, [5.0] * 9) == 1.0


def test_rank_test_of_ties_agrees_with_permutations() -> None:
    random = np.random.default_rng(1)
    a, b = random.integers(0, 6, 20), random.integers(0, 6, 20) + random.integers(0, 2, 20)
    both = np.concatenate([a, b])

    def statistic(values: np.ndarray) -> float:
        wins = np.sign(values[:20, None] - values[None, 20:]).sum()
        return abs(float(wins))

    drawn = [statistic(random.permutation(both)) for _ in range(4000)]
    share = np.mean([value >= statistic(both) for value in drawn])
    assert mann_whitney(a.tolist(), b.tolist()) == pytest.approx(share, abs=0.03)


def test_many_p_values_are_corrected() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_pairs_cancel_what_slows_a_round_down() -> None:
    drift = np.linspace(1, 3, 30)
    a, b = 10 * drift, 9 * drift
    assert ratio_interval(a, b)[0] == pytest.approx(0.9)
    paired, free = ratio_interval(a, b, paired=True)[1], ratio_interval(a, b)[1]
    assert paired.high - paired.low < 1e-9 < free.high - free.low


@pytest.mark.parametrize("seed", range(5))
def test_two_runs_agree_and_a_slowdown_is_found(seed: int) -> None:
    first = report_of(times(seed))
    assert not diff_reports(first, report_of(times(seed + 100))).differs
    slow = diff_reports(first, report_of(times(seed + 100, 1.10)))
    (change, other) = slow.changes
    assert (change.measurement, change.differs, other.differs) == ("all", True, False)
    assert change.ratio == pytest.approx(1.10, abs=0.03)
    assert change.interval.low < change.ratio < change.interval.high
    fast = diff_reports(report_of(times(seed + 100, 1.10)), first)
    assert fast.changes[0].differs
    # 2 % may be certain, and are no difference that counts.
    assert not diff_reports(first, report_of(times(seed, 1.02))).differs
    assert diff_reports(first, report_of(times(seed, 1.03)), threshold=0.01).differs


def test_other_tokens_are_a_difference() -> None:
    found = diff_reports(report_of(times(0)), report_of(times(0), tokens=(1, 2, 4)))
    assert found.tokens == ("a.bundle",)
    assert found.differs


def test_what_else_differs_is_said() -> None:
    first = report_of(times(0))
    entry = replace(first.entries[0], sha256="1" * 64, versions={"onnxruntime": "1.33.0"})
    busy = replace(THEN, busy=0.4)
    second = replace(
        first,
        entries=(entry, replace(entry, name="b.bundle")),
        before=busy,
        machine=replace(MACHINE, cpu="another"),
    )
    assert diff_reports(first, second).remarks == (
        "other machines: a cpu and another",
        "b.bundle is only in the second",
        "a.bundle: the bundle was changed",
        "a.bundle: onnxruntime 1.32.0 and 1.33.0",
        "other programs took 40 % of the processor beside the second",
    )


def test_what_cannot_be_compared_is_refused() -> None:
    first = report_of(times(0))
    for second, message in (
        (replace(first, kind="peers"), "one is of seq2edge bench, the other one of seq2edge peers"),
        (replace(first, settings={"runs": 9}), "different work: runs 20 and 9"),
        (replace(first, entries=()), "no measurement in common"),
        (replace(report_of(times(0, count=7)), settings=first.settings), "has 7 samples of all"),
    ):
        with pytest.raises(InputError, match=message):
            diff_reports(first, second)


def test_a_report_comes_back_from_its_json(tmp_path: Path) -> None:
    report = report_of(times(3))
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report.to_json()))
    assert read_report(file) == report
    document = report.to_json() | {"of a newer seq2edge": 1}
    file.write_text(json.dumps(document))
    assert read_report(file) == report


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON", r"no report: .*report\.json is not valid JSON"),
        ("[" * 100_000, r"no report: .*report\.json is not valid JSON"),
        ('{"format": 1, "format": 2}', "has the key 'format' twice"),
        ("[1]", "is no report of seq2edge"),
        ("{}", "is no report of seq2edge"),
        ('{"format": "seq2edge benchmark report", "format_version": 9}', "is of format 9"),
        ('{"format": "seq2edge benchmark report", "format_version": 1}', "missing or garbled"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_report(file)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"precision": 5}, r"entries\[0\].precision is '5'"),
        ({"disk_bytes": "x"}, r"entries\[0\].disk_bytes is 'x'"),
        ({"settings": "x"}, r"entries\[0\].settings is 'x'"),
        ({"values": {"a": []}}, r"entries\[0\].values.a is '\[\]'"),
        ({"notes": [1]}, r"entries\[0\].notes\[0\] is '1'"),
    ],
)
def test_values_of_another_type_are_refused(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    """Found by mutated reports: AttributeError and TypeError where they are shown."""
    document = report_of(times(0)).to_json()
    document["entries"][0] |= change
    file = tmp_path / "report.json"
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match=told):
        read_report(file)


def test_the_exit_code_says_whether_there_is_a_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / name for name in ("a.json", "b.json", "slow.json")]
    for file, samples in zip(files, (times(1), times(2), times(3, 1.1)), strict=True):
        file.write_text(json.dumps(report_of(samples).to_json()))
    same, slow = ["bench-diff", *map(str, files[:2])], ["bench-diff", str(files[0]), str(files[2])]
    assert main(same) == 0
    assert "no difference by more than 5 %" in capsys.readouterr().out
    assert main(slow) == 3
    assert "DIFFERS" in capsys.readouterr().out
    assert main([*slow, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["differs"] is True
    assert main([*slow, "--threshold", "20"]) == 0
    assert main(["bench-diff", str(files[0]), str(tmp_path / "none")]) == 2


def test_this_machine_is_described() -> None:
    machine, now = machine_info(), conditions(look=0.01)
    assert machine.cpu
    assert machine.usable_cores
    assert now.load_average is not None
    assert now.busy is None or 0 <= now.busy <= 1


def test_conditions_are_read_from_the_kernels_files(tmp_path: Path) -> None:
    """Clocks and temperatures of a board, by a recorded tree."""
    for name, text in {
        "proc/loadavg": "0.50 0.20 0.10 1/234 5678",
        "proc/stat": "cpu  100 0 50 800 50 0 0 0 0 0",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1500000",
        "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "2500000",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "48312",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = conditions(tmp_path, look=0.0)
    assert (found.load_average, found.clock_mhz, found.celsius) == (0.5, 2000.0, 48.312)
    assert found.busy is None  # no tick has passed
    nothing = conditions(tmp_path / "none", look=0.0)
    assert (nothing.load_average, nothing.clock_mhz, nothing.celsius) == (None, None, None)


def test_threads_are_pinned_to_as_many_cores() -> None:
    one = cores_for(1)
    assert one is None or len(one) == 1
    assert cores_for(None) is None
    assert cores_for(10_000) is None


def test_the_revision_is_this_checkouts() -> None:
    found = revision()
    assert found is None or len(found.removesuffix("-dirty")) == 12
