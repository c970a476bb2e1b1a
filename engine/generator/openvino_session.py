"""How does OpenVINO run a generator on a CPU?

`OpenVinoSession` has the part of ONNX Runtime's session that the engine uses. Each call runs on one thread, and as many calls
side by side as there are streams. A patch has the same bits in any of them: shapes stay as the file has them, which OpenVINO
does not round alike if some calls have fixed shapes and others free ones.

Compiled generators are kept in the user's cache folder, each with a checksum. OpenVINO's own cache would take a file with a
flipped bit.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.system.memory import usable_cores
from safron.io.errors import BadInput, Failed, one_line

from .openvino_graph import REVISION, has_large_numbers, rewrite

UInt8 = npt.NDArray[np.uint8]

LEAST = (2026, 4)
"""The oldest version that the tests passed with."""
HINTS = {"float32": "f32", "bfloat16": "bf16"}
"""Without a hint OpenVINO takes bfloat16 wherever the CPU has it."""
TYPES = {
    "f32": "tensor(float)",
    "f16": "tensor(float16)",
    "f64": "tensor(double)",
    "u8": "tensor(uint8)",
    "i32": "tensor(int32)",
    "i64": "tensor(int64)",
}
CACHE_BYTES = 1 << 30
"""Of compiled generators; the oldest are deleted."""

_guard = threading.Lock()
_core: Any = None


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes
    ----------
    name
        In the graph.
    type
        As ONNX Runtime names it.
    shape
        Numbers, and None for sizes that are free.
    """

    name: str
    type: str
    shape: tuple[int | None, ...]


def openvino_version() -> str:
    """Return the version of OpenVINO.

    Raises
    ------
    BadInput
        It is not installed, or too old.
    """
    do = "pip install 'safron[openvino]', or use --runtime onnxruntime"
    try:
        found = version("openvino")
        if find_spec("openvino") is None:
            raise PackageNotFoundError
    except PackageNotFoundError:
        raise BadInput(f"--runtime openvino: OpenVINO is not installed; {do}") from None
    if tuple(int(part) for part in found.split(".")[:2] if part.isdecimal()) < LEAST:
        wanted = ".".join(map(str, LEAST))
        raise BadInput(f"--runtime openvino: OpenVINO {found} is older than {wanted}; {do}")
    return found


def open_core() -> Any:
    """Return OpenVINO's core, one for each process.

    Raises
    ------
    BadInput
        It cannot be loaded.
    """
    global _core
    with _guard:
        if _core is None:
            found = openvino_version()
            try:
                openvino = _import_openvino()
                # The first tensor loads more of the binding; two threads that did this together could wait for each other forever.
                openvino.Tensor(np.zeros(1, np.uint8))
                _core = openvino.Core()
            except Exception as error:  # of a library that is broken or lacks others
                raise BadInput(
                    f"--runtime openvino: OpenVINO {found} does not start ({one_line(error)}); install it again, or use "
                    "--runtime onnxruntime"
                ) from error
        return _core


