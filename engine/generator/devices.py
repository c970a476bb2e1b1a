"""Where does a generator run, and in which precision?"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from safron.io.errors import BadInput

PRECISIONS = ("float32", "tf32", "float16")


def check_precision(precision: str, device: str) -> None:
    """Raise `BadInput` unless the device computes in this precision."""
    if precision not in PRECISIONS:
        raise BadInput(f"--precision {precision}: must be one of {', '.join(PRECISIONS)}")
    if precision != "float32" and not device.startswith("cuda"):
        raise BadInput(f"--precision {precision}: only CUDA computes in it; leave it out, or --device cuda")


def providers(device: str, precision: str, sha256: str) -> list[Any]:
    """ONNX Runtime's providers, with their settings, in the order to be asked.

    TensorRT keeps the engine that it builds, which takes minutes, in the user's cache folder, by generator.
    """
    if not device.startswith("cuda"):
        return ["CPUExecutionProvider"]
    number = int(device.partition(":")[2] or 0)
    # ONNX Runtime's own default is TF32.
    cuda = ("CUDAExecutionProvider", {"device_id": number, "use_tf32": int(precision == "tf32")})
    if precision != "float16":
        return [cuda, "CPUExecutionProvider"]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "safron" / "tensorrt" / sha256[:16]
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "device_id": number,
        "trt_fp16_enable": True,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
    }
    return [("TensorrtExecutionProvider", settings), cuda, "CPUExecutionProvider"]


def check_providers(loaded: list[str], device: str, precision: str) -> None:
    """Raise `BadInput` where ONNX Runtime fell back: it does so in silence."""
    if "CUDAExecutionProvider" not in loaded:
        raise BadInput(
            f"--device {device}: ONNX Runtime could not start CUDA; "
            "pip install 'safron[cuda]' and check nvidia-smi, or use --device cpu"
        )
    if precision == "float16" and loaded[0] != "TensorrtExecutionProvider":
        raise BadInput(
            "--precision float16: ONNX Runtime could not start TensorRT; install the version that it was built with, or "
            "render a generator from safron-train export --float16, which needs no --precision"
        )


def choose_device(device: str) -> str:
    """Resolve "auto" to "cuda:0" where CUDA loads, else "cpu"; check what was asked for."""
    check_device(device)
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return "cpu"
    if _cuda_loads():
        return f"cuda:{number or 0}"
    if kind == "auto":
        return "cpu"
    raise BadInput(f"--device {device}: no CUDA device or driver found; use --device cpu")


def check_device(device: str) -> None:
    """Raise `BadInput` unless this names a device; whether there is one is another question."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", device):
        raise BadInput(f"--device {device}: must be auto, cpu, cuda or cuda:N")


def _cuda_loads() -> bool:
    """Whether ONNX Runtime has CUDA and a driver is there; asking it blindly prints errors on stderr."""
    import ctypes

    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return False
    try:
        ctypes.CDLL("nvcuda.dll" if hasattr(ctypes, "WinDLL") else "libcuda.so.1")
    except OSError:
        return False
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    return True
