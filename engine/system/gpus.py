"""Which GPUs may this process use, and of which kind is a device?"""

from __future__ import annotations

import ctypes
import os

from safron.io.errors import BadInput

GPU_BLOCKS = 4
"""Blocks in flight per GPU: while some are blended and encoded, the others keep the GPU busy."""


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, named as in CUDA_VISIBLE_DEVICES: numbers or UUIDs."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = [name.strip() for name in allowed.split(",") if name.strip()]
        # CUDA uses the entries before the first invalid one.
        return names[: names.index("-1")] if "-1" in names else names
    return [str(number) for number in range(count_gpus())]


def count_gpus() -> int:
    """Return the number of GPUs that the driver shows, without allocating anything on them."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if hasattr(ctypes, "WinDLL") else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def worker_gpus(device: str) -> list[str]:
    """Return the GPUs to share among worker processes, named as in CUDA_VISIBLE_DEVICES; empty on a CPU."""
    kind, _, number = device.partition(":")
    gpus = [] if kind == "cpu" else visible_gpus()
    if number and gpus:
        if int(number) >= len(gpus):
            raise BadInput(
                f"--device {device}: this machine shows {len(gpus)} GPUs; give cuda:0 to cuda:{len(gpus) - 1}"
            )
        return [gpus[int(number)]]
    return gpus


def process_blocks(device: str) -> int:
    """Return the number of blocks in flight in a worker process: several if it has a GPU."""
    import onnxruntime

    # Found out without loading CUDA, which this process does not use.
    on_gpu = worker_gpus(device) and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return GPU_BLOCKS if on_gpu else 1


def kind_of(device: str) -> str:
    """Return the kind of a device without its number. All of a render runs on one kind."""
    return device.partition(":")[0]
