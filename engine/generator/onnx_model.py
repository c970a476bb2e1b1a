"""How does ONNX Runtime turn label windows into patches?"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.plan.fixed_point import VALUE_LIMIT
from safron.engine.system.memory import usable_cores
from safron.io.errors import BadInput, Failed, one_line

from .adapter import check_adapter, run_adapted
from .card import Card, parse_card
from .devices import check_precision, check_providers, choose_device, providers
from .patch_threads import SharedCalls
from .shipped import model_names

# Bytes, of every tensor that ONNX Runtime makes itself.
ALIGNMENT = 64


def _digest(path: Path) -> hashlib._Hash:
    """SHA-256 of an ONNX file, and of all files that it names as places of its weights."""
    content = path.read_bytes()
    digest = hashlib.sha256(content)
    if b"location" not in content:  # the key of every such name
        return digest
    from .external_weights import external_locations

    try:
        locations = external_locations(content)
    except ValueError as error:
        raise BadInput(f"--model {path}: is no ONNX file ({one_line(error)}); export it again") from error
    for location in locations:
        try:
            with (path.parent / location).open("rb") as weights:
                digest.update(hashlib.file_digest(weights, "sha256").digest())
        except (OSError, ValueError) as error:
            raise BadInput(
                f"--model {path}: cannot read {location!r}, where some of its weights are ({one_line(error)}); "
                "put the file beside it, or save all in one file"
            ) from error
    return digest


class OnnxModel:
    """A generator in an ONNX file, run by ONNX Runtime.

    The session is made on first use and not pickled: each process makes its own.

    Parameters
    ----------
    path : the ONNX file.
    device : "auto" (CUDA where it loads, else CPU), "cpu", "cuda" or "cuda:N".
    threads : patches that run side by side on a CPU, each on one core; 0 is one for every core.
    precision : of arithmetic on CUDA: "float32", "tf32" (products rounded to 10 bits) or "float16" (TensorRT).

    Raises
    ------
    BadInput
        When the file is missing, is not ONNX, or breaks the generator contract.
    """

    integral = False

    def __init__(
        self, path: str | Path, *, device: str = "auto", threads: int = 0, precision: str = "float32"
    ) -> None:
        self.path = Path(path)
        self.threads = threads
        self.precision = precision
        if not self.path.is_file():
            raise BadInput(
                f"--model {path}: no such file; give an ONNX file or one of: {', '.join(model_names())}"
            )
        digest = _digest(self.path)
        self.device = choose_device(device)
        check_precision(precision, self.device)
        beside = self._card_beside()
        if beside is not None:  # it decides pixels as the file does: context, noise, fill
            digest.update(beside.encode())
        self.sha256 = digest.hexdigest()
        self.card = self._read_card(beside)
        check = _check_signature if self.card.adapter is None else check_adapter
        check(self._session, self.card, str(self.path))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in {"_session", "_calls"}}

    @property
    def apart(self) -> bool:
        """Whether patches of a batch are run one by one, so that a batch may have any size."""
        return self.device == "cpu"

    @cached_property
    def _session(self) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        # One thread a call, and as many calls as cores: how ONNX Runtime cuts up the work of several threads
        # changes the last bits of some kernels, and so does the size of a batch; and threads that wait for each
        # other after every node cost 8 % of the shipped generator's time.
        options.intra_op_num_threads = 1
        if self.apart:
            self._calls = SharedCalls(self.threads or usable_cores())
        # Fatal errors only: all others come as exceptions, and a failure is one line.
        options.log_severity_level = 4
        try:
            session = ort.InferenceSession(
                str(self.path), options, providers=providers(self.device, self.precision, self.sha256)
            )
        except Exception as error:  # ONNX Runtime's exception classes have no common public base
            raise BadInput(
                f"--model {self.path}: ONNX Runtime cannot load it ({one_line(error)}); export it again"
            ) from error
        if self.device.startswith("cuda"):
            check_providers(session.get_providers(), self.device, self.precision)
        return session

    @property
    def _card_path(self) -> Path:
        return self.path.with_suffix(".json")

    def _card_beside(self) -> str | None:
        """Text of the card file, where there is one."""
        if not self._card_path.is_file():
            return None
        try:
            return self._card_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"{self._card_path}: cannot read the generator card ({one_line(error)})"
            ) from error

    def _read_card(self, beside: str | None) -> Card:
        if beside is not None:
            return parse_card(beside, source=str(self._card_path))
        text = self._session.get_modelmeta().custom_metadata_map.get("safron")
        if text is None:
            raise BadInput(
                f"--model {self.path}: no generator card in it; export it with safron-train, or put "
                f"{self._card_path.name} beside it (docs/generator-contract.md)"
            )
        return parse_card(text, source=str(self.path))

    def __call__(
        self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[Any]:
        """Run a batch; see `PatchModel`."""
        return self._run_apart(labels, noise) if self.apart else self._run(labels, noise)

    def _run(self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None) -> npt.NDArray[Any]:
        """Call ONNX Runtime once; float32, since NumPy takes twenty times as long to look through a float16 array."""
        try:
            if self.card.adapter is not None:
                image = run_adapted(self._session, self.card, labels, noise)
            else:
                feeds = {"labels": labels} if noise is None else {"labels": labels, "noise": noise}
                image = self._session.run(["image"], feeds)[0]
        except Exception as error:  # as above
            raise Failed(
                f"generator {self.card.name!r} failed on {labels.shape}: {one_line(error)}; see --batch, --device"
            ) from error
        return check_output(np.asarray(image, np.float32), labels, self.card)

    def _run_into(
        self,
        images: npt.NDArray[Any],
        labels: npt.NDArray[np.uint8],
        noise: npt.NDArray[np.float32] | None,
    ) -> None:
        """Call ONNX Runtime once and have it write where the images shall be, while they are in the core's cache."""
        if self._returns_float32:
            binding = self._session.io_binding()
            binding.bind_cpu_input("labels", labels)
            if noise is not None:
                binding.bind_cpu_input("noise", noise)
            binding.bind_output("image", "cpu", 0, images.dtype.type, images.shape, images.ctypes.data)
            with suppress(Exception):  # of a generator that fails, or returns another shape: below it is told
                self._session.run_with_iobinding(binding)
                check_output(images, labels, self.card)
                return
        images[:] = self._run(labels, noise)

    def _run_apart(
        self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[Any]:
        """Run a batch patch by patch, side by side with other batches.

        Where the graph fixes how many it takes, that many, the last call filled up with copies.
        """
        fixed = self._session.get_inputs()[0].shape[0]
        size = fixed if isinstance(fixed, int) else 1
        side = labels.shape[1] - 2 * self.card.context
        labels_of = _by_call(labels, size)
        noise_of = None if noise is None else _by_call(noise, size)
        images = _aligned(len(labels_of), (size, side, side, 3))

        def run(call: int) -> None:
            self._run_into(images[call], labels_of[call], None if noise_of is None else noise_of[call])

        self._calls.run(run, range(len(images)))
        return images.reshape(-1, side, side, 3)[: len(labels)]

    @cached_property
    def _returns_float32(self) -> bool:
        """Whether the graph's output is the image as it is wanted."""
        return self.card.adapter is None and self._session.get_outputs()[0].type == "tensor(float)"


def _by_call(inputs: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Cut inputs [n, ...] into those of calls, [calls, size, ...]; the last call is filled up with copies."""
    count = -(-len(inputs) // size) * size
    if count > len(inputs):
        inputs = inputs[np.minimum(np.arange(count), len(inputs) - 1)]
    return np.ascontiguousarray(inputs).reshape(-1, size, *inputs.shape[1:])


def _aligned(count: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Float32 [count, *shape] that each begin where ONNX Runtime's own would: some kernels round by the place in memory."""
    size = 4 * prod(shape)
    step = -(-size // ALIGNMENT) * ALIGNMENT
    memory = np.empty(count * step + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    slots = memory[start : start + count * step].reshape(count, step)[:, :size]
    return slots.view(np.float32).reshape(count, *shape)


def check_output(image: npt.NDArray[Any], labels: npt.NDArray[np.uint8], card: Card) -> npt.NDArray[Any]:
    """Return `image` if it has the shape and range of the contract, else raise `Failed`."""
    side = labels.shape[1] - 2 * card.context
    expected = (labels.shape[0], side, side, 3)
    if image.shape != expected:
        raise Failed(
            f"generator {card.name!r} returned {image.shape} for {labels.shape}; the contract wants {expected}"
        )
    low, high = float(image.min()), float(image.max())
    if not (low >= -VALUE_LIMIT // 2 and high < VALUE_LIMIT):  # a NaN fails both
        raise Failed(
            f"generator {card.name!r} returned values {low:g}..{high:g}; the contract wants RGB in 0..255"
        )
    return image


def _check_signature(session: Any, card: Card, source: str) -> None:
    """Raise `BadInput` unless inputs and outputs have the contract's names and types."""
    inputs = {entry.name: entry for entry in session.get_inputs()}
    outputs = {entry.name: entry for entry in session.get_outputs()}
    wanted = {"labels": "tensor(uint8)"} | ({"noise": "tensor(float)"} if card.noise_scales else {})
    for name, kind in wanted.items():
        found = inputs.pop(name, None)
        if found is None or found.type != kind:
            have = "no such input" if found is None else found.type
            raise BadInput(
                f"--model {source}: input {name!r} must be {kind}, found {have}; see docs/generator-contract.md"
            )
    if inputs:
        raise BadInput(
            f"--model {source}: unknown inputs {sorted(inputs)}; the contract has 'labels' and 'noise'"
        )
    if "image" not in outputs:
        raise BadInput(
            f"--model {source}: output 'image' is missing, found {sorted(outputs)}; see docs/generator-contract.md"
        )
    if outputs["image"].type not in {"tensor(float)", "tensor(float16)"}:
        raise BadInput(
            f"--model {source}: output 'image' must be tensor(float) or tensor(float16), "
            f"found {outputs['image'].type}; see docs/generator-contract.md"
        )
    side = inputs_side(session)
    if isinstance(side, int) and side != card.tile + 2 * card.context:
        raise BadInput(
            f"--model {source}: input 'labels' is {side} px wide, its card says tile {card.tile} + 2 x context {card.context}; "
            "export it again"
        )


def inputs_side(session: Any) -> int | str | None:
    """Width of the label input: an int where fixed, a name where dynamic."""
    shape = next(entry.shape for entry in session.get_inputs() if entry.name == "labels")
    side: int | str | None = shape[-1] if shape else None
    return side
