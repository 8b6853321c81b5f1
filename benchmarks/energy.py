"""Energy that work takes, by the machine's own sensors.

- **RAPL** (Linux's powercap, x86): counters of microjoules per processor package, which run over.
  Since Linux 5.10 only root may read them.
- **INA3221 and INA238** (Jetsons, by hwmon): power of supply rails, which is sampled while the
  work runs and integrated. A module's whole supply is ``VDD_IN`` or ``VIN``; where there is no such
  rail, rails are added up, and what no sensor sees is missing.

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

#: Seconds between two readings of a rail's power; an INA3221 on a Jetson averages over some ms.
_INTERVAL = 0.02
#: Rails that feed all others.
_SUPPLIES = ("VDD_IN", "VIN")
_MICRO = 1e-6


@dataclass(frozen=True)
class Energy:
    """What a piece of work took.

    Attributes:
        joules: in all: of all packages, or of the supply, or of the rails that there are.
        by_sensor: of each package or rail.
        seconds: that it lasted.
        method: ``RAPL``, or the rails that were added up.
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

    Attributes:
        problem: why nothing can be measured; None: it can.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
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
        self._rails = supplies or rails
        self.problem: str | None = None
        if not self._packages and not self._rails:
            self.problem = (
                "only root may read this processor's energy counters (RAPL)"
                if packages
                else "this machine has no energy sensor that is known here (RAPL, INA3221, INA238)"
            )

    def measure(self, work: Callable[[], None]) -> Energy:
        """Do the work, and say what it took; call it only where there is no :attr:`problem`."""
        start = self._clock()
        by_sensor = self._count(work) if self._packages else self._sample(work)
        method = "RAPL" if self._packages else " + ".join(sorted(self._rails))
        return Energy(sum(by_sensor.values()), by_sensor, self._clock() - start, method)

    def _count(self, work: Callable[[], None]) -> dict[str, float]:
        before = {name: read_int(zone / "energy_uj") for name, zone in self._packages.items()}
        work()
        joules = {}
        for name, zone in self._packages.items():
            first, last = before[name], read_int(zone / "energy_uj")
            if first is None or last is None:
                continue
            # The counter starts again at zero after its range.
            ran_over = (read_int(zone / "max_energy_range_uj") or 0) if last < first else 0
            joules[name] = _MICRO * (last - first + ran_over)
        return joules

    def _sample(self, work: Callable[[], None]) -> dict[str, float]:
        done = threading.Event()
        joules = dict.fromkeys(sorted(self._rails), 0.0)

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
        return {rail.name: rail.watts for rail in power_rails(self._root)}
