"""How does a window of labels become a patch of tissue?

`PatchModel` is all that the engine knows of a generator. `OnnxModel` runs a file under the generator
contract through ONNX Runtime; `IdentityModel` paints each label in its colour and costs nothing, so
that the engine can be looked at and measured without a generator.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt
from safron.engine.plan.fixed_point import VALUE_LIMIT
from safron.engine.system.memory import usable_cores
from safron.engine.system.native import compiled
from safron.io.errors import BadInput, Failed
from safron.io.labels import one_line

from .adapter import check_adapter, run_adapted
from .calls import SharedCalls
from .card import RGB, Card, Label, parse_card

MODELS = Path(__file__).parent / "models"
# Bytes, of every tensor that ONNX Runtime makes itself.
ALIGNMENT = 64


@runtime_checkable
class PatchModel(Protocol):
    """A patch generator.

    Attributes
    ----------
    card : what it needs and promises.
    sha256 : hex digest that changes whenever its pixels may change.
    device : where it runs, for the report.
    integral : whether it returns uint8; floats are put on a fixed-point grid before blending.
    apart : whether each patch is computed by itself, so that a batch may have any size; taken as False where missing.
    """

    card: Card
    sha256: str
    device: str
    integral: bool

    def __call__(
        self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[Any]:
        """Generate a batch.

        Parameters
        ----------
        labels : uint8 [N, T + 2c, T + 2c].
        noise : float32 [N, K, T + 2c, T + 2c], or None where K is 0.

        Returns
        -------
        RGB [N, T, T, 3], 0..255; uint8 if `integral`, else float16 or float32.
        """
        ...


def runs_apart(model: PatchModel) -> bool:
    """Whether each patch is computed by itself, so that a batch may have any size."""
    return bool(getattr(model, "apart", False))


def _identity_palette() -> dict[int, RGB]:
    """Colours of labels 0..255: the paper's three first, then well-spread ones."""
    spread = {
        value: ((value * 97) % 256, (value * 57 + 85) % 256, (value * 151 + 170) % 256)
        for value in range(256)
    }
    return spread | {0: (0, 0, 255), 1: (255, 0, 0), 2: (0, 255, 0)}


class IdentityModel:
    """Paint each label in its colour; any tile, no context.

    Parameters
    ----------
    palette : RGB by label; by default all 256 values have one.
    tile, context : the window sizes to ask for.
    """

    integral = True
    apart = True
    device = "cpu"

    def __init__(
        self,
        palette: dict[int, RGB] | None = None,
        *,
        tile: int = 256,
        context: int = 20,
        outside: int | None = None,
    ) -> None:
        palette = _identity_palette() if palette is None else palette
        labels = tuple(Label(value, f"label {value}", color) for value, color in sorted(palette.items()))
        self.card = Card("identity", tile, context, labels, tile_multiple=1, outside=outside)
        self._colors = np.zeros((256, 3), np.uint8)
        for value, color in palette.items():
            self._colors[value] = color
        self.sha256 = hashlib.sha256(self._colors.tobytes()).hexdigest()

    def __call__(
        self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return the colours of the labels inside the context: uint8 [N, T, T, 3]."""
        halo = self.card.context
        inner = labels[:, halo : labels.shape[1] - halo, halo : labels.shape[2] - halo]
        return paint_labels(inner, self._colors)


def paint_labels(labels: npt.NDArray[np.uint8], colors: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Give each label its colour.

    Parameters
    ----------
    labels : uint8 [n, h, w].
    colors : RGB by label, uint8 [256, 3].

    Returns
    -------
    uint8 [n, h, w, 3].
    """
    if compiled is not None:
        out = np.empty((*labels.shape, 3), np.uint8)
        compiled.paint(out, labels, colors)
        return out
    flat = np.ascontiguousarray(labels).reshape(-1, labels.shape[2])
    return np.asarray(cv2.applyColorMap(flat, colors[:, None]), np.uint8).reshape(*labels.shape, 3)


def _digest(path: Path) -> hashlib._Hash:
    """SHA-256 of an ONNX file, and of all files that it names as places of its weights."""
    content = path.read_bytes()
    digest = hashlib.sha256(content)
    if b"location" not in content:  # the key of every such name
        return digest
    from .external import external_locations

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


def model_names() -> list[str]:
    """Names that `load_model` knows besides files."""
    return ["identity", *sorted(path.stem for path in MODELS.glob("*.onnx"))]


def load_model(
    model: str | Path | PatchModel, *, device: str = "auto", threads: int = 0, precision: str = "float32"
) -> PatchModel:
    """Return the generator for a shipped name or an ONNX file; pass any other `PatchModel` through."""
    if not isinstance(model, str | Path):
        return model
    check_device(device)
    if str(model) == "identity":
        return IdentityModel()
    shipped = MODELS / f"{model}.onnx"
    return OnnxModel(
        shipped if shipped.is_file() else model, device=device, threads=threads, precision=precision
    )
