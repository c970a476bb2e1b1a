"""Which GPUs may this process use, and of which kind is a device?"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from safron.io.errors import BadInput

from .memory import usable_cores

GPU_BLOCKS, MOST_GPU_BLOCKS = 4, 12
"""Blocks in flight per GPU, at least and at most: while some are blended and encoded, the others keep the GPU busy."""


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
    driver, count = _driver(), ctypes.c_int(0)
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def describe_gpu(number: int) -> str:
    """Name what decides the pixels of a GPU: its name, compute capability, the driver's CUDA, and cuDNN where it is loaded.

    Two GPUs of one kind and one set of libraries choose the same kernels; others may round differently.
    """
    driver = _driver()
    if driver is None:
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


def _driver() -> ctypes.CDLL | None:
    """CUDA's driver, where there is one."""
    with suppress(OSError):
        return ctypes.CDLL("nvcuda.dll" if hasattr(ctypes, "WinDLL") else "libcuda.so.1")
    return None


def pin(address: int, nbytes: int, number: int) -> Callable[[], None] | None:
    """Lock memory to its place, so that a GPU copies from and to it by itself.

    Parameters
    ----------
    address, nbytes
        The memory, whole pages if possible.
    number
        Of the GPU, whose context is then used by this process.

    Returns
    -------
    Callable[[], None] | None
        Unlocks it, and must be called before the memory is freed. None where the driver does not lock it: it may be slower then.
    """
    driver = _driver()
    gpu, context = ctypes.c_int(0), ctypes.c_void_p()
    if (
        driver is None
        or driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(gpu), number)
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), gpu)
    ):
        return None
    place = ctypes.c_void_p(address)

    def in_context(call: Callable[..., int], *arguments: Any) -> int:
        if driver.cuCtxPushCurrent_v2(context):
            return 1
        result = call(*arguments)
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        return result

    # CU_MEMHOSTREGISTER_PORTABLE: for every context.
    if in_context(driver.cuMemHostRegister_v2, place, ctypes.c_size_t(nbytes), 1):
        driver.cuDevicePrimaryCtxRelease_v2(gpu)
        return None

    def release() -> None:
        in_context(driver.cuMemHostUnregister, place)
        driver.cuDevicePrimaryCtxRelease_v2(gpu)

    return release


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


def gpu_blocks(cores: int) -> int:
    """Return the number of blocks in flight beside a GPU for a process with so many cores.

    One core takes about 30 Mpx/s of blending and encoding; more blocks than cores would only take memory.
    """
    return max(GPU_BLOCKS, min(MOST_GPU_BLOCKS, 3 * cores // 4))


def process_blocks(device: str) -> int:
    """Return the number of blocks in flight in a worker process: several if it has a GPU."""
    import onnxruntime

    # Found out without loading CUDA, which this process does not use.
    gpus = worker_gpus(device) if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else []
    return gpu_blocks(usable_cores() // len(gpus)) if gpus else 1


def kind_of(device: str) -> str:
    """Return the kind of a device without its number. All of a render runs on one kind."""
    return device.partition(":")[0]
