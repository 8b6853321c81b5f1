"""The processor: its name, the cores that may be used, the instructions that matter."""

from __future__ import annotations

import platform
from pathlib import Path

from .cgroup import cpu_limit
from .commands import PROGRAM_SECONDS, Runner
from .facts import Cpu
from .reading import fields, folders, read_lines, read_text

#: Names of the kernel (arch/x86/include/asm/cpufeatures.h, Documentation/arch/arm64/elf_hwcaps).
FEATURES = (
    "avx2",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",  # dot product of int8
    "i8mm",
    "bf16",
    "asimdhp",  # float16 arithmetic, vectors
    "fphp",
    "sve",
)

#: Arm's cores by part number (arch/arm64/include/asm/cputype.h): boards that one deploys on.
_ARM = "0x41"
_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",  # Jetson Orin
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
    "0xd83": "Neoverse-V3AE",  # Jetson Thor
}


def examine_cpu(root: Path, run: Runner) -> Cpu:
    """Read /proc/cpuinfo, the cores' topology, the affinity and the control group's limit."""
    cores = _cores(root)
    sets = [
        set((core.get("flags") or core.get("Features") or "").split())
        for core in cores
        if "flags" in core or "Features" in core
    ]
    common = set.intersection(*sets) if sets else set()
    architecture = run(["uname", "-m"], PROGRAM_SECONDS).out.strip() or None
    return Cpu(
        model=cpu_model(root),
        architecture=architecture,
        physical_cores=_physical(root, cores),
        logical_cores=len(cores) or None,
        usable_cores=_affinity(root),
        cgroup_cores=cpu_limit(root),
        features=tuple(name for name in FEATURES if name in common),
    )


def cpu_model(root: Path = Path("/")) -> str:
    """The processor's name; some Arm kernels name the board instead, or only the core's kind."""
    names = dict(fields(read_lines(root / "proc/cpuinfo")))
    part = _ARM_PARTS.get(names.get("CPU part", "")) if _is_arm(names) else None
    core = f"Arm {part}" if part else None
    return names.get("Model") or core or names.get("model name") or platform.machine()


def _is_arm(names: dict[str, str]) -> bool:
    return names.get("CPU implementer") == _ARM


def _cores(root: Path) -> list[dict[str, str]]:
    """The fields of each core that is on."""
    cores: list[dict[str, str]] = []
    for key, value in fields(read_lines(root / "proc/cpuinfo")):
        if key == "processor" and value.isdigit():
            cores.append({})
        elif cores:
            cores[-1].setdefault(key, value)
    return cores


def _physical(root: Path, cores: list[dict[str, str]]) -> int | None:
    siblings = {
        read_text(folder / "topology/thread_siblings_list")
        for folder in folders(root / "sys/devices/system/cpu", "cpu[0-9]*")
    } - {None, ""}
    if siblings:
        return len(siblings)
    packages = {(core.get("physical id"), core["core id"]) for core in cores if "core id" in core}
    return len(packages) or None


def _affinity(root: Path) -> int | None:
    """How many cores ``Cpus_allowed_list`` names, as in ``0-3,8``."""
    listed = dict(fields(read_lines(root / "proc/self/status"))).get("Cpus_allowed_list", "")
    count = 0
    for part in listed.split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            return None
        count += max(0, int(last or first) - int(first) + 1)
    return count
