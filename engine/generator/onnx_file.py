"""What does an ONNX file say of its graph: where do its weights lie, and is it a function of its inputs?

Rendering needs no ``onnx`` package, and ONNX Runtime does not tell, so the file's own messages are walked, as far as
nodes and tensors can lie in them. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

Fields = dict[int, list["int | memoryview"]]

# Message -> field -> message; no other field holds a node or a tensor.
MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
FLOAT, FLOAT16 = 1, 10  # TensorProto.DataType

RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}
DYNAMIC = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
WHOLE_PATCH = {
    "InstanceNormalization",
    "GroupNormalization",
    "GroupNorm",
    "MeanVarianceNormalization",
    "GlobalAveragePool",
    "GlobalMaxPool",
}

# OpenVINO makes one node of a product with constants and of those that follow it pixel by pixel; shapes may stay as they are.
PIXEL_BY_PIXEL = {
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Neg", "Abs", "Sqrt", "Exp", "Clip", "Cast"),
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "Mish", "HardSwish", "HardSigmoid"),
    *("Sigmoid", "Tanh", "Erf", "Softplus", "Softsign", "Round", "Identity", "Dropout", "Reshape"),
}

# Of one axis they are about channels; without any they are mostly about a shape.
REDUCTIONS = {
    *("ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2"),
    *("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"),
}


@dataclass(frozen=True)
class OnnxFile:
    """What an ONNX file says of itself.

    Attributes
    ----------
    ir_version
        Of the file format.
    opset
        Newest opset of ONNX's own operators.
    locations
        Files that hold some of its tensors, each once, sorted; relative to the file's folder.
    random
        Operators whose output is not a function of their input, sorted.
    whole_patch
        Operators that take statistics over the height and width of a patch, sorted.
    scales_by_batch
        Whether values are quantized by a scale that depends on the whole batch.
    otherwise_in_openvino
        Operators that OpenVINO computes otherwise than ONNX says, with the attributes that matter, sorted.
    pads_before_maximum
        Whether a ``MaxPool`` takes what a ``Pad`` gives. ONNX Runtime would make one of them, which loses the zeros.
    float16
        Whether it computes in float16: no weights of float32 with two axes or more, and some of float16.
    metadata
        ``metadata_props``.
    """

    ir_version: int
    opset: int
    locations: tuple[str, ...]
    random: tuple[str, ...]
    whole_patch: tuple[str, ...]
    scales_by_batch: bool
    otherwise_in_openvino: tuple[str, ...]
    pads_before_maximum: bool
    float16: bool
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def disabled_optimizers(self) -> list[str]:
        """Those of ONNX Runtime that would change what it computes: one takes zeros before a maximum for minus infinity."""
        return ["Pad_Fusion"] if self.pads_before_maximum else []

    @classmethod
    def parse(cls, content: bytes) -> OnnxFile:
        """Read a whole file.

        Raises
        ------
        ValueError
            It is not a protobuf message.
        """
        found = list(_messages(memoryview(content), "model"))
        nodes = [_Node(fields) for kind, fields in found if kind == "node"]
        tensors = [fields for kind, fields in found if kind == "tensor"]
        entries = [fields for kind, fields in found if kind == "entry"]
        constants = {_text(tensor, 8): tensor for tensor in tensors}
        for node in nodes:
            if node.kind == "Constant" and (value := node.attribute("value").get(5)):
                constants[node.outputs[0]] = _fields(value[0])
        weights = {_integer(tensor, 2) for tensor in tensors if len(_integers(tensor, 1)) >= 2}
        kinds = {node.kind for node in nodes}
        opsets = [_fields(entry) for entry in found[0][1].get(8, ())]
        return cls(
            ir_version=_integer(found[0][1], 1),
            opset=max(
                (_integer(opset, 2) for opset in opsets if _text(opset, 1) in ("", "ai.onnx")), default=0
            ),
            locations=tuple(sorted({_text(entry, 2) for entry in entries if _text(entry, 1) == "location"})),
            random=tuple(sorted({name for node in nodes if (name := node.random(constants))})),
            whole_patch=tuple(sorted({node.kind for node in nodes if node.over_patch(constants)})),
            scales_by_batch=bool(kinds & DYNAMIC),
            otherwise_in_openvino=tuple(
                sorted(
                    {name for node in nodes if (name := node.in_openvino(constants))}
                    | _slopes_behind_products(nodes, constants)
                )
            ),
            pads_before_maximum=_pads_before_maximum(nodes),
            float16=FLOAT16 in weights and FLOAT not in weights,
            metadata={_text(entry, 1): _text(entry, 2) for entry in map(_fields, found[0][1].get(14, ()))},
        )


class _Node:
    """A node of the graph, of a subgraph or of a function."""

    def __init__(self, fields: Fields) -> None:
        self.kind = _text(fields, 4)
        self.inputs = [_string(name) for name in fields.get(1, ())]
        self.outputs = [_string(name) for name in fields.get(2, ())]
        self._contents = fields.get(5, [])

    @cached_property
    def _attributes(self) -> dict[str, Fields]:
        attributes = [_fields(content) for content in reversed(self._contents)]
        return {_text(fields, 1): fields for fields in attributes}

    def attribute(self, name: str) -> Fields:
        """Fields of an attribute; none where it is not given."""
        return self._attributes.get(name, {})

    def random(self, constants: dict[str, Fields]) -> str:
        """How a message calls it, if its output is not a function of its input; else nothing."""
        if self.kind in RANDOM:
            return self.kind
        if self.kind == "BatchNormalization" and _integer(self.attribute("training_mode"), 3):
            return "BatchNormalization with training_mode 1"
        # The mode is an input; one that the graph computes may be true.
        if self.kind == "Dropout" and len(self.inputs) > 2 and self.inputs[2]:
            mode = constants.get(self.inputs[2])
            if mode is None or any(_values(mode)):
                return "Dropout in training mode"
        return ""

    def in_openvino(self, constants: dict[str, Fields]) -> str:
        """How a message calls it, if OpenVINO 2026.4 has other values than ONNX says; else nothing."""
        if self.kind == "Resize":
            ignored = [name for name in ("antialias", "exclude_outside") if _integer(self.attribute(name), 3)]
            return f"Resize with {ignored[0]} 1" if ignored else ""
        if self.kind in ("MaxPool", "AveragePool") and _integer(self.attribute("ceil_mode"), 3):
            # Without padding the last window starts within the image, and windows next to each other never stop short.
            return f"{self.kind} with ceil_mode 1 and padding" if self._moves_over_padding() else ""
        if self.kind == "Conv" and self._moves_over_padding():
            weights = constants.get(self.inputs[1], {}) if len(self.inputs) > 1 else {}
            kernel = _integers(self.attribute("kernel_shape"), 8) or _integers(weights, 1)[2:]
            # The stride is moved to the layers before it, and the padding stays.
            return "Conv of 1 x 1 with a stride and padding" if set(kernel) == {1} else ""
        if self.kind == "ConvTranspose" and _integers(self.attribute("output_shape"), 8):
            # Where an odd number of rows is cut off, the wrong side loses one more.
            in_groups = _integer(self.attribute("group"), 3) > 1
            moved = in_groups or _text(self.attribute("auto_pad"), 4) == "SAME_UPPER"
            return "ConvTranspose with output_shape" if moved else ""
        if self.kind == "PRelu":
            # They belong to the last axis, and are taken for those of channels where there are as many.
            slopes = _integers(constants.get(self.inputs[1], {}), 1)
            return "PRelu with slopes of one axis" if len(slopes) == 1 and slopes[0] > 1 else ""
        return ""

    def _moves_over_padding(self) -> bool:
        """Whether its windows have padding and a stride."""
        strides = _integers(self.attribute("strides"), 8)
        return any(_integers(self.attribute("pads"), 8)) and any(stride > 1 for stride in strides)

    def over_patch(self, constants: dict[str, Fields]) -> bool:
        """Whether it takes statistics over height and width."""
        if self.kind == "LayerNormalization":  # over the last axis alone it is a matter of one pixel
            return _integer(self.attribute("axis"), 3, default=-1) not in (-1, 3)
        if self.kind == "ReduceMean" or self.kind in REDUCTIONS:
            axes = _integers(self.attribute("axes"), 8)
            if len(self.inputs) > 1 and self.inputs[1] in constants:
                axes = list(_values(constants[self.inputs[1]]))
            return len(axes) > 1 or (self.kind == "ReduceMean" and not axes)
        return self.kind in WHOLE_PATCH


def _pads_before_maximum(nodes: list[_Node]) -> bool:
    """Whether a maximum is taken of padded values; nodes stand in the order in which they are computed."""
    padded: set[str] = set()
    for node in nodes:
        if node.kind == "MaxPool" and padded.intersection(node.inputs):
            return True
        # The optimizer takes the others out before it looks.
        if node.kind == "Pad" or (
            node.kind in ("Identity", "Dropout") and padded.intersection(node.inputs[:1])
        ):
            padded.update(node.outputs)
    return False


def _slopes_behind_products(nodes: list[_Node], constants: dict[str, Fields]) -> set[str]:
    """How a message calls slopes of channels that OpenVINO takes for those of the columns of a product."""
    products: set[str] = set()
    for node in nodes:
        behind = node.kind in PIXEL_BY_PIXEL and products.intersection(node.inputs)
        if node.kind == "PRelu" and behind:
            slopes = constants.get(node.inputs[1])
            if slopes is None or any(size > 1 for size in _integers(slopes, 1)):
                return {"PRelu behind a product of matrices"}
        if node.kind in ("MatMul", "Einsum", "Gemm") or behind:
            products.update(node.outputs)
    return set()


def _messages(message: int | memoryview, kind: str) -> Iterator[tuple[str, Fields]]:
    """Give a message and all that lie in it, with their kinds."""
    fields = _fields(message)
    yield kind, fields
    for number, below in MESSAGES[kind].items():
        for content in fields.get(number, ()):
            yield from _messages(content, below)


def _fields(message: int | memoryview) -> Fields:
    """Values of those fields of a protobuf message that are numbers or have a length, by field number."""
    fields: Fields = {}
    if isinstance(message, int):
        raise ValueError("a number stands where a message should be")
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        wire = key & 7
        if wire in (1, 5):
            at += 8 if wire == 1 else 4
            continue
        if wire not in (0, 2):
            raise ValueError("it does not hold the fields of a graph")
        value: int | memoryview
        value, at = _varint(message, at)
        if wire == 2:
            size = value
            value = message[at : at + size]
            at += size
        number = key >> 3
        if number in fields:
            fields[number].append(value)
        else:
            fields[number] = [value]
    if at != end:
        raise ValueError("a field ends behind its message")
    return fields


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read a number of 7 bits a byte; return it and where it ends."""
    end = len(message)
    if at < end and message[at] < 128:  # as most are
        return message[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at == end:
            break
        byte = message[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise ValueError("a number has no end")


def _string(value: int | memoryview) -> str:
    return "" if isinstance(value, int) else bytes(value).decode(errors="replace")


def _text(fields: Fields, number: int) -> str:
    return _string(fields[number][-1]) if number in fields else ""


def _integers(fields: Fields, number: int) -> list[int]:
    """Signed whole numbers of a field, one by one or packed."""
    found: list[int] = []
    for value in fields.get(number, ()):
        if isinstance(value, int):
            found.append(value)
            continue
        at = 0
        while at < len(value):
            one, at = _varint(value, at)
            found.append(one)
    return [value - (1 << 64) if value >> 63 else value for value in found]


def _integer(fields: Fields, number: int, *, default: int = 0) -> int:
    return next(iter(_integers(fields, number)[-1:]), default)


def _values(tensor: Fields) -> Iterable[int]:
    """Values of a tensor of truth values or int64."""
    if raw := tensor.get(9):
        assert isinstance(raw[0], memoryview)
        size = 1 if _integer(tensor, 2) == 9 else 8
        content = bytes(raw[0])
        parts = (content[start : start + size] for start in range(0, len(content), size))
        return [int.from_bytes(part, "little", signed=size > 1) for part in parts]
    return _integers(tensor, 7) or _integers(tensor, 5)
