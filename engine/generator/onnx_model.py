"""How does the graph of an ONNX file turn label windows into patches?"""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.system.gpus import describe_gpu
from safron.engine.system.memory import usable_cores
from safron.io.errors import BadInput, Failed, one_line
from safron.io.files import open_input, what_is_there

from .adapter import check_adapter, run_adapted
from .card import Card, Difference, parse_card, read_card
from .contract import check_output, check_signature, output_shape
from .devices import (
    check_precision,
    check_providers,
    choose_device,
    choose_runtime,
    nodes_on_cpu,
    providers,
)
from .host_memory import HostMemory, aligned
from .onnx_file import OnnxFile
from .openvino_session import OpenVinoSession, openvino_version
from .planes import Inputs, call_with, each
from .shipped import BFLOAT16, MODELS, cpu_form, model_names

log = logging.getLogger("safron")

FATAL = 4  # severity in ONNX Runtime's log: errors come as exceptions, and each is one line


class OnnxModel:
    """A generator in an ONNX file, run by ONNX Runtime or OpenVINO.

    The session is not pickled: each process makes its own.

    Parameters
    ----------
    path
        The ONNX file.
    device
        "auto" (CUDA where it starts, else the CPU), "cpu", "cuda" or "cuda:N".
    threads
        Patches that a CPU generates side by side, each on one core; 0 is one for every core.
    precision
        Of arithmetic: "float32"; on CUDA "tf32" (products rounded to 10 bits) or "float16" (TensorRT); with OpenVINO
        "bfloat16"; or "auto", which is bfloat16 where it can be and the card allows it.
    runtime
        "auto" (OpenVINO for bfloat16, else ONNX Runtime), "onnxruntime" or "openvino".

    Raises
    ------
    BadInput
        When the file is missing, is not ONNX, or breaks the generator contract.
    """

    returns_uint8 = False

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        threads: int = 0,
        precision: str = "float32",
        runtime: str = "auto",
    ) -> None:
        self.path = Path(path)
        self.threads = threads
        if not self.path.is_file():
            raise BadInput(
                f"--model {path}: {what_is_there(self.path)}; give an ONNX file or one of: {', '.join(model_names())}"
            )
        content = self.path.read_bytes()
        try:
            self.file = OnnxFile.parse(content)
        except ValueError as error:
            raise BadInput(
                f"--model {path}: not an ONNX file ({one_line(error)}); export it again"
            ) from error
        if self.file.random:
            raise BadInput(
                f"--model {path}: {', '.join(self.file.random)}: its output would differ from call to call; export it "
                "for inference (model.eval() in PyTorch), and take random numbers from the input 'noise'"
            )
        digest = hashlib.sha256(content)
        del content  # as large as what is loaded next
        _add_weights(digest, self.file.locations, self.path)
        on_cpu = device == "auto" and (runtime == "openvino" or precision == "bfloat16")
        self.device = choose_device("cpu" if on_cpu else device)
        check_precision(precision, self.device, runtime)
        beside = self._card_beside()
        if beside is not None:  # it decides pixels as the file does: context, noise, fill
            digest.update(beside.encode())
        self.sha256 = digest.hexdigest()
        self.card = self._read_card(beside)
        self._runtime, self.precision = choose_runtime(runtime, precision, self.device, self.card)
        # Only here: a copy in another process must not go on with another device.
        self._may_fall_back = (
            device == "auto" and precision in ("float32", "auto")
            if self.device != "cpu"
            else precision == "auto" and runtime == "auto"
        )
        session = self._session
        self._may_fall_back = False
        check = check_signature if self.card.adapter is None else check_adapter
        check(session, self.card, str(self.path))
        self._check_operators()

    def __getstate__(self) -> dict[str, Any]:
        own = ("_session", "_memory", "_bindings")
        return {key: value for key, value in self.__dict__.items() if key not in own}

    @cached_property
    def per_call(self) -> int | None:
        """Patches of one session call: 1, or as many as the graph fixes; None where any number is one call.

        On a CPU some kernels round differently for another batch, and a larger one is not faster.
        """
        if self.device != "cpu" and not self.file.scales_by_batch:
            return None
        return self.fixed_batch or 1

    @property
    def fixed_batch(self) -> int | None:
        """Patches that a call must have; None where the graph takes any number."""
        fixed = self._session.get_inputs()[0].shape[0]
        return fixed if isinstance(fixed, int) else 1 if self.file.scales_by_batch else None

    @property
    def batch_invariant(self) -> bool:
        """Whether a patch has the same bits in any batch."""
        return self.per_call is not None

    @property
    def calls(self) -> int | None:
        """Session calls to make at a time; None where they share a device."""
        return (self.threads or usable_cores()) if self.device == "cpu" else None

    @property
    def may_join(self) -> bool:
        """Whether patches side by side may go through in one call; with ONNX Runtime it takes 160 MiB more and gains little."""
        return self._runtime == "openvino"

    @property
    def large_numbers(self) -> bool:
        """Whether whole numbers in the graph may be larger than the runtime computes exactly."""
        return self._runtime == "openvino" and bool(self._session.large_numbers)

    @property
    def runtime(self) -> str:
        """What computes, and everything about it that decides pixels."""
        if self._runtime == "openvino":
            return f"OpenVINO {openvino_version()}"
        import onnxruntime

        about = "" if self.device == "cpu" else f", {describe_gpu(int(self.device.partition(':')[2] or 0))}"
        return f"ONNX Runtime {onnxruntime.__version__}{about}"

    @cached_property
    def _session(self) -> Any:
        if not self._may_fall_back:
            return self._open()
        try:
            return self._open()
        except BadInput as error:
            if self._runtime == "openvino":
                self._runtime, self.precision = "onnxruntime", "float32"
                log.warning("--precision auto: float32 is used (%s)", one_line(error))
                return self._open()
            gpu, self.device = self.device, "cpu"
            session = self._open()
            reason = one_line(error).removeprefix(f"--device {gpu}: ")
            log.warning("--device auto: %s cannot be used (%s); rendering on the CPU", gpu, reason)
            return session

    def _open(self) -> Any:
        if self._runtime == "openvino":
            assert self.calls is not None
            if self.file.otherwise_in_openvino:
                raise BadInput(
                    f"--model {self.path}: OpenVINO computes {', '.join(self.file.otherwise_in_openvino)} otherwise than "
                    "ONNX says; use --runtime onnxruntime in float32, or export it without"
                )
            return OpenVinoSession(self.path, sha256=self.sha256, calls=self.calls, precision=self.precision)
        import onnxruntime as ort

        options = ort.SessionOptions()
        # One thread a call, and as many calls as cores: how ONNX Runtime cuts up the work of several threads
        # changes the last bits of some kernels, and so does the size of a batch; and threads that wait for each
        # other after every node cost 8 % of the shipped generator's time.
        options.intra_op_num_threads = 1
        options.log_severity_level = FATAL
        on_gpu = self.device != "cpu"
        if on_gpu:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            ort.set_default_logger_severity(FATAL)  # of the loader of CUDA's libraries
        chosen = providers(self.device, self.precision, self.sha256, float16=self.file.float16)
        try:
            # ONNX Runtime's own fallback to the CPU prints on stdout, and may also come in the middle of a render.
            path = self.path if on_gpu else cpu_form(self.path)
            session = ort.InferenceSession(
                str(path),
                options,
                providers=chosen,
                enable_fallback=0,
                disabled_optimizers=self.file.disabled_optimizers,
            )
        except Exception as error:  # ONNX Runtime's exception classes have no common public base
            raise self._cannot_load(error) from error
        if on_gpu:
            check_providers(session.get_providers(), self.device, self.precision)
            if hasattr(session, "get_provider_graph_assignment_info"):
                left = nodes_on_cpu(session.get_provider_graph_assignment_info())
                if left:
                    log.warning(
                        "%s: %s of generator %s run on the CPU, since CUDA has no kernel for them; expect it to be slow",
                        self.device,
                        left,
                        self.path.name,
                    )
        return session

    def _cannot_load(self, error: Exception) -> BadInput:
        """Say why ONNX Runtime refuses the file, and what to do."""
        import onnxruntime as ort

        if re.search(r"IR version|[Oo]pset \d+ is under development", str(error)):
            return BadInput(
                f"--model {self.path}: ONNX Runtime {ort.__version__} does not read IR version {self.file.ir_version} with "
                f"opset {self.file.opset}; export it with ir_version 9 and an opset of 17 to 26, or install a newer onnxruntime"
            )
        return BadInput(
            f"--model {self.path}: ONNX Runtime cannot load it ({one_line(error)}); export it again"
        )

    @property
    def _card_path(self) -> Path:
        return self.path.with_suffix(".json")

    def _card_beside(self) -> str | None:
        """Text of the card file, where there is one."""
        return read_card(self._card_path) if self._card_path.is_file() else None

    def _read_card(self, beside: str | None) -> Card:
        if beside is not None:
            return parse_card(beside, source=str(self._card_path))
        text = self.file.metadata.get("safron")
        if text is None:
            raise BadInput(
                f"--model {self.path}: no generator card in it; export it with safron-train, or put "
                f"{self._card_path.name} beside it: safron-generator draft {self.path.name} (docs/generator-contract.md)"
            )
        card = parse_card(text, source=str(self.path))
        measured = BFLOAT16.get(self.path.stem) if self.path.parent == MODELS else None
        return card if measured is None else replace(card, bfloat16=card.bfloat16 or Difference(*measured))

    def _check_operators(self) -> None:
        """Refuse a graph that looks at all patches of a batch, and warn of one that looks at the whole of a patch."""
        if self.file.scales_by_batch and self.per_call != 1:
            raise BadInput(
                f"--model {self.path}: dynamic quantization scales a patch by all {self.per_call} of its batch; export it "
                "with a dynamic batch size, or quantize it statically"
            )
        if self.file.whole_patch:
            log.warning(
                "--model %s: %s takes statistics over a whole patch, so neighbours may disagree where they overlap; look for "
                "seams with safron-eval seams",
                self.path.name,
                ", ".join(self.file.whole_patch),
            )

    def __call__(
        self,
        labels: npt.NDArray[np.uint8],
        noise: npt.NDArray[np.float32] | None = None,
        **planes: npt.NDArray[Any],
    ) -> npt.NDArray[Any]:
        """Generate a batch; see `PatchModel`.

        The image is float32, since NumPy takes twenty times as long to look through a float16 array.
        """
        given: Inputs = {"labels": labels} | ({} if noise is None else {"noise": noise}) | planes
        if self.per_call is not None and len(labels) != self.per_call:
            return self._in_calls(given, self.per_call)
        inputs = {name: np.ascontiguousarray(values) for name, values in given.items()}
        if self._returns_image:
            with suppress(Exception):  # what is wrong with the graph or its output is said below
                return check_output(self._bound(output_shape(labels, self.card), inputs), labels, self.card)
        return self.in_one_call(inputs)

    def in_one_call(self, inputs: Inputs) -> npt.NDArray[Any]:
        """Generate all patches of a batch together, whatever `per_call` says; the inputs are contiguous.

        Raises
        ------
        Failed
            The graph cannot do it, or its image breaks the contract.
        """
        labels = inputs["labels"]
        try:
            if self.card.adapter is not None:
                image = run_adapted(self._session, self.card, labels, inputs.get("noise"))
            else:
                image = self._session.run([self.card.output], inputs)[0]
        except Exception as error:
            raise Failed(
                f"generator {self.card.name!r} failed on {labels.shape}: {one_line(error)}; see --batch, --device"
            ) from error
        return check_output(np.asarray(image, np.float32), labels, self.card)

    def _in_calls(self, inputs: Inputs, size: int) -> npt.NDArray[Any]:
        """Generate a batch in calls of `size` patches each, the last one filled up with copies."""
        images = []
        count = len(inputs["labels"])
        for start in range(0, count, size):
            part = each(inputs, np.minimum(np.arange(start, start + size), count - 1))
            images.append(call_with(self, part))
        return np.concatenate(images)[:count]

    @cached_property
    def _returns_image(self) -> bool:
        """Whether the session can write the image as it is wanted."""
        direct = self._runtime == "onnxruntime" and self.card.adapter is None
        return direct and self._session.get_outputs()[0].type == "tensor(float)"

    def _bound(self, shape: tuple[int, ...], inputs: Inputs) -> npt.NDArray[np.float32]:
        """Run a batch whose image ONNX Runtime writes where it shall be.

        On a CPU that is memory in the core's cache. On a GPU it is memory that is kept, as is the binding with what it holds on
        the device. A binding copies an input there when the input is bound.
        """
        if self.device == "cpu":
            image = aligned(4 * prod(shape)).view(np.float32).reshape(shape)
            binding = self._session.io_binding()
        else:
            image, idle = self._memory.empty(shape, np.float32), self._bindings
            binding = idle.pop() if idle else self._session.io_binding()
        for name, values in inputs.items():
            binding.bind_cpu_input(name, values)
        binding.bind_output(self.card.output, "cpu", 0, np.float32, shape, image.ctypes.data)
        self._session.run_with_iobinding(binding)
        if self.device != "cpu":  # one that raised is not used again
            self._bindings.append(binding)
        return image

    @cached_property
    def _memory(self) -> HostMemory:
        return HostMemory(self.device)

    @cached_property
    def _bindings(self) -> list[Any]:
        return []


def _add_weights(digest: hashlib._Hash, locations: tuple[str, ...], path: Path) -> None:
    """Add the files that hold some of the weights to the generator's hash."""
    # Where it is stored, and where it is linked from: caches of models link to files that lie side by side elsewhere.
    folders = path.resolve().parent, path.parent.resolve()
    for location in locations:
        try:
            file = (path.parent / location).resolve()
            if not any(file.is_relative_to(folder) for folder in folders):
                raise OSError("it lies outside the generator's folder")
            with open_input(file) as weights:
                digest.update(hashlib.file_digest(weights, "sha256").digest())  # type: ignore[arg-type] # of fdopen
        except (OSError, ValueError) as error:
            raise BadInput(
                f"--model {path}: cannot read {location!r}, where some of its weights are ({one_line(error)}); "
                "put the file beside it, or save all in one file"
            ) from error
