"""Clocks, temperatures and power, from sysfs.

Formats: https://docs.kernel.org/admin-guide/pm/cpufreq.html (kHz),
https://www.kernel.org/doc/Documentation/ABI/testing/sysfs-class-devfreq (Hz),
https://docs.kernel.org/driver-api/thermal/sysfs-api.html (millidegrees),
https://docs.kernel.org/hwmon/ina3221.html (mV, mA) and https://docs.kernel.org/hwmon/ina238.html
(microwatts). A Jetson's rails are named in NVIDIA's Jetson Linux Developer Guide, under "Platform
Power and Performance".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .facts import Clock, Rail, Sensors, ThermalZone
from .reading import folders, read_int, read_text

#: ``17000000.gpu`` (JetPack 6), ``17000000.ga10b`` (5), ``gpu-gpc-0`` (Thor; gpu-nvd-0 is its
#: video engine: https://github.com/rbonghi/jetson_stats/issues/885).
_GPU = re.compile(r".*\.(gpu|g[avp]\d+b)|gpu-gpc-\d+")

_POWER_CHIPS = ("ina3221", "ina238")

#: Trip points at which the kernel lowers clocks; the others start fans or shut down.
_THROTTLES = "passive"


def examine_sensors(root: Path) -> Sensors:
    """Read all that is there; a sensor that is switched off is left out."""
    return Sensors(
        clocks=tuple(_clocks(root)), zones=tuple(_zones(root)), rails=tuple(power_rails(root))
    )


def _clocks(root: Path) -> Iterator[Clock]:
    for policy in folders(root / "sys/devices/system/cpu/cpufreq", "policy*"):
        kilohertz = [
            read_int(policy / name)
            for name in ("scaling_cur_freq", "scaling_min_freq", "scaling_max_freq")
        ]
        hertz = [None if value is None else 1000 * value for value in kilohertz]
        if any(hertz):
            yield Clock("cpu", policy.name, *hertz)
    for device in folders(root / "sys/class/devfreq", "*"):
        if _GPU.fullmatch(device.name):
            hertz = [read_int(device / name) for name in ("cur_freq", "min_freq", "max_freq")]
            if any(hertz):
                yield Clock("gpu", device.name, *hertz)


def _zones(root: Path) -> Iterator[ThermalZone]:
    for zone in folders(root / "sys/class/thermal", "thermal_zone*"):
        name, millidegrees = read_text(zone / "type"), read_int(zone / "temp")
        if not name or millidegrees is None:  # off, as a Jetson's cv zones are at rest
            continue
        trips = []
        for kind in folders(zone, "trip_point_*_type"):
            at = read_int(kind.with_name(kind.name.replace("_type", "_temp")))
            if read_text(kind) == _THROTTLES and at is not None and at > 0:
                trips.append(at / 1000)
        yield ThermalZone(name, millidegrees / 1000, min(trips, default=None))


def power_rails(root: Path) -> Iterator[Rail]:
    """Power of the rails of INA3221 and INA238 sensors, now."""
    for chip in folders(root / "sys/class/hwmon", "hwmon*"):
        if read_text(chip / "name") not in _POWER_CHIPS:
            continue
        microwatts = read_int(chip / "power1_input")
        if microwatts is not None:
            yield Rail(read_text(chip / "label") or chip.name, microwatts / 1e6)
        for label in folders(chip, "in[0-9]_label"):
            number = label.name[2]
            millivolts = read_int(chip / f"in{number}_input")
            milliamperes = read_int(chip / f"curr{number}_input")
            name = read_text(label)
            # A channel without a current is the sum of the shunts' voltages.
            if name and millivolts is not None and milliamperes is not None:
                yield Rail(name, millivolts * milliamperes / 1e6)
