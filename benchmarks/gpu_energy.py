"""What an NVIDIA GPU takes, by NVML (the package nvidia-ml-py, whose module is ``pynvml``).

Since Volta a GPU counts its energy in millijoules; before, its power in milliwatts is sampled.
https://docs.nvidia.com/deploy/nvml-api. Tested with a fake library; **not run on a GPU yet**.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

_MILLI = 1e-3


class GpuEnergy:
    """The GPU that CUDA calls 0: the first one of ``CUDA_VISIBLE_DEVICES``, if that is set.

    Args:
        library: ``pynvml``; None: import it.

    Attributes:
        problem: why nothing can be measured; None: it can.
        name: of the GPU; "": there is a problem.
    """

    def __init__(self, library: Any = None) -> None:
        self.name = ""
        self.problem: str | None = None
        self._counts = False
        try:
            self._nvml = library or importlib.import_module("pynvml")
        except ImportError:
            self.problem = "nvidia-ml-py is not installed (pip install nvidia-ml-py)"
            return
        try:
            self._nvml.nvmlInit()
            self._gpu = self._first()
            name = self._nvml.nvmlDeviceGetName(self._gpu)
            self.name = name.decode() if isinstance(name, bytes) else str(name)
            self._counts = self._can_count()
            if not self._counts:
                self.watts()
        except self._nvml.NVMLError as error:
            self.problem = f"NVML: {error}"

    @property
    def counts(self) -> bool:
        """Whether it counts its energy; else its power is to be sampled."""
        return self._counts

    def joules(self) -> float:
        """Since the driver was loaded."""
        return _MILLI * float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu))

    def watts(self) -> float:
        """Now."""
        return _MILLI * float(self._nvml.nvmlDeviceGetPowerUsage(self._gpu))

    def _first(self) -> Any:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
        if visible.startswith(("GPU-", "MIG-")):
            return self._nvml.nvmlDeviceGetHandleByUUID(visible)
        return self._nvml.nvmlDeviceGetHandleByIndex(int(visible) if visible.isdigit() else 0)

    def _can_count(self) -> bool:
        try:
            self.joules()
        except self._nvml.NVMLError:
            return False
        return True
