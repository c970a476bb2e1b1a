"""How do the channels take less time that do not fill a block of 16, with the same bits?

ONNX Runtime computes 16 output channels of a convolution at a time, so that 24 take the time of 32. Of the convolution before
the last, 16 channels are computed as they were, and the other 8 of two neighbouring pixels at once::

    x --Conv, 24--> ... --Conv 4 x 4, stride 2--> image   becomes

    x --Conv, 16----------------------> ... --Conv 4 x 4, stride 2-----------+--> sum --> image
    x --Conv, 2 x 8, stride (1, 2)----> ... --Conv 4 x 2, stride (2, 1)------+

Every sum has the same products in the same order: ONNX Runtime adds up a block of 16 input channels after the other, in each
row by row, pixel by pixel, channel by channel, and the bias last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

CHANNEL_BLOCK = 16
UNARY = {"LeakyRelu", "Relu", "Tanh", "Sigmoid"}
BINARY = {"Add", "Sub", "Mul", "Div"}
Constants = Mapping[str, npt.NDArray[Any]]


@dataclass
class _Rewriting:
    """What replaces a convolution, what is done to its pixels, and the next convolution.

    Attributes
    ----------
    old
        All nodes of the graph.
    constants
        Their constants.
    count, full
        Channels, and how many of them fill blocks.
    nodes, added
        New nodes, and new constants.
    """

    old: Sequence[onnx.NodeProto]
    constants: Constants
    count: int
    full: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    added: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node; return its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def store(self, name: str, values: npt.NDArray[Any]) -> str:
        """Add a constant; return its name."""
        self.added[name] = np.ascontiguousarray(values)
        return name

    def first(self, conv: onnx.NodeProto) -> tuple[str, str]:
        """Compute the channels that fill blocks, and the others of two pixels at once."""
        weight, bias = (self.constants[name] for name in conv.input[1:])
        rest, inner, height, width = weight[self.full :].shape
        pairs = np.zeros((2, rest, inner, height, width + 1), np.float32)
        for x in range(2):
            pairs[x, :, :, :, x : x + width] = weight[self.full :]
        names, outputs = [], [f"{conv.output[0]}_full", f"{conv.output[0]}_rest"]
        weights = weight[: self.full], pairs.reshape(2 * rest, inner, height, width + 1)
        biases = bias[: self.full], np.tile(bias[self.full :], 2)
        for output, w, b, stride in zip(outputs, weights, biases, (1, 2), strict=True):
            inputs = [conv.input[0], self.store(f"{output}_weight", w), self.store(f"{output}_bias", b)]
            names.append(self.add("Conv", inputs, output, strides=[1, stride]))
        return names[0], names[1]

    def pixelwise(self, node: onnx.NodeProto, names: tuple[str, str]) -> tuple[str, str]:
        """Do in both parts what is done to pixels."""
        made = []
        for part, name in zip(("full", "rest"), names, strict=True):
            inputs = [name] + [self.operand(operand, part) for operand in node.input[1:]]
            made.append(self.add(node.op_type, inputs, f"{node.output[0]}_{part}"))
            self.nodes[-1].attribute.extend(node.attribute)
        return made[0], made[1]

    def operand(self, name: str, part: str) -> str:
        """Return a value per channel of one part."""
        value, result = self.constants.get(name), f"{name}_{part}"
        if value is not None and value.size == 1:
            return name
        if value is None:
            shape = self.store(f"{name}_channels", np.array([1, self.count, 1, 1], np.int64))
            axis = self.store(f"{name}_axis", np.array([1], np.int64))
            first, last = (0, self.full) if part == "full" else (self.full, self.count)
            ends = [
                self.store(f"{result}_{end}", np.array([place], np.int64))
                for end, place in (("from", first), ("to", last))
            ]
            whole = self.add("Expand", [name, shape], f"{result}_whole")
            once = self.add("Slice", [whole, *ends, axis], result if part == "full" else f"{result}_once")
            return once if part == "full" else self.add("Concat", [once, once], result, axis=1)
        value = np.broadcast_to(value, (1, self.count, 1, 1))
        if part == "full":
            return self.store(result, value[:, : self.full])
        return self.store(result, np.tile(value[:, self.full :], (1, 2, 1, 1)))

    def last(self, conv: onnx.NodeProto, names: tuple[str, str]) -> None:
        """Add up the products of both parts, and the bias."""
        weight, bias = (self.constants[name] for name in conv.input[1:])
        outputs, _, height, width = weight.shape
        rest = weight[:, self.full :].reshape(outputs, -1, height, width // 2, 2)
        pairs = rest.transpose(0, 4, 1, 2, 3).reshape(outputs, -1, height, width // 2)
        hint = conv.output[0]
        sums = []
        for name, part, w, stride in zip(
            names, ("full", "rest"), (weight[:, : self.full], pairs), (2, 1), strict=True
        ):
            inputs = [name, self.store(f"{hint}_{part}_weight", w)]
            sums.append(self.add("Conv", inputs, f"{hint}_{part}", strides=[2, stride]))
        whole = self.add("Add", sums, f"{hint}_sum")
        self.add("Add", [whole, self.store(f"{hint}_bias", bias.reshape(1, -1, 1, 1))], hint)

    def is_per_channel(self, name: str) -> bool:
        """Whether an operand has one value for each channel, or for all of them."""
        value = self.constants.get(name)
        if value is not None:
            return value.size == 1 or value.shape in ((self.count, 1, 1), (1, self.count, 1, 1))
        made = next((node for node in self.old if name in node.output), None)
        if made is None:
            return False
        if made.op_type == "Unsqueeze":  # the last of two, of a vector for each patch
            before = next((node for node in self.old if made.input[0] in node.output), None)
            both = [node for node in (before, made) if node is not None and len(node.input) > 1]
            return [list(self.constants.get(node.input[1], ())) for node in both] == [[2], [3]]
        if made.op_type == "Slice":
            axes = [self.constants.get(made.input[3])] if len(made.input) > 3 else [None]
            along = axes[0] is not None and list(axes[0]) == [1]
            return along and self.is_per_channel(made.input[0])
        alike = made.op_type in BINARY | {"Cast"}
        return alike and all(self.is_per_channel(operand) for operand in made.input)


def split_leftover(
    nodes: list[onnx.NodeProto],
    last: onnx.NodeProto,
    constants: Constants,
) -> tuple[list[str], dict[str, npt.NDArray[Any]]]:
    """Split the convolution before the last.

    Parameters
    ----------
    nodes
        Of the graph, in order; changed in place.
    last
        A convolution that makes 2 x 2 pixels at once: an even kernel, stride 2, no padding, an input with an even width.
    constants
        Of the graph, weights and bias of `last` among them.

    Returns
    -------
    tuple[list[str], dict[str, npt.NDArray[Any]]]
        One line for each change, and new constants.
    """
    chain = _chain_before(nodes, last)
    known = chain and len(chain[0].input) == len(last.input) == 3
    if not known or not {*chain[0].input[1:], *last.input[1:]} <= constants.keys():
        return [], {}
    count, inner, height, width = constants[chain[0].input[1]].shape
    rest = count % CHANNEL_BLOCK
    work = _Rewriting(nodes, constants, count, count - rest)
    operands = [name for node in chain[1:] for name in node.input[1:]]
    if (
        not in_blocks(inner)
        or count < CHANNEL_BLOCK
        or 2 * rest != CHANNEL_BLOCK  # of fewer input channels the products are added in another order
        or constants[chain[0].input[1]].dtype != np.float32
        or not all(work.is_per_channel(name) for name in operands)
    ):
        return [], {}
    names = work.first(chain[0])
    for node in chain[1:]:
        names = work.pixelwise(node, names)
    work.last(last, names)
    place = nodes.index(last)
    nodes[place : place + 1] = work.nodes
    for node in chain:
        nodes.remove(node)
    return [
        f"{height} x {width} convolution to {count} channels: {rest} of them for two pixels at once"
    ], work.added


def in_blocks(channels: int) -> bool:
    """Whether ONNX Runtime takes so many input channels in blocks, and so adds up products in the order above."""
    return channels >= CHANNEL_BLOCK and channels % 4 == 0


def is_plain(conv: onnx.NodeProto) -> bool:
    """Whether a convolution moves pixel by pixel and stays inside the image."""
    from onnx import helper

    how = {entry.name: helper.get_attribute_value(entry) for entry in conv.attribute}
    ones = {*how.get("strides", [1]), *how.get("dilations", [1]), how.get("group", 1)}
    return ones == {1} and not any(how.get("pads", [])) and how.get("auto_pad", b"NOTSET") == b"NOTSET"


def _chain_before(nodes: Sequence[onnx.NodeProto], last: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return a plain convolution and what is done to its pixels before `last`; empty where any of it is used elsewhere, too."""
    makers = {name: node for node in nodes for name in node.output}
    chain: list[onnx.NodeProto] = []
    name = last.input[0]
    while (node := makers.get(name)) is not None:
        if sum(list(user.input).count(name) for user in nodes) != 1:
            return []
        chain.insert(0, node)
        if node.op_type == "Conv":
            return chain if is_plain(node) else []
        if node.op_type not in UNARY | BINARY:
            return []
        name = node.input[0]
    return []
