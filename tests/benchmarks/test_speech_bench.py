"""What a speech bundle costs: parts of the time, bytes of a step, memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from seq2edge.benchmarks import bandwidth
from seq2edge.benchmarks.bench import bench
from seq2edge.benchmarks.memory import STAGES, measure_memory
from seq2edge.benchmarks.report.schema import Entry
from seq2edge.benchmarks.roofline import measure_rooflines
from seq2edge.benchmarks.workload import Workload
from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import Bundle
from seq2edge.runtime.errors import BundleError, InputError

WORK = Workload(audio_seconds=2, new_tokens=8, runs=2, warmup=1, threads=1)


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "_MEMORY_BYTES", 2_000_000)


def measure(bundle: Path, workload: Workload) -> Entry:
    (entry,) = bench([bundle], [workload]).entries
    return entry


def test_parts_of_the_time_are_given(speaking_bundle: Path) -> None:
    report = measure(speaking_bundle, replace(WORK, batch_size=2, num_beams=2))
    assert list(report.measurements) == ["features", "encoder", "first token", "token", "all"]
    ms = {name: spread.p50 for name, spread in report.measurements.items()}
    assert min(ms["features"], ms["encoder"]) > 0
    assert report.values["audio_seconds"] == 2
    assert report.values["real_time_factor"] == pytest.approx(ms["all"] / 1e3 / (2 * 2))
    assert report.values["tokens_per_second"] == pytest.approx(2 * 8 / (ms["all"] / 1e3))


def test_a_recording_takes_the_place_of_noise(speaking_bundle: Path, recordings: Path) -> None:
    file = recordings.with_name("33.wav")
    report = measure(speaking_bundle, replace(WORK, audio=str(file)))
    assert report.values["audio_seconds"] == 2
    report = measure(speaking_bundle, replace(WORK, audio=str(file), audio_seconds=None, runs=1))
    assert report.values["audio_seconds"] == 30  # the model's window


def test_a_step_reads_the_sound(speaking_bundle: Path, tmp_path: Path) -> None:
    int8 = tmp_path / "int8"
    quantize_bundle(speaking_bundle, int8, "int8", check=False)
    found, quantized = measure_rooflines([speaking_bundle, int8], WORK)
    assert (
        found.weight_bytes == Bundle.open(speaking_bundle).manifest.graphs["decoder"].weight_bytes
    )
    # 2 s are 100 positions. Keys and values of 2 layers, 4 heads of 8 float32.
    assert (found.source_length, found.cache_slots) == (100, 8)
    own, source = (2 * 2 * 4 * 8 * length for length in (8, 100))
    assert found.cache_bytes == 4 * own + 4 * source
    # On a CPU the source's are int8.
    assert quantized.cache_bytes == 4 * own + source
    assert found.share > 0


def test_a_fresh_process_transcribes(speaking_bundle: Path) -> None:
    report = measure_memory(speaking_bundle, WORK)
    assert tuple(report.stages) == STAGES
    totals = [report.stages[name].total for name in STAGES]
    assert totals[0] < totals[1] < totals[2] < totals[3] < 200_000_000


def test_what_cannot_be_measured_is_refused(
    speaking_bundle: Path, bundle_of: Callable[[str], Path], recordings: Path, tmp_path: Path
) -> None:
    text = recordings
    for bundle, changes, message in (
        (speaking_bundle, {"audio_seconds": 31}, "--audio-seconds 31 is more than the model's"),
        (speaking_bundle, {"source_length": 5}, "--audio-seconds says how long its sources are"),
        (speaking_bundle, {"audio": str(tmp_path / "none")}, "cannot read"),
        (speaking_bundle, {"audio": str(text)}, "is a text file"),
        (speaking_bundle, {"new_tokens": 64}, "64"),
        (bundle_of("t5"), {}, "reads texts: --source-length says how long"),
        (bundle_of("t5"), {"audio_seconds": None, "audio": "x.wav"}, "reads texts"),
    ):
        with pytest.raises(InputError, match=message):
            measure(bundle, replace(WORK, **changes))
    with pytest.raises(InputError, match="--memory transcribes one recording"):
        measure_memory(speaking_bundle, replace(WORK, batch_size=2))


def test_memory_of_a_bundle_without_a_tokenizer_is_refused(
    speaking_checkpoint: Path, tmp_path: Path
) -> None:
    from shutil import copytree

    from ..conftest import export_unvalidated

    copytree(speaking_checkpoint, tmp_path / "checkpoint")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "checkpoint" / name).unlink()
    export_unvalidated(tmp_path / "checkpoint", tmp_path / "bundle")
    with pytest.raises(BundleError, match="has no tokenizer"):
        measure_memory(tmp_path / "bundle", WORK)
    assert measure(tmp_path / "bundle", replace(WORK, runs=1)).values["real_time_factor"]
