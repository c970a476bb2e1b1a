"""Which GPUs does this machine show, and what kind is a device?"""

from __future__ import annotations

import ctypes
import os

from safron.io.errors import BadInput

GPU_BLOCKS = 4
"""Blocks in work that share a GPU: while some blend and encode, the others must give it something to do."""


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them: numbers or UUIDs."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = [name.strip() for name in allowed.split(",") if name.strip()]
        # CUDA takes what stands before the first invalid entry.
        return names[: names.index("-1")] if "-1" in names else names
    return [str(number) for number in range(count_gpus())]


def count_gpus() -> int:
    """Number of GPUs that the driver shows to this process; nothing is made on any of them."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if hasattr(ctypes, "WinDLL") else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def worker_gpus(device: str) -> list[str]:
    """GPUs to share out among worker processes, as CUDA_VISIBLE_DEVICES names them; none where CPUs render."""
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
    """Blocks that a worker process has in work at a time: several where it has a GPU."""
    import onnxruntime

    # Nothing of CUDA is loaded to find out: this process will not use it.
    on_gpu = worker_gpus(device) and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return GPU_BLOCKS if on_gpu else 1


def kind_of(device: str) -> str:
    """The kind of a device, without its number: a render stays on one kind."""
    return device.partition(":")[0]
