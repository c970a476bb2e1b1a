"""Which GPUs does this machine show, and what kind is a device?"""

from __future__ import annotations

import ctypes
import os


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them: numbers or UUIDs."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = [name.strip() for name in allowed.split(",") if name.strip()]
        # CUDA takes what stands before the first invalid entry.
        return names[: names.index("-1")] if "-1" in names else names
    return [str(number) for number in range(_count())]


def _count() -> int:
    """Ask the driver, without making anything on a GPU."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if hasattr(ctypes, "WinDLL") else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def kind_of(device: str) -> str:
    """The kind of a device, without its number: a render stays on one kind."""
    return device.partition(":")[0]
