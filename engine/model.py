"""How does a window of labels become a patch of tissue?

`PatchModel` is all that the engine knows of a generator. `OnnxModel` runs a file under the generator
contract through ONNX Runtime; `IdentityModel` paints each label in its colour and costs nothing, so
that the engine can be looked at and measured without a generator.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, Failed
from safron.io.labels import one_line

from .accumulate import VALUE_LIMIT
from .adapter import check_adapter, run_adapted
from .card import RGB, Card, Label, parse_card

MODELS = Path(__file__).parent / "models"


@runtime_checkable
class PatchModel(Protocol):
    """A patch generator.

    Attributes
    ----------
    card : what it needs and promises.
    sha256 : hex digest that changes whenever its pixels may change.
    device : where it runs, for the report.
    integral : whether it returns uint8; floats are put on a fixed-point grid before blending.
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
        inner = np.ascontiguousarray(labels[:, halo : labels.shape[1] - halo, halo : labels.shape[2] - halo])
        colored = cv2.applyColorMap(inner.reshape(-1, inner.shape[2]), self._colors[:, None])
        return np.asarray(colored, np.uint8).reshape(*inner.shape, 3)


class OnnxModel:
    """A generator in an ONNX file, run by ONNX Runtime.

    The session is made on first use and not pickled: each process makes its own.

    Parameters
    ----------
    path : the ONNX file.
    device : "auto" (CUDA where it loads, else CPU), "cpu", "cuda" or "cuda:N".
    threads : threads of one call; 0 lets ONNX Runtime use every core.

    Raises
    ------
    BadInput
        When the file is missing, is not ONNX, or breaks the generator contract.
    """

    integral = False

    def __init__(self, path: str | Path, *, device: str = "auto", threads: int = 0) -> None:
        self.path = Path(path)
        self.threads = threads
        if not self.path.is_file():
            raise BadInput(
                f"--model {path}: no such file; give an ONNX file or one of: {', '.join(model_names())}"
            )
        digest = hashlib.sha256(self.path.read_bytes())
        weights = self.path.with_name(f"{self.path.name}.data")
        if weights.is_file():  # where PyTorch puts the weights of a large model
            digest.update(weights.read_bytes())
        self.device = choose_device(device)
        beside = self._card_beside()
        if beside is not None:  # it decides pixels as the file does: context, noise, fill
            digest.update(beside.encode())
        self.sha256 = digest.hexdigest()
        self.card = self._read_card(beside)
        check = _check_signature if self.card.adapter is None else check_adapter
        check(self._session, self.card, str(self.path))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in {"_session", "_slots"}}

    @cached_property
    def _session(self) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        self._slots = threading.Semaphore(calls_at_a_time(self.device, self.threads))
        # Waiting threads would burn the cores that read, blend and encode meanwhile.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Fatal errors only: all others come as exceptions, and a failure is one line.
        options.log_severity_level = 4
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.device.startswith("cuda"):
            number = int(self.device.partition(":")[2] or 0)
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": number}))
        try:
            session = ort.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's exception classes have no common public base
            raise BadInput(
                f"--model {self.path}: ONNX Runtime cannot load it ({one_line(error)}); export it again"
            ) from error
        if self.device.startswith("cuda") and session.get_providers()[0] != "CUDAExecutionProvider":
            raise BadInput(
                f"--device {self.device}: ONNX Runtime could not start CUDA; "
                "pip install 'safron[cuda]' and check nvidia-smi, or use --device cpu"
            )
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
        feeds: dict[str, npt.NDArray[Any]] = {"labels": labels}
        if noise is not None:
            feeds["noise"] = noise
        session = self._session
        try:
            with self._slots:
                if self.card.adapter is not None:
                    image = run_adapted(session, self.card, labels, noise)
                else:
                    (image,) = session.run(["image"], feeds)
        except Exception as error:  # as above
            raise Failed(
                f"generator {self.card.name!r} failed on {labels.shape}: {one_line(error)}; see --batch, --device"
            ) from error
        return check_output(np.asarray(image), labels, self.card)


def calls_at_a_time(device: str, threads: int) -> int:
    """How many generator calls may run side by side: on a CPU as many as have cores of their own.

    Two calls that share the cores take longer than one after the other (measured: 7 % with the paper's
    network on two cores); meanwhile the other workers read, blend and encode.
    """
    if device != "cpu":
        return 64  # the driver queues them
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads) if threads else 1


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


def load_model(model: str | Path | PatchModel, *, device: str = "auto", threads: int = 0) -> PatchModel:
    """Return the generator for a shipped name or an ONNX file; pass any other `PatchModel` through."""
    if not isinstance(model, str | Path):
        return model
    check_device(device)
    if str(model) == "identity":
        return IdentityModel()
    shipped = MODELS / f"{model}.onnx"
    return OnnxModel(shipped if shipped.is_file() else model, device=device, threads=threads)
