"""What the probes say of each sample machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from seq2edge.deploy.doctor import Machine, runnable_engines
from seq2edge.deploy.doctor.facts import Gpu, PowerMode, Stack

from .conftest import NVIDIA_SMI, MakeSample

GiB = 1 << 30
Examined = Callable[[str], Machine]


@pytest.mark.parametrize(
    ("board", "cores", "core", "soc", "l4t", "jetpack", "capability"),
    [
        ("orin-nano", 6, "Arm Cortex-A78AE", "tegra234", "36.4.3", "6.2", "8.7"),
        ("orin-nx", 8, "Arm Cortex-A78AE", "tegra234", "36.4.3", "6.2", "8.7"),
        ("agx-orin", 12, "Arm Cortex-A78AE", "tegra234", "36.4.3", "6.2", "8.7"),
        ("agx-thor", 14, "Arm Neoverse-V3AE", "tegra264", "38.2.0", "7.0", "11.0"),
    ],
)
def test_a_jetson_is_known(
    machine: Examined,
    board: str,
    cores: int,
    core: str,
    soc: str,
    l4t: str,
    jetpack: str,
    capability: str,
) -> None:
    found = machine(board)
    assert found.jetson is not None
    assert (found.jetson.soc, found.jetson.l4t, found.jetson.jetpack) == (soc, l4t, jetpack)
    assert (found.cpu.model, found.cpu.architecture) == (core, "aarch64")
    assert found.cpu.logical_cores == found.cpu.usable_cores == cores
    assert [gpu.compute_capability for gpu in found.cuda.gpus] == [capability]
    assert found.cuda.gpus[0].shared_memory
    assert found.cuda.problem is None


def test_the_boards_name_has_no_nul(machine: Examined) -> None:
    name = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert machine("orin-nano").board == name


def test_features_are_those_that_matter(machine: Examined) -> None:
    assert machine("orin-nx").cpu.features == ("asimddp", "asimdhp", "fphp")
    assert set(machine("agx-thor").cpu.features) == {
        *("asimddp", "asimdhp", "fphp"),
        *("i8mm", "bf16", "sve"),
    }
    assert machine("x86-rtx").cpu.features == ("avx2", "f16c", "avx_vnni")


def test_a_feature_that_one_core_lacks_does_not_count(sample: MakeSample) -> None:
    cores = (
        "processor : 0\nFeatures : fp asimd asimddp\n\nprocessor : 1\nFeatures : fp asimd\n\n"
        "Hardware : a board\nModel : Some Board Rev 1\n"
    )
    cpu = sample("agx-orin", {"proc/cpuinfo": cores}).examine().cpu
    assert cpu.features == ()
    assert (cpu.logical_cores, cpu.model) == (2, "Some Board Rev 1")


def test_memory_swap_and_zram(machine: Examined) -> None:
    memory = machine("orin-nano").memory
    assert memory.total == 7802324 * 1024
    assert memory.usable() == memory.available == 612000 * 1024
    assert memory.zram_total == memory.swap_total == 6 * 650192 * 1024
    other = machine("x86-rtx").memory
    assert (other.swap_total, other.zram_total) == (2097148 * 1024, 0)


def test_power_mode_and_the_modes_there_are(machine: Examined) -> None:
    jetson = machine("orin-nano").jetson
    assert jetson is not None
    assert jetson.power_mode == PowerMode(0, "15W")
    assert PowerMode(2, "MAXN_SUPER") in jetson.power_modes
    assert jetson.stack == Stack("12.6", "10.3", "3.10")


def test_power_mode_from_the_file_where_nvpmodel_may_not_be_asked(sample: MakeSample) -> None:
    status = {"var/lib/nvpmodel/status": "pmode:0002\n"}
    jetson = sample("orin-nano", status, {"nvpmodel -q": None}).examine().jetson
    assert jetson is not None
    assert jetson.power_mode == PowerMode(2, "MAXN_SUPER")


def test_clocks_and_whether_they_are_locked(machine: Examined) -> None:
    moving = machine("orin-nano").sensors.clocks
    assert [(clock.kind, clock.name) for clock in moving] == [
        ("cpu", "policy0"),
        ("cpu", "policy4"),
        ("gpu", "17000000.gpu"),
    ]
    assert (moving[0].current, moving[0].maximum) == (729_600_000, 1_728_000_000)
    assert not any(clock.locked for clock in moving)
    assert all(clock.locked for clock in machine("orin-nx").sensors.clocks)
    # The other clock of Thor's GPU is its video engine's.
    thor = [clock.name for clock in machine("agx-thor").sensors.clocks if clock.kind == "gpu"]
    assert thor == ["gpu-gpc-0"]


def test_temperatures_leave_out_what_is_off(machine: Examined) -> None:
    zones = {zone.name: zone for zone in machine("orin-nx").sensors.zones}
    assert set(zones) == {"cpu-thermal", "gpu-thermal", "soc0-thermal", "tj-thermal"}
    assert zones["gpu-thermal"].celsius == pytest.approx(99.312)
    # The critical trip point above it shuts down.
    assert zones["gpu-thermal"].throttles_at == 99.0
    assert zones["tj-thermal"].throttles_at is None


def test_rails_are_in_watts(machine: Examined) -> None:
    nano = {rail.name: rail.watts for rail in machine("orin-nano").sensors.rails}
    assert nano == {
        "VDD_IN": pytest.approx(5.056 * 0.904),
        "VDD_CPU_GPU_CV": pytest.approx(5.056 * 0.144),
        "VDD_SOC": pytest.approx(5.048 * 0.28),
    }
    agx = [rail.name for rail in machine("agx-orin").sensors.rails]
    assert agx == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]
    thor = {rail.name: rail.watts for rail in machine("agx-thor").sensors.rails}
    assert thor["VIN"] == pytest.approx(20.986)  # its sensor counts microwatts
    assert thor["VDD_GPU"] == pytest.approx(19.864 * 0.02)


def test_a_workstation_in_a_container(machine: Examined) -> None:
    found = machine("x86-rtx")
    cpu, memory = found.cpu, found.memory
    assert (cpu.physical_cores, cpu.logical_cores, cpu.cgroup_cores) == (8, 16, 4.0)
    assert memory.cgroup_limit == 8 * GiB
    # Inactive file pages are dropped first, so they are not in the way.
    assert memory.cgroup_used == 1_000_000_000
    assert memory.usable() == 8 * GiB - 1_000_000_000
    assert found.jetson is None
    assert found.cuda.gpus == (
        Gpu("NVIDIA GeForce RTX 4070", "8.9", 12282 << 20, 11020 << 20, shared_memory=False),
    )
    assert (found.cuda.driver, found.cuda.driver_cuda) == ("580.65.06", "13.0")
    assert runnable_engines(found) == ("tensorrt-rtx", "onnxruntime-gpu", "onnxruntime")


def test_control_groups_of_the_first_version(sample: MakeSample) -> None:
    group = "sys/fs/cgroup/memory/docker/abc"
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n",
        "sys/fs/cgroup/cpu.max": None,
        "sys/fs/cgroup/memory.max": None,
        # The container sees its own group at the mount.
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        f"{group}/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "500000000\n",
    }
    found = sample("x86-rtx", files).examine()
    assert found.cpu.cgroup_cores == 1.5
    assert (found.memory.cgroup_limit, found.memory.cgroup_used) == (2_000_000_000, 500_000_000)


def test_the_group_above_may_be_tighter(sample: MakeSample) -> None:
    files = {
        "proc/self/cgroup": "0::/slice/unit\n",
        "sys/fs/cgroup/cpu.max": None,
        "sys/fs/cgroup/slice/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/slice/unit/cpu.max": "max 100000\n",
        "sys/fs/cgroup/memory.max": None,
        "sys/fs/cgroup/slice/memory.max": "max\n",
        "sys/fs/cgroup/slice/unit/memory.max": "max\n",
    }
    found = sample("x86-rtx", files).examine()
    assert found.cpu.cgroup_cores == 0.5
    assert found.memory.cgroup_limit is None


@pytest.mark.parametrize(
    ("release", "jetpack", "tensorrt"),
    [
        ("R35 (release), REVISION: 4.1", "5", "8.5"),
        ("R36 (release), REVISION: 3.0", "6.0", "8.6"),
        ("R36 (release), REVISION: 4.0", "6.1", "10.3"),
        ("R36 (release), REVISION: 4.4", "6.2.1", "10.3"),
        ("R36 (release), REVISION: 4.7", "6.2.1", "10.3"),
        ("R36 (release), REVISION: 5.0", "6.2.2", "10.3"),
        ("R36 (release), REVISION: 9.0", "later than 6.2.3", "10.3"),
        ("R38 (release), REVISION: 2.2", "7.0", "10.13"),
        ("R38 (release), REVISION: 4.0", "7.1", "10.13"),
        ("R39 (release), REVISION: 2.0", "7.2", "10.16"),
        ("R39 (release), REVISION: 2.1", "7.2.1", "10.16"),
        ("R39 (release), REVISION: 2.2", "7.2.2", "10.16"),
        ("R39 (release), REVISION: 3.0", "later than 7.2.2", "10.16"),
    ],
)
def test_jetpack_of_a_jetson_linux(
    sample: MakeSample, release: str, jetpack: str, tensorrt: str
) -> None:
    files = {"etc/nv_tegra_release": f"# {release}, GCID: 1, BOARD: generic\n"}
    jetson = sample("agx-orin", files).examine().jetson
    assert jetson is not None
    assert jetson.stack is not None
    assert (jetson.jetpack, jetson.stack.tensorrt) == (jetpack, tensorrt)


def test_a_future_jetson_linux_is_unknown(sample: MakeSample) -> None:
    files = {"etc/nv_tegra_release": "# R41 (release), REVISION: 1.0, GCID: 1\n"}
    jetson = sample("agx-orin", files).examine().jetson
    assert jetson is not None
    assert (jetson.l4t, jetson.jetpack, jetson.stack) == ("41.1.0", "newer than 7.2.2", None)


def test_a_jetson_without_nvidia_smi_and_cuda_bindings_has_its_gpu(sample: MakeSample) -> None:
    gpu = sample("agx-orin", commands={"engine cuda": None, NVIDIA_SMI: None}).examine().gpu
    assert gpu is not None
    assert (gpu.compute_capability, gpu.shared_memory) == ("8.7", True)
