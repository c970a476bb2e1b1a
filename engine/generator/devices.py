"""Where does a generator run, and in which precision?"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safron.engine.system.gpus import count_gpus, visible_gpus
from safron.io.errors import BadInput

if TYPE_CHECKING:
    from .card import Card

PRECISIONS = ("float32", "bfloat16", "auto", "tf32", "float16")
RUNTIMES = ("auto", "onnxruntime", "openvino")

log = logging.getLogger("safron")


def check_precision(precision: str, device: str, runtime: str = "auto") -> None:
    """Raise `BadInput` unless the runtime computes in this precision on the device."""
    if precision not in PRECISIONS:
        raise BadInput(f"--precision {precision}: must be one of {', '.join(PRECISIONS)}")
    if runtime not in RUNTIMES:
        raise BadInput(f"--runtime {runtime}: must be one of {', '.join(RUNTIMES)}")
    on_gpu = device.startswith("cuda")
    if precision in ("tf32", "float16") and not on_gpu:
        raise BadInput(f"--precision {precision}: only CUDA computes in it; leave it out, or --device cuda")
    if precision == "bfloat16" and (on_gpu or runtime == "onnxruntime"):
        raise BadInput(
            "--precision bfloat16: only OpenVINO computes in it, on a CPU; leave it out, or --device cpu --runtime openvino"
        )
    if runtime == "openvino" and on_gpu:
        raise BadInput(f"--runtime openvino: runs on a CPU, not on {device}; leave one of them out")


def choose_runtime(runtime: str, precision: str, device: str, card: Card) -> tuple[str, str]:
    """Resolve "auto" of both, which never changes a pixel unless bfloat16 was asked for, or ``--precision auto``.

    Returns
    -------
    tuple[str, str]
        "onnxruntime" or "openvino", and a precision that is not "auto".
    """
    if precision == "auto":
        reason = _why_not_bfloat16(runtime, device, card)
        precision = "float32" if reason else "bfloat16"
        if reason:
            log.warning("--precision auto: float32 is used, since %s", reason)
    return "openvino" if precision == "bfloat16" or runtime == "openvino" else "onnxruntime", precision


def _why_not_bfloat16(runtime: str, device: str, card: Card) -> str | None:
    from .openvino_session import has_bfloat16

    if device != "cpu":
        return f"only CPUs compute in bfloat16, not {device}"
    if runtime == "onnxruntime":
        return "ONNX Runtime does not compute in bfloat16 on a CPU"
    if card.bfloat16 is None:
        return f"the card of generator {card.name!r} does not say how far bfloat16 is from it"
    try:
        return None if has_bfloat16() else "this CPU does not compute in bfloat16 (AVX512_BF16 or AMX)"
    except BadInput as error:
        return str(error).removeprefix("--runtime openvino: ").partition(",")[0]


def providers(device: str, precision: str, sha256: str, *, float16: bool = False) -> list[Any]:
    """ONNX Runtime's providers, with their settings, in the order to be asked.

    TensorRT keeps the engine that it builds, which takes minutes, in the user's cache folder, by generator.

    Parameters
    ----------
    device, precision
        Checked.
    sha256
        Of the generator.
    float16
        Whether its graph computes in float16.
    """
    if not device.startswith("cuda"):
        return ["CPUExecutionProvider"]
    number = int(device.partition(":")[2] or 0)
    # ONNX Runtime's own default is TF32. Without it, convolutions lose the tensor cores, also those in float16.
    cuda = ("CUDAExecutionProvider", {"device_id": number, "use_tf32": int(precision == "tf32" or float16)})
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
    """Raise `BadInput` where ONNX Runtime fell back without saying so."""
    if "CUDAExecutionProvider" not in loaded:
        raise BadInput(
            f"--device {device}: ONNX Runtime could not start CUDA; "
            "pip install 'safron[cuda]' and check nvidia-smi, or use --device cpu"
        )
    if precision == "float16" and loaded[0] != "TensorrtExecutionProvider":
        raise BadInput(
            "--precision float16: ONNX Runtime could not start TensorRT; install the version that it was built with, or "
            "render a generator from safron-train export --float16, without this option"
        )


# Arithmetic on shapes, which ONNX Runtime keeps on the CPU on purpose.
SHAPE_OPERATORS = {
    *(
        "Shape",
        "Size",
        "Gather",
        "Concat",
        "Slice",
        "Unsqueeze",
        "Squeeze",
        "Cast",
        "Constant",
        "ConstantOfShape",
    ),
    *(
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Floor",
        "Ceil",
        "Range",
        "Reshape",
        "Expand",
        "Equal",
        "Where",
        "Identity",
    ),
}


def nodes_on_cpu(assignment: Iterable[Any]) -> str:
    """Name operators on pixels that CUDA left to the CPU, as ``"2 Resize, 1 Conv"``; empty where there are none.

    Parameters
    ----------
    assignment
        What ``InferenceSession.get_provider_graph_assignment_info`` returns.
    """
    left = Counter(
        node.op_type
        for part in assignment
        if part.ep_name == "CPUExecutionProvider"
        for node in part.get_nodes()
        if node.op_type not in SHAPE_OPERATORS
    )
    return ", ".join(f"{count} {name}" for name, count in left.most_common())


def choose_device(device: str) -> str:
    """Resolve "auto" to "cuda:0" where there is a GPU that ONNX Runtime may use, else "cpu"; check what was asked for."""
    check_device(device)
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return "cpu"
    if _cuda_may_start():
        return f"cuda:{number or 0}"
    if kind == "auto":
        return "cpu"
    raise BadInput(f"--device {device}: no CUDA device or driver found; use --device cpu")


def check_device(device: str) -> None:
    """Raise `BadInput` unless this names a device; whether there is one is another question."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", device):
        raise BadInput(f"--device {device}: must be auto, cpu, cuda or cuda:N")


def _cuda_may_start() -> bool:
    """Whether ONNX Runtime has CUDA, and the driver shows a GPU; load CUDA's libraries if so."""
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers() or not visible_gpus() or not count_gpus():
        return False
    if hasattr(ort, "preload_dlls"):
        # It prints what it cannot load. Whether that matters shows when a session is made.
        with redirect_stdout(StringIO()):
            for folder in _nvidia_folders():
                ort.preload_dlls(directory=str(folder))
            ort.preload_dlls()
    return True


def _nvidia_folders() -> list[Path]:
    """Folders of CUDA's libraries in the packages that Python finds; ONNX Runtime looks only beside itself."""
    spec = find_spec("nvidia")
    roots = [] if spec is None else [Path(root) for root in spec.submodule_search_locations or ()]
    return sorted(
        {file.parent for root in roots for part in ("lib", "bin") for file in root.glob(f"*/{part}/*cu*.*")}
    )
