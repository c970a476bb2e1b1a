"""Which GPUs may this process use, and of which kind is a device?"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

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


def describe_gpu(number: int) -> str:
    """Name what decides the pixels of a GPU: its name, compute capability, the driver's CUDA, and cuDNN where it is loaded.

    Two GPUs of one kind and one set of libraries choose the same kernels; others may round differently.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if hasattr(ctypes, "WinDLL") else "libcuda.so.1")
    except OSError:
        return "no driver"
    gpu, value = ctypes.c_int(0), ctypes.c_int(0)
    name = ctypes.create_string_buffer(128)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(gpu), number):
        return f"no GPU {number}"
    driver.cuDeviceGetName(name, len(name), gpu)
    capability = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, gpu)
        capability.append(str(value.value))
    driver.cuDriverGetVersion(ctypes.byref(value))
    cuda = f"{value.value // 1000}.{value.value % 1000 // 10}"
    return f"{name.value.decode(errors='replace')} ({'.'.join(capability)}), CUDA {cuda}{_cudnn()}"


def _cudnn() -> str:
    """Version of cuDNN, where this process has loaded it; empty elsewhere."""
    for library in ("libcudnn.so.9", "cudnn64_9.dll"):
        with suppress(OSError, AttributeError):
            # RTLD_NOLOAD is 4 on Linux: what ONNX Runtime uses, not what else lies around.
            loaded = ctypes.CDLL(library, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
            loaded.cudnnGetVersion.restype = ctypes.c_size_t
            found = loaded.cudnnGetVersion()
            return f", cuDNN {found // 10000}.{found % 10000 // 100}.{found % 100}"
    return ""


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
