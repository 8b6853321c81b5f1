"""A Jetson: the module, its Jetson Linux and JetPack, and its power mode."""

from __future__ import annotations

import re
from pathlib import Path

from .commands import PROGRAM_SECONDS, Runner
from .facts import Jetson, PowerMode
from .jetpack import family, release
from .reading import read_lines, read_text

#: As on a Jetson Orin NX: ``# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic,
#: EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025``. BOARD is the same for all boards.
_RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", re.ASCII)

#: ``nvpmodel -q``: ``NV Power Mode: MAXN_SUPER`` and on the next line its number, ``2``.
_MODE = re.compile(r"NV Power Mode:\s*(\S+)(?:\s+(\d+)\s*$)?", re.ASCII | re.MULTILINE)

#: ``/etc/nvpmodel.conf``: ``< POWER_MODEL ID=2 NAME=MAXN_SUPER >``.
_MODEL = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.ASCII)

#: Where nvpmodel may not be asked: ``pmode:0002``.
_STATUS = re.compile(r"pmode:(\d+)", re.ASCII)


def board_name(root: Path) -> str | None:
    """The device tree's name of the board, such as ``NVIDIA Jetson AGX Orin Developer Kit``."""
    return read_text(root / "proc/device-tree/model") or None


def examine_jetson(root: Path, run: Runner) -> Jetson | None:
    """Read /etc/nv_tegra_release, the device tree and nvpmodel; None if this is no Jetson."""
    released = _RELEASE.search(read_text(root / "etc/nv_tegra_release") or "")
    compatible = (read_text(root / "proc/device-tree/compatible") or "").split("\0")
    chips = [name.removeprefix("nvidia,") for name in compatible if "nvidia,tegra" in name]
    soc = chips[-1] if chips else None
    if released is None and soc is None:
        return None
    l4t = ".".join(released.groups()) if released else None
    jetpack, stack = release(l4t)
    modes = tuple(
        PowerMode(int(number), name)
        for number, name in _MODEL.findall("\n".join(read_lines(root / "etc/nvpmodel.conf")))
    )
    return Jetson(
        soc=soc,
        family=family(soc),
        l4t=l4t,
        jetpack=jetpack,
        stack=stack,
        power_mode=_power_mode(root, run, modes),
        power_modes=modes,
    )


def _power_mode(root: Path, run: Runner, modes: tuple[PowerMode, ...]) -> PowerMode | None:
    reported = _MODE.search(run(["nvpmodel", "-q"], PROGRAM_SECONDS).out)
    if reported is not None:
        name, number = reported.groups()
        return PowerMode(None if number is None else int(number), name)
    status = _STATUS.search(read_text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    number = int(status.group(1))
    return next((mode for mode in modes if mode.number == number), None)
