"""Where and under what conditions something was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from seq2edge.deploy.doctor.commands import PROGRAM_SECONDS, run_command
from seq2edge.deploy.doctor.cpu import examine_cpu
from seq2edge.deploy.doctor.jetson import board_name
from seq2edge.deploy.doctor.memory import examine_memory
from seq2edge.deploy.doctor.reading import fields, read_lines
from seq2edge.deploy.doctor.sensors import examine_sensors

#: Seconds over which the work of other programs is looked at.
_LOOK = 0.3


@dataclass(frozen=True)
class MachineInfo:
    """The machine; None: unknown.

    Attributes:
        cpu, architecture, features: the processor, and those of its instructions that matter.
        physical_cores, usable_cores: there, and that this process may use.
        memory_bytes: in all.
        board: a Jetson's or a Raspberry Pi's name.
        system, python: kernel and interpreter.
    """

    cpu: str
    architecture: str | None
    features: tuple[str, ...]
    physical_cores: int | None
    usable_cores: int | None
    memory_bytes: int | None
    board: str | None
    system: str | None
    python: str


@dataclass(frozen=True)
class Conditions:
    """The machine at one moment; None: there is no such sensor.

    Attributes:
        time: UTC, ISO 8601.
        load_average: runnable threads over the last minute.
        busy: share of all cores' time that programs took during a third of a second in which this
            process slept.
        clock_mhz: mean of the cores' clocks.
        celsius: of the hottest zone.
    """

    time: str
    load_average: float | None
    busy: float | None
    clock_mhz: float | None
    celsius: float | None


def machine_info(root: Path = Path("/")) -> MachineInfo:
    """Examine this machine; ``root`` has its /proc and /sys."""
    cpu = examine_cpu(root, run_command)
    return MachineInfo(
        cpu=cpu.model,
        architecture=cpu.architecture,
        features=cpu.features,
        physical_cores=cpu.physical_cores,
        usable_cores=cpu.usable_cores,
        memory_bytes=examine_memory(root).total,
        board=board_name(root),
        system=run_command(["uname", "-sr"], PROGRAM_SECONDS).out.strip() or None,
        python=platform.python_version(),
    )


def conditions(root: Path = Path("/"), look: float = _LOOK) -> Conditions:
    """The machine now; takes ``look`` seconds."""
    before = _times(root)
    time.sleep(look)
    after = _times(root)
    sensors = examine_sensors(root)
    clocks = [clock.current for clock in sensors.clocks if clock.kind == "cpu" and clock.current]
    # Virtual machines have no cpufreq; /proc/cpuinfo says what the processor's clock was.
    hertz = [float(value) for value in clocks] or [
        1e6 * float(value)
        for key, value in fields(read_lines(root / "proc/cpuinfo"))
        if key == "cpu MHz" and value.replace(".", "", 1).isdigit()
    ]
    load = read_lines(root / "proc/loadavg")
    return Conditions(
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        load_average=float(load[0].split()[0]) if load else None,
        busy=_busy(before, after),
        clock_mhz=sum(hertz) / len(hertz) / 1e6 if hertz else None,
        celsius=max((zone.celsius for zone in sensors.zones), default=None),
    )


def revision() -> str | None:
    """The git revision of this tree, ``-dirty`` where tracked files were changed.

    None: seq2edge was installed from an archive, or git is not installed.
    """
    here = Path(__file__).resolve()
    # An environment within somebody's repository is not a checkout of ours.
    if _git("ls-files", "--error-unmatch", here.name) is None:
        return None
    head, changes = _git("rev-parse", "--short=12", "HEAD"), _git("diff", "--quiet", "HEAD")
    return None if head is None else head if changes is not None else f"{head}-dirty"


def cores_for(threads: int | None) -> set[int] | None:
    """Cores to pin ``threads`` threads to; None: do not pin.

    One per physical core first, and from the last one down: the first one serves most interrupts,
    and on boards with two kinds of cores the last ones are the fast ones.
    """
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    if threads is None or threads >= len(allowed):
        return None
    seen: dict[str, int] = {}

    def turn(core: int) -> tuple[int, int]:
        file = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        siblings = "".join(read_lines(file)) or str(core)
        seen[siblings] = seen.get(siblings, -1) + 1
        return seen[siblings], -core

    return set(sorted(allowed, key=turn)[:threads])


def _times(root: Path) -> list[int] | None:
    """Ticks of all cores: user, nice, system, idle, iowait, ... (proc(5))."""
    first = next(iter(read_lines(root / "proc/stat")), "").split()
    numbers = [int(part) for part in first[1:] if part.isdigit()]
    return numbers if first[:1] == ["cpu"] and len(numbers) > 4 else None


def _busy(before: list[int] | None, after: list[int] | None) -> float | None:
    if before is None or after is None:
        return None
    passed = [now - then for now, then in zip(after, before, strict=True)]
    # guest and guest_nice are in user and nice as well.
    total = sum(passed[:8])
    return (total - passed[3] - passed[4]) / total if total else None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).resolve().parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROGRAM_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
