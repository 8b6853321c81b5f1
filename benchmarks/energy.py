"""Energy that work takes, by the machine's own sensors.

- **RAPL** (Linux's powercap, x86): counters of microjoules per processor package, which run over.
  Since Linux 5.10 only root may read them.
- **INA3221 and INA238** (Jetsons, by hwmon): power of supply rails, which is sampled while the
  work runs and integrated. A module's whole supply is ``VDD_IN`` or ``VIN``; where there is no such
  rail, rails are added up, and what no sensor sees is missing.

- **NVML** (:mod:`.gpu_energy`): the counter of a GPU that does the work and is no Jetson's.

What is measured is all that the machine takes meanwhile, its rest and other programs included.
Tested with recorded sensor trees; not yet run on a board.

Formats: https://docs.kernel.org/power/powercap/powercap.html and the sensors' pages named in
:mod:`seq2edge.deploy.doctor.sensors`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from seq2edge.deploy.doctor.reading import folders, read_int, read_text
from seq2edge.deploy.doctor.sensors import power_rails

from .gpu_energy import GpuEnergy

#: Seconds between two readings of a rail's power; an INA3221 on a Jetson averages over some ms.
_INTERVAL = 0.02
#: Rails that feed all others.
_SUPPLIES = ("VDD_IN", "VIN")
_MICRO = 1e-6


@dataclass(frozen=True)
class Energy:
    """What a piece of work took.

    Attributes:
        joules: in all: of all packages and the GPU, or of the supply, or of the rails there are.
        by_sensor: of each package, rail or GPU.
        seconds: that it lasted.
        method: ``RAPL``, ``NVML``, or the rails that were added up.
    """

    joules: float
    by_sensor: dict[str, float]
    seconds: float
    method: str


class EnergyMeter:
    """Measures work on this machine.

    Args:
        root: where its /sys is.
        clock, sleep: of time; tests have their own.
        gpu: the GPU that does the work; None: the processor does it. A Jetson's rails feed both.

    Attributes:
        problem: why nothing can be measured; None: it can.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
        gpu: GpuEnergy | None = None,
    ) -> None:
        self._root, self._clock = root, clock
        self._sleep = sleep
        packages = [
            zone
            for zone in folders(root / "sys/class/powercap", "intel-rapl:*")
            if (read_text(zone / "name") or "").startswith("package")
        ]
        self._packages = {
            str(read_text(zone / "name")): zone
            for zone in packages
            if read_int(zone / "energy_uj") is not None
        }
        rails = {rail.name for rail in power_rails(root)}
        supplies = rails & set(_SUPPLIES)
        self._rails = set() if self._packages else supplies or rails
        self._gpu = None if self._rails else gpu
        self.problem: str | None = None
        if self._gpu is not None and self._gpu.problem is not None:
            # What the processor took would be a small part of it.
            self.problem = f"the GPU's energy cannot be read: {self._gpu.problem}"
        elif not self._packages and not self._rails and self._gpu is None:
            self.problem = (
                "only root may read this processor's energy counters (RAPL)"
                if packages
                else "this machine has no energy sensor that is known here (RAPL, INA3221, INA238)"
            )

    def measure(self, work: Callable[[], None]) -> Energy:
        """Do the work, and say what it took; call it only where there is no :attr:`problem`."""
        start, before = self._clock(), self._counters()
        by_sensor: dict[str, float] = {}
        if self._watts():
            by_sensor = self._sample(work)
        else:
            work()
        by_sensor |= self._counted(before)
        return Energy(sum(by_sensor.values()), by_sensor, self._clock() - start, self._method())

    def _method(self) -> str:
        parts = sorted(self._rails)
        if self._gpu is not None:
            parts.append("NVML")
        if self._packages:
            parts.append("RAPL")
        return " + ".join(parts)

    def _counters(self) -> dict[str, float]:
        """Joules, since whenever, of what counts them."""
        counters = {}
        for name, zone in self._packages.items():
            count = read_int(zone / "energy_uj")
            if count is not None:
                counters[name] = _MICRO * count
        if self._gpu is not None and self._gpu.counts:
            counters[self._gpu.name] = self._gpu.joules()
        return counters

    def _counted(self, before: dict[str, float]) -> dict[str, float]:
        joules = {}
        for name, last in self._counters().items():
            if name not in before:
                continue
            spent = last - before[name]
            if spent < 0 and name in self._packages:
                # The counter starts again at zero after its range.
                spent += _MICRO * (read_int(self._packages[name] / "max_energy_range_uj") or 0)
            joules[name] = spent
        return joules

    def _sample(self, work: Callable[[], None]) -> dict[str, float]:
        done = threading.Event()
        joules = dict.fromkeys(sorted(self._watts()), 0.0)

        def watch() -> None:
            then, watts = self._clock(), self._watts()
            while True:
                # One reading after the end as well, so that the last stretch counts.
                ended = done.wait(_INTERVAL) if self._sleep is None else done.is_set()
                if self._sleep is not None:
                    self._sleep(_INTERVAL)
                now, new = self._clock(), self._watts()
                for name in joules:
                    mean = (watts.get(name, 0.0) + new.get(name, 0.0)) / 2
                    joules[name] += mean * (now - then)
                then, watts = now, new
                if ended:
                    return

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            work()
        finally:
            done.set()
            thread.join()
        return joules

    def _watts(self) -> dict[str, float]:
        """Of what has no counter, now."""
        rails = power_rails(self._root) if self._rails else ()
        watts = {rail.name: rail.watts for rail in rails if rail.name in self._rails}
        if self._gpu is not None and not self._gpu.counts:
            watts[self._gpu.name] = self._gpu.watts()
        return watts
