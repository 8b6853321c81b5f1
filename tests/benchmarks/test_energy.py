"""Energy by recorded sensor trees; nothing here has run on a board."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from seq2edge.benchmarks.bench import bench
from seq2edge.benchmarks.energy import EnergyMeter
from seq2edge.benchmarks.gpu_energy import GpuEnergy
from seq2edge.benchmarks.workload import Workload

from ..deploy.doctor.conftest import sample_files

RAPL = "sys/class/powercap/intel-rapl:0"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def board(tmp_path: Path) -> Callable[[str], Path]:
    """A function from a recorded board to the root of its files."""

    def get(name: str) -> Path:
        files = {key: data.decode() for key, data in sample_files(name).items() if "hwmon" in key}
        write(tmp_path, {key: text for key, text in files.items() if key.startswith("sys/")})
        return tmp_path

    return get


class Clock:
    """Time that passes only while somebody sleeps; the work waits for so many readings."""

    def __init__(self, readings: int) -> None:
        self.now = 0.0
        self._left = readings
        self._enough = threading.Event()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._left -= 1
        if self._left <= 0:
            self._enough.set()

    def work(self) -> None:
        assert self._enough.wait(10)


def test_rapl_counts_packages_and_runs_over(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            f"{RAPL}/name": "package-0",
            f"{RAPL}/energy_uj": "900000",
            f"{RAPL}/max_energy_range_uj": "1000000",
            f"{RAPL}:0/name": "core",  # a part of the package
            f"{RAPL}:0/energy_uj": "5",
            "sys/class/powercap/intel-rapl:1/name": "package-1",
            "sys/class/powercap/intel-rapl:1/energy_uj": "100",
        },
    )
    meter = EnergyMeter(tmp_path)

    def work() -> None:
        write(tmp_path, {f"{RAPL}/energy_uj": "400000"})
        write(tmp_path, {"sys/class/powercap/intel-rapl:1/energy_uj": "250100"})

    assert meter.problem is None
    found = meter.measure(work)
    assert found.by_sensor == pytest.approx({"package-0": 0.5, "package-1": 0.25})
    assert (found.joules, found.method) == (pytest.approx(0.75), "RAPL")


@pytest.mark.parametrize(
    ("name", "watts", "method"),
    [
        # The module's supply: 5056 mV of 904 mA, and not its parts as well.
        ("orin-nano", 5.056 * 0.904, "VDD_IN"),
        # An INA238 in microwatts, beside an INA3221.
        ("agx-thor", 20.986, "VIN"),
        # No supply has a sensor: rails are added up.
        (
            "agx-orin",
            20.024 * 0.184 + 20.024 * 0.024 + 5.048 * 0.776,
            "VDD_CPU_CV + VDD_GPU_SOC + VIN_SYS_5V0",
        ),
    ],
)
def test_rails_are_sampled(
    board: Callable[[str], Path], name: str, watts: float, method: str
) -> None:
    clock = Clock(readings=50)
    meter = EnergyMeter(board(name), clock, clock.sleep)
    assert meter.problem is None
    found = meter.measure(clock.work)
    assert found.seconds >= 1.0
    assert found.joules == pytest.approx(watts * found.seconds, rel=1e-6)
    assert found.method == method


def test_a_change_of_power_counts_from_when_it_happens(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon3"
    write(tmp_path, {f"{chip}/name": "ina238", f"{chip}/label": "VIN"})
    write(tmp_path, {f"{chip}/power1_input": "10000000"})

    class Doubling(Clock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.now > 0.5:
                write(tmp_path, {f"{chip}/power1_input": "20000000"})

    clock = Doubling(readings=50)
    found = EnergyMeter(tmp_path, clock, clock.sleep).measure(clock.work)
    assert found.joules == pytest.approx(10 * 0.5 + 20 * (found.seconds - 0.5), rel=0.05)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    problem = EnergyMeter(tmp_path).problem
    assert problem is not None
    assert "no energy sensor that is known here (RAPL, INA3221, INA238)" in problem
    write(tmp_path, {f"{RAPL}/name": "package-0"})  # energy_uj is not to be read
    problem = EnergyMeter(tmp_path).problem
    assert problem == "only root may read this processor's energy counters (RAPL)"


class FakeNvml:
    """The calls of pynvml that are made, of one GPU; work adds to its counter."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, counts: bool = True, gpus: int = 1) -> None:
        self._counts, self._gpus = counts, gpus
        self.millijoules, self.milliwatts = 5_000_000, 30_000

    def nvmlInit(self) -> None:  # noqa: N802
        if not self._gpus:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index >= self._gpus:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetName(self, gpu: int | str) -> str:  # noqa: N802
        return f"NVIDIA L4 {gpu}"

    def nvmlDeviceGetTotalEnergyConsumption(self, _gpu: int | str) -> int:  # noqa: N802
        if not self._counts:
            raise self.NVMLError("Not Supported")
        return self.millijoules

    def nvmlDeviceGetPowerUsage(self, _gpu: int | str) -> int:  # noqa: N802
        return self.milliwatts