def _import_openvino() -> Any:
    """Import OpenVINO without two of its parts.

    One reports each import over the network and writes into the home folder; the other converts formats, and takes two thirds of
    the time.
    """
    names = ("openvino_telemetry", "openvino.tools.ovc")
    kept = {name: sys.modules.get(name) for name in names}
    for name in names:  # an import of it fails, and OpenVINO does without
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        for name, module in kept.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
    return openvino


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers: AVX512_BF16 or AMX."""
    return "BF16" in open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoSession:
    """A compiled generator.

    Parameters
    ----------
    path
        The ONNX file.
    sha256
        Of the file and its weights: the name in the cache.
    calls
        Calls side by side.
    precision
        "float32" or "bfloat16".

    Attributes
    ----------
    large_numbers
        Whether whole numbers in the graph may exceed 2^24; see `openvino_graph.has_large_numbers`.

    Raises
    ------
    BadInput
        OpenVINO is not there, this CPU has no bfloat16, or the file cannot be compiled.
    """

    def __init__(self, path: Path, *, sha256: str, calls: int, precision: str) -> None:
        core = open_core()
        if precision == "bfloat16" and not has_bfloat16():
            raise BadInput(
                "--precision bfloat16: this CPU does not compute in it (it needs AVX512_BF16 or AMX); leave it out"
            )
        streams = min(calls, usable_cores())  # OpenVINO would have no more anyway
        self._settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": streams,
            "NUM_STREAMS": streams,
            # Each of several worker processes would pin its threads to the first cores.
            "ENABLE_CPU_PINNING": False,
            "ENABLE_HYPER_THREADING": True,
        }
        try:
            self._compiled, self.large_numbers, kept = self._compile(core, path, sha256)
            self._inputs = [_port(port) for port in self._compiled.inputs]
            self._outputs = [
                _port(port, name) for port in self._compiled.outputs for name in port.get_names()
            ]
        except Exception as error:  # OpenVINO raises RuntimeError and more
            raise BadInput(
                f"--model {path}: OpenVINO cannot compile it ({one_line(error)}); use --runtime onnxruntime"
            ) from error
        self._idle: deque[Any] = deque()
        self._kept = kept  # whose weights are used where they lie

    def get_inputs(self) -> list[Port]:
        """Return the inputs."""
        return self._inputs

    def get_outputs(self) -> list[Port]:
        """Return the outputs, one of several names several times."""
        return self._outputs

    def run(self, names: Sequence[str], feeds: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Run one call on a thread of OpenVINO's; any number of threads may call.

        Raises
        ------
        Failed
            OpenVINO's reason.
        """
        from openvino import Tensor

        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            # Copies, so that every call has its inputs at an address that OpenVINO chose.
            request.infer({name: Tensor(np.ascontiguousarray(values)) for name, values in feeds.items()})
            made = [request.get_tensor(name).data.copy() for name in names]
        except Exception as error:  # the request is not used again: it might answer in the shape of this call
            raise Failed(one_line(error)) from error
        self._idle.append(request)
        return made

    def _compile(self, core: Any, path: Path, sha256: str) -> tuple[Any, bool, UInt8 | None]:
        """Take the compiled generator from the cache, or compile and keep it.

        Returns
        -------
        tuple[Any, bool, UInt8 | None]
            The compiled generator, `large_numbers`, and the memory that one from the cache lies in.
        """
        from openvino import Tensor

        described = [
            core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
        ]
        key = repr((REVISION, sha256, openvino_version(), described, sorted(self._settings.items())))
        file = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.blob"
        kept = _read_kept(file)
        if kept is not None:
            with suppress(Exception):  # whatever is wrong with it, it is made anew
                # A stream would be copied twice, and its weights once more.
                blob, large = Tensor(kept[:-1], shared_memory=True), bool(kept[-1])
                return core.import_model(blob, "CPU", self._settings), large, kept
        # From a file's name OpenVINO would not see that weights beside it have changed.
        model = core.read_model(str(path))
        large = has_large_numbers(model)
        rewrite(model)
        if self._settings["INFERENCE_PRECISION_HINT"] == HINTS["bfloat16"]:
            from .openvino_precision import keep_guides_exact

            model = keep_guides_exact(core, model)
        compiled = core.compile_model(model, "CPU", self._settings)
        with suppress(Exception):  # a cache is not needed
            _keep(file, compiled.export_model().getbuffer(), bytes([large]))
        return compiled, large, None


def cache_folder() -> Path:
    """Return the user's folder of compiled generators."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "safron" / "openvino"


def _read_kept(file: Path) -> UInt8 | None:
    """Read a compiled generator, and 1 or 0 for `large_numbers`; None where there is none, or where it is damaged."""
    try:
        with file.open("rb") as source:
            checksum, blob = source.read(32), np.fromfile(source, np.uint8)
    except OSError:
        return None
    return blob if hashlib.sha256(blob.data).digest() == checksum else None


def _keep(file: Path, *parts: bytes | memoryview) -> None:
    """Put parts of a file into the cache, whole, and delete the oldest others where it grows too large."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
    checksum = hashlib.sha256()
    for some in parts:
        checksum.update(some)
    try:
        with part.open("wb") as target:
            target.writelines((checksum.digest(), *parts))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    room = CACHE_BYTES
    for other in sorted(file.parent.glob("*.blob"), key=lambda other: other.stat().st_mtime, reverse=True):
        room -= other.stat().st_size
        if room < 0 and other != file:
            other.unlink(missing_ok=True)


def _port(port: Any, name: str | None = None) -> Port:
    """Describe an input by its name in the graph, or an output by one of its names."""
    friendly = str(port.get_node().get_friendly_name())
    shape, kind = port.get_partial_shape(), str(port.get_element_type().get_type_name())
    sizes = (
        ()
        if shape.rank.is_dynamic
        else tuple(size.get_length() if size.is_static else None for size in shape)
    )
    if name is None:
        name = friendly if friendly in port.get_names() else port.get_any_name()
    return Port(name, TYPES.get(kind, kind), sizes)
