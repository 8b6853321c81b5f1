"""Tables of Jetson modules and JetPack releases.

Sources: https://developer.nvidia.com/embedded/jetpack-archive (releases, and their CUDA and
TensorRT); https://developer.nvidia.com/embedded/jetpack/downloads (7.x); L4T 36.4.7 is a security
update of JetPack 6.2.1 (https://github.com/rbonghi/jetson_stats/issues/791), 36.5.0 and 36.5.2 are
6.2.2 and 6.2.3 (https://github.com/dusty-nv/jetson-containers/pull/1741); 39.2 brings CUDA 13.2 and
TensorRT 10.16 to Orin and Thor (https://github.com/OE4T/meta-tegra/pull/2224). For 7.2.2, whose
Jetson Linux is taken to be 39.2.2, NVIDIA supports TensorRT 11.4 beside the 10.16 of its image: its
package for Arm servers, and with it the index's aarch64 wheels. What 5 and 6.0 bring
was not looked up again: of them it matters only that their TensorRT is older than 10.3.
"""

from __future__ import annotations

from .facts import Stack, numbers

_JETPACK_5 = Stack(cuda="11.4", tensorrt="8.5", python="3.8")
_JETPACK_60 = Stack(cuda="12.2", tensorrt="8.6", python="3.10")
_JETPACK_6 = Stack(cuda="12.6", tensorrt="10.3", python="3.10")
_JETPACK_7 = Stack(cuda="13.0", tensorrt="10.13", python="3.12")  # Thor only
_JETPACK_72 = Stack(cuda="13.2", tensorrt="10.16", python="3.12")
_JETPACK_722 = Stack(cuda="13.2", tensorrt="10.16", python="3.12", index_tensorrt="11.4")

#: Jetson Linux, oldest first, to its JetPack.
_RELEASES: tuple[tuple[tuple[int, ...], str, Stack], ...] = (
    ((35,), "5", _JETPACK_5),
    ((36, 2), "6.0 DP", _JETPACK_60),
    ((36, 3), "6.0", _JETPACK_60),
    ((36, 4, 0), "6.1", _JETPACK_6),
    ((36, 4, 3), "6.2", _JETPACK_6),
    ((36, 4, 4), "6.2.1", _JETPACK_6),
    ((36, 4, 7), "6.2.1", _JETPACK_6),
    ((36, 5, 0), "6.2.2", _JETPACK_6),
    ((36, 5, 2), "6.2.3", _JETPACK_6),
    ((38, 2), "7.0", _JETPACK_7),
    ((38, 4), "7.1", _JETPACK_7),
    ((39, 2, 0), "7.2", _JETPACK_72),
    ((39, 2, 1), "7.2.1", _JETPACK_72),
    ((39, 2, 2), "7.2.2", _JETPACK_722),
)
#: Names of all releases, oldest first.
RELEASES = tuple(dict.fromkeys(name for _, name, _ in _RELEASES))

#: System on a chip (the device tree's ``nvidia,tegra...``) to its family and GPU (jetson_stats'
#: table in jtop/core/jetson_variables.py). CUDA 13 calls Thor's GPU 11.0, CUDA 12 called it 10.1
#: (https://github.com/flashinfer-ai/flashinfer/pull/3003).
_CHIPS = {
    "tegra210": ("Nano", "5.3"),
    "tegra186": ("TX2", "6.2"),
    "tegra194": ("Xavier", "7.2"),
    "tegra234": ("Orin", "8.7"),
    "tegra264": ("Thor", "11.0"),
}


def release(l4t: str | None) -> tuple[str | None, Stack | None]:
    """JetPack and what it brings, of a Jetson Linux version such as ``36.4.3``.

    An update that is not in the table (``later than 7.2.2``) is taken to bring what the one before
    it brings; of a new line (``newer than 7.2.2``) nothing is known.
    """
    number = numbers(l4t)
    newest, name, _ = _RELEASES[-1]
    if number[:1] > newest[:1]:
        return f"newer than {name}", None
    latest: tuple[str | None, Stack | None] = (None, None)
    for version, name, stack in _RELEASES:
        if version[:1] != number[:1] or version > number:
            continue
        exact = number[: len(version)] == version
        latest = name if exact else f"later than {name}", stack
    return latest


def family(soc: str | None) -> str | None:
    return _CHIPS.get(soc or "", (None, None))[0]


def compute_capability(soc: str | None) -> str | None:
    return _CHIPS.get(soc or "", (None, None))[1]
