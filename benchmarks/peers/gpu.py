"""Whether there is an NVIDIA GPU: asked of the driver, before anything is made."""

from __future__ import annotations

import ctypes

#: Of cuda.h: no error; the answers when there is no GPU, or none that may be seen.
_SUCCESS, _NO_DEVICE = 0, 100


def missing_gpu() -> str | None:
    """Why CUDA finds no GPU on this machine; None: it finds one.

    Source: NVIDIA, "CUDA Driver API": cuInit, cuDeviceGetCount.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "NVIDIA's driver is not installed"
    code, count = driver.cuInit(0), ctypes.c_int()
    if code == _SUCCESS:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code not in (_SUCCESS, _NO_DEVICE):
        return f"the driver answers CUDA error {code}"
    return None if count.value else "the driver sees none"