def test_a_gpu_counts_its_own_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = FakeNvml()
    meter = EnergyMeter(tmp_path, gpu=GpuEnergy(nvml))

    def work() -> None:
        nvml.millijoules += 2_500

    assert meter.problem is None
    found = meter.measure(work)
    assert found.by_sensor == {"NVIDIA L4 0": pytest.approx(2.5)}
    assert (found.joules, found.method) == (pytest.approx(2.5), "NVML")
    # The processor's counters, where there are some, are added.
    write(tmp_path, {f"{RAPL}/name": "package-0", f"{RAPL}/energy_uj": "1000000"})
    found = EnergyMeter(tmp_path, gpu=GpuEnergy(nvml)).measure(work)
    assert found.by_sensor == {"NVIDIA L4 0": pytest.approx(2.5), "package-0": 0}
    assert found.method == "NVML + RAPL"


def test_an_old_gpu_is_sampled(tmp_path: Path) -> None:
    clock = Clock(readings=50)
    gpu = GpuEnergy(FakeNvml(counts=False))
    found = EnergyMeter(tmp_path, clock, clock.sleep, gpu).measure(clock.work)
    assert found.seconds >= 1.0
    assert found.joules == pytest.approx(30 * found.seconds)


def test_a_jetsons_rails_feed_its_gpu_too(board: Callable[[str], Path]) -> None:
    clock = Clock(readings=50)
    gpu = GpuEnergy(FakeNvml(gpus=0))  # a Jetson's NVML knows no power
    meter = EnergyMeter(board("orin-nano"), clock, clock.sleep, gpu)
    assert meter.problem is None
    assert meter.measure(clock.work).method == "VDD_IN"


@pytest.mark.parametrize(
    ("visible", "name"),
    [("1,0", "NVIDIA L4 1"), ("GPU-8f", "NVIDIA L4 GPU-8f"), ("", "NVIDIA L4 0")],
)
def test_it_is_the_gpu_that_cuda_sees(
    monkeypatch: pytest.MonkeyPatch, visible: str, name: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert GpuEnergy(FakeNvml(gpus=2)).name == name


def test_without_nvml_a_gpus_energy_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    write(tmp_path, {f"{RAPL}/name": "package-0", f"{RAPL}/energy_uj": "1"})
    # The processor's alone would look like the whole.
    problem = EnergyMeter(tmp_path, gpu=GpuEnergy()).problem
    assert problem == (
        "the GPU's energy cannot be read: nvidia-ml-py is not installed (pip install nvidia-ml-py)"
    )
    problem = EnergyMeter(tmp_path, gpu=GpuEnergy(FakeNvml(gpus=0))).problem
    assert problem == "the GPU's energy cannot be read: NVML: Driver Not Loaded"


def test_energy_of_a_token_is_in_the_report(
    bundle_of: Callable[[str], Path], board: Callable[[str], Path]
) -> None:
    meter = EnergyMeter(board("orin-nano"))
    work = Workload(source_length=4, new_tokens=4, runs=1, warmup=1, threads=1)
    (entry,) = bench([bundle_of("t5")], [work], energy=meter).entries
    found = entry.details["energy"]
    assert found["method"] == "VDD_IN"
    tokens = 4 * found["calls"]
    assert entry.values["joules_per_token"] == pytest.approx(found["joules"] / tokens)
    assert found["joules"] == pytest.approx(5.056 * 0.904 * found["seconds"], rel=0.2)


def test_a_machine_without_sensors_says_so_in_the_report(
    bundle_of: Callable[[str], Path], tmp_path: Path
) -> None:
    work = Workload(source_length=4, new_tokens=4, runs=1, warmup=1, threads=1)
    report = bench([bundle_of("t5")], [work], energy=EnergyMeter(tmp_path))
    assert "joules_per_token" not in report.entries[0].values
    assert any(note.startswith("energy was not measured: ") for note in report.notes)
