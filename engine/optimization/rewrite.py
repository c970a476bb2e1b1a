"""How can a generator's graph be made faster on a CPU without changing its pixels?

Two exact identities are applied to an ONNX graph wherever they hold and save arithmetic. The result is an ordinary ONNX
graph, so rendering needs nothing new. Only the rounding of float32 differs.

**A large convolution by rows of frequencies.** Along x the convolution becomes a product of spectra; along y it remains a
convolution. X is the transform of a strip of ``tile + kx - 1`` columns, wide enough that no output of the strip wraps
around:

    x [C, y, strip] --F--> X [k, 2C, y] --Conv 1 x ky, one group per frequency--> Y [k, 2O, y] --M--> out [O, y, tile]

Both transforms are matrix products. A pixel of one output channel costs ``4 C ky (tile + kx) / (2 tile)`` multiply-adds
in the middle and ``tile + kx`` in M, instead of ``C ky kx``: 380 instead of 5,043 for a 41 x 41 kernel over three colours.
If the input depends on the label alone, L labels span L - 1 directions around the first label. One channel is then part of
the bias.

**A transposed convolution by phases.** With stride s, the output pixels of one phase (y mod s, x mod s) are an ordinary
convolution of the input with every s-th tap, which ONNX Runtime computes in its blocked layout. A batch norm that follows
is folded into the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput

if TYPE_CHECKING:
    import onnx

Float64 = npt.NDArray[np.float64]

MIN_OPSET = 13
# Least ratio of multiply-adds before and after. Below it, replacing gained no time: other costs dominate.
WORTHWHILE = 3.0
# Output columns that share one transform.
TILES = (32, 48, 64, 96, 128, 192, 256)
# ONNX Runtime's blocked convolutions process so many channels at once; images with fewer pixels a side gain nothing.
CHANNEL_BLOCK, SMALL = 16, 8
# Operations whose output at a pixel depends on that pixel alone, unless they reduce or move an image axis; `_label_table`
# tests for that by running them. Convolutions with a 1 x 1 kernel belong to them too.
POINTWISE = {
    "Unsqueeze",
    "Cast",
    "Equal",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Where",
    "Concat",
    "Gather",
    "OneHot",
    "Transpose",
}


@dataclass(frozen=True)
class Rewritten:
    """A faster graph.

    Attributes
    ----------
    model
        The new graph with the metadata and the signature of the old one, except for weights listed as inputs.
    changes
        One line for each replacement.
    """

    model: onnx.ModelProto
    changes: tuple[str, ...]


def rewrite(model: onnx.ModelProto, *, label_values: Sequence[int] = ()) -> Rewritten:
    """Apply both identities wherever they save work.

    Parameters
    ----------
    model
        A generator; it is not changed.
    label_values
        The labels that can occur, if the graph has an input ``labels``, uint8 [N, y, x].

    Raises
    ------
    BadInput
        The graph's opset is too old.
    """
    import onnx

    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < MIN_OPSET:
        raise BadInput(
            f"the graph uses opset {opset} and rewriting needs {MIN_OPSET}; export it with a newer opset"
        )
    graph = _Graph(onnx.shape_inference.infer_shapes(model), tuple(label_values))
    for node in list(graph.nodes):
        if node.op_type == "Conv":
            _by_frequencies(graph, node)
        elif node.op_type == "ConvTranspose":
            _by_phases(graph, node)
    return Rewritten(graph.rebuilt(model), tuple(graph.changes))


@dataclass
class _Graph:
    """A graph being rewritten: which node makes each tensor, and what replaces which node."""

    model: onnx.ModelProto
    label_values: tuple[int, ...]
    changes: list[str] = field(default_factory=list)
    _new: list[onnx.NodeProto] = field(default_factory=list)
    _constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    _replaced: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    _initializers: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.nodes = list(graph.node)
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in _reads(node):
                self.users.setdefault(name, []).append(node)
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        entries = (*graph.input, *graph.output, *graph.value_info)
        self._types = {entry.name: entry.type.tensor_type for entry in entries}
        self._taken = {*self._stored, *self.makers, *(entry.name for entry in graph.input)}

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """Return the value of a stored constant; None for any other tensor."""
        from onnx import numpy_helper

        maker = self.makers.get(name)
        if name in self._stored:
            return numpy_helper.to_array(self._stored[name])
        if maker is not None and maker.op_type == "Identity":
            return self.constant(maker.input[0])
        if maker is not None and maker.op_type == "Constant" and maker.attribute[0].name == "value":
            return numpy_helper.to_array(maker.attribute[0].t)
        return None

    def shape(self, name: str) -> tuple[int | None, ...]:
        """Return the sizes of a tensor's axes, None for unknown ones; empty if nothing is known."""
        found = self._types.get(name)
        if found is None:
            return ()
        return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in found.shape.dim)

    def fresh(self, hint: str) -> str:
        """Return a name that no tensor has."""
        name = next(
            name for name in (f"{hint}_{i}" for i in range(len(self._taken) + 1)) if name not in self._taken
        )
        self._taken.add(name)
        return name

    def store(self, values: npt.ArrayLike, hint: str) -> str:
        """Add a constant, as float32 or int64; return its name."""
        from onnx import numpy_helper

        array = np.asarray(values)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        name = self.fresh(hint)
        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Add a node to the replacement that is being built; return its output."""
        from onnx import helper

        output = output or self.fresh(f"safron_{kind.lower()}")
        self._new.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def replace(self, node: onnx.NodeProto, change: str, *, also: Iterable[onnx.NodeProto] = ()) -> None:
        """Replace `node` by the nodes added since the last replacement, and drop the nodes `also`."""
        for dropped in also:
            self._replaced[dropped.output[0]] = []
        self._replaced[node.output[0]], self._new = self._new, []
        self.changes.append(change)

    def rebuilt(self, original: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model with all replacements made and everything unused left out."""
        import onnx

        nodes = [new for node in self.nodes for new in self._replaced.get(node.output[0], [node])]
        used = {entry.name for entry in original.graph.output}
        kept = []
        for node in reversed(nodes):
            if not used.isdisjoint(node.output):
                used.update(_reads(node))
                kept.append(node)
        result = onnx.ModelProto()
        result.CopyFrom(original)
        del result.graph.node[:], result.graph.value_info[:], result.graph.initializer[:]
        result.graph.node.extend(reversed(kept))
        stored = (*original.graph.initializer, *self._initializers)
        result.graph.initializer.extend(tensor for tensor in stored if tensor.name in used)
        # Weights may be listed as inputs, up to IR version 3 they must be; a replaced one would then have to be fed.
        inputs = [entry for entry in original.graph.input if entry.name not in self._stored]
        del result.graph.input[:]
        result.graph.input.extend(inputs)
        result.ir_version = max(4, original.ir_version)
        return result


def _reads(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node reads, including those read inside its branches and loops."""
    import onnx

    names = set(node.input)
    for entry in node.attribute:
        inside = {onnx.AttributeProto.GRAPH: [entry.g], onnx.AttributeProto.GRAPHS: entry.graphs}
        for graph in inside.get(entry.type, []):
            names.update(result.name for result in graph.output)
            names.update(*(_reads(inner) for inner in graph.node))
    return names


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def _weights(graph: _Graph, node: onnx.NodeProto, outputs_axis: int) -> tuple[Float64, Float64] | None:
    """Return kernel and bias of a two-dimensional convolution if they are constants."""
    weight = graph.constant(node.input[1])
    if weight is None or weight.ndim != 4 or weight.dtype != np.float32:
        return None
    bias: npt.NDArray[Any] | None = np.zeros(weight.shape[outputs_axis])
    if len(node.input) > 2 and node.input[2]:
        bias = graph.constant(node.input[2])
    return None if bias is None else (weight.astype(np.float64), bias.astype(np.float64))


# -- a large convolution by rows of frequencies ------------------------------------------------------------------


def _by_frequencies(graph: _Graph, node: onnx.NodeProto) -> None:
    """Replace a convolution of stride 1 with a large kernel."""
    weights = _weights(graph, node, 0)
    settings = _attributes(node)
    plain = settings.get("group", 1) == 1 and settings.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    if weights is None or not plain or {*settings.get("strides", ()), *settings.get("dilations", ())} - {1}:
        return
    kernel, bias = weights
    pads = settings.get("pads", [0, 0, 0, 0])
    shape = graph.shape(node.input[0])
    if len(shape) != 4 or shape[3] is None:
        return
    before = kernel.shape[1] * kernel.shape[2] * kernel.shape[3]
    table = None if any(pads) else _label_table(graph, node.input[0])
    x = node.input[0]
    if table is not None:
        channels, directions = _directions(table)
        kernel, offset = (
            np.einsum("rc,ocyx->oryx", directions, kernel),
            np.einsum("c,ocyx->o", table[0], kernel),
        )
        bias = bias + offset
    width = shape[3] + pads[1] + pads[3] - kernel.shape[3] + 1
    tile = min((min(tile, width) for tile in TILES), key=lambda tile: _cost(kernel.shape, width, tile))
    cost = _cost(kernel.shape, width, tile)
    if before < WORTHWHILE * cost:
        return
    if table is not None:
        x = _label_channels(graph, channels)
    elif any(pads):
        x = graph.add("Pad", [x, graph.store([0, 0, *pads[:2], 0, 0, *pads[2:]], "safron_pads")])
    _emit_frequencies(graph, x, kernel, bias, width=width, tile=tile, output=node.output[0])
    size = "x".join(str(side) for side in kernel.shape[2:])
    graph.replace(
        node,
        f"{size} convolution by {tile}-column spectra: {before} to {round(cost)} multiply-adds per value",
    )


def _cost(kernel: tuple[int, ...], width: int, tile: int) -> float:
    """Return the multiply-adds for one pixel of one output channel."""
    _, channels, rows, columns = kernel
    strips = math.ceil(width / tile)
    frequencies = (tile + columns - 1) // 2 + 1
    return (4 * channels * rows * frequencies * strips + 2 * frequencies * width) / width


def _emit_frequencies(
    graph: _Graph, x: str, kernel: Float64, bias: Float64, *, width: int, tile: int, output: str
) -> None:
    """Emit the product of spectra; see the formula in the module's docstring.

    Parameters
    ----------
    x
        Tensor [N, C, y, x], padded as needed.
    kernel
        [O, C, ky, kx], correlated with x.
    width, tile
        Output columns, of the image and of a strip.
    output
        Name of the result [N, O, y - ky + 1, width].
    """
    outputs, channels, rows, columns = kernel.shape
    length = tile + columns - 1
    forward, inverse = _transforms(length, tile)
    count = forward.shape[0]
    weight = graph.store(_spectral_kernel(kernel, length), "safron_spectrum")
    offsets = np.zeros((count, 2, outputs))
    offsets[0, 0] = bias * length  # the inverse divides frequency 0 by the length
    offset = graph.store(offsets.reshape(-1), "safron_offset")
    split = graph.store([0, channels, -1, count, 2], "safron_shape")
    grouped = graph.store([0, count * 2 * channels, 1, -1], "safron_shape")
    flat = graph.store([0, count * 2, -1], "safron_shape")
    axis = graph.store([3], "safron_axis")
    strips = []
    for start in range(0, width, tile):
        part = min(tile, width - start)
        reach = part + columns - 1  # a narrower last strip counts as one that ends in zeros
        strip = graph.add(
            "Slice",
            [x, graph.store([start], "safron_start"), graph.store([start + reach], "safron_stop"), axis],
        )
        into = graph.store(forward[:, :, :reach].reshape(count * 2, reach).T, "safron_forward")
        spectrum = graph.add("Reshape", [graph.add("MatMul", [strip, into]), split])
        # [N, C, y, k, 2] -> [N, k, C, 2, y]: the channels of a group are those of one frequency.
        spectrum = graph.add("Reshape", [graph.add("Transpose", [spectrum], perm=[0, 3, 1, 4, 2]), grouped])
        spectrum = graph.add("Conv", [spectrum, weight, offset], group=count, kernel_shape=[1, rows])
        # Products of the picture's rows with M: ONNX Runtime fuses the transposition into the product.
        spectrum = graph.add("Transpose", [graph.add("Reshape", [spectrum, flat])], perm=[0, 2, 1])
        back = graph.store(inverse[:, :, :part].reshape(count * 2, part), "safron_inverse")
        product = graph.add("MatMul", [spectrum, back])
        strips.append(graph.add("Reshape", [product, graph.store([0, outputs, -1, part], "safron_shape")]))
    graph.add("Concat", strips, output, axis=3)


def _transforms(length: int, tile: int) -> tuple[Float64, Float64]:
    """Return real transforms: [frequency, (re, im), column] forward, and back to the first `tile` columns."""
    frequency = np.arange(length // 2 + 1)
    forward_angle = 2 * np.pi * np.outer(frequency, np.arange(length)) / length
    forward = np.stack([np.cos(forward_angle), -np.sin(forward_angle)], axis=1)
    # Every frequency except 0 and the middle one also stands for its mirror image.
    scale = np.where((frequency == 0) | (2 * frequency == length), 1.0, 2.0) / length
    return forward, forward[:, :, :tile] * scale[:, None, None]


def _spectral_kernel(kernel: Float64, length: int) -> Float64:
    """Return the weights of the grouped convolution, [k 2 O, 2 C, 1, ky]: complex products in real numbers."""
    _, channels, rows, columns = kernel.shape
    angle = 2 * np.pi * np.outer(np.arange(length // 2 + 1), np.arange(columns)) / length
    real = np.einsum("ocyx,kx->kocy", kernel, np.cos(angle))
    imaginary = np.einsum("ocyx,kx->kocy", kernel, np.sin(angle))  # conjugate: a correlation
    products = np.array([[real, -imaginary], [imaginary, real]])  # [out, in, k, O, C, ky]
    return products.transpose(2, 0, 3, 4, 1, 5).reshape(-1, 2 * channels, 1, rows)


# -- the input of a convolution as a function of the label -------------------------------------------------------


def _label_table(graph: _Graph, name: str) -> Float64 | None:
    """Return the channels of tensor `name` for each label, float64 [labels, C]; None if it depends on more than the label."""
    nodes = _pointwise_ancestors(graph, name)
    if not nodes or len(graph.label_values) < 2:
        return None
    import onnx
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    used = {entry for node in nodes for entry in node.input}
    part = helper.make_graph(
        nodes,
        "pointwise",
        [helper.make_tensor_value_info("labels", onnx.TensorProto.UINT8, ["n", "y", "x"])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)],
        [tensor for tensor in graph.model.graph.initializer if tensor.name in used],
    )
    evaluator: Any = ReferenceEvaluator(helper.make_model(part, opset_imports=graph.model.opset_import))
    values = np.array(graph.label_values, np.uint8)
    try:
        single = np.asarray(evaluator.run(None, {"labels": values[:, None, None]})[0])
        indices = np.random.default_rng(0).integers(0, len(values), (2, 5, 7))
        image = np.asarray(evaluator.run(None, {"labels": values[indices]})[0])
    except Exception:  # the evaluator fails in many ways on graphs that are not a function of the label
        return None
    if single.shape[2:] != (1, 1) or image.shape != (2, single.shape[1], 5, 7):
        return None
    table = single[:, :, 0, 0]
    return table.astype(np.float64) if np.array_equal(image, table[indices].transpose(0, 3, 1, 2)) else None


def _pointwise_ancestors(graph: _Graph, name: str) -> list[onnx.NodeProto]:
    """Return the nodes between ``labels`` and `name` in order; empty if one is not pointwise or has another input."""
    found: dict[str, onnx.NodeProto] = {}
    waiting, reached = [name], False
    while waiting:
        tensor = waiting.pop()
        node = graph.makers.get(tensor)
        if node is None:
            if tensor and tensor != "labels" and graph.constant(tensor) is None:
                return []
            reached |= tensor == "labels"
            continue
        small = node.op_type == "Conv" and set(_attributes(node).get("kernel_shape", [0])) == {1}
        if not small and node.op_type not in POINTWISE | {"Constant", "Identity"}:
            return []
        found[node.output[0]] = node
        waiting += node.input
    return [node for node in graph.nodes if node.output and node.output[0] in found] if reached else []


def _directions(table: Float64) -> tuple[Float64, Float64]:
    """Factorize the table with as few channels as possible.

    Parameters
    ----------
    table
        [labels, C].

    Returns
    -------
    tuple[Float64, Float64]
        [labels, r], r at most labels - 1; if r has this size, 0 and 1 only. directions : [r, C], with
        ``table == table[0] + channels @ directions``.
    """
    steps = table - table[0]
    left, sizes, right = np.linalg.svd(steps[1:], full_matrices=False)
    rank = int((sizes > 1e-9 * max(1.0, sizes[0])).sum())
    if rank == len(steps) - 1:
        return np.eye(len(steps), dtype=np.float64)[:, 1:], steps[1:]
    channels = np.zeros((len(steps), rank))
    channels[1:] = left[:, :rank] * sizes[:rank]
    return channels, right[:rank]


def _label_channels(graph: _Graph, channels: Float64) -> str:
    """Emit the channels of the labels: float32 [N, r, y, x]."""
    import onnx
    from onnx import numpy_helper

    labels = graph.add("Unsqueeze", ["labels", graph.store([1], "safron_axis")])
    labels = graph.add("Cast", [labels], to=onnx.TensorProto.INT32)
    name = graph.fresh("safron_values")
    values = np.array(graph.label_values[1:], np.int32).reshape(1, -1, 1, 1)
    graph._initializers.append(numpy_helper.from_array(values, name))
    one_hot = graph.add("Cast", [graph.add("Equal", [labels, name])], to=onnx.TensorProto.FLOAT)
    mixed = channels[1:].T
    if np.array_equal(mixed, np.eye(len(mixed))):
        return one_hot
    return graph.add(
        "Conv", [one_hot, graph.store(mixed[:, :, None, None], "safron_channels")], kernel_shape=[1, 1]
    )


# -- a transposed convolution by phases --------------------------------------------------------------------------


def _by_phases(graph: _Graph, node: onnx.NodeProto) -> None:
    """Replace a transposed convolution that enlarges its input by a whole number."""
    weights = _weights(graph, node, 1)
    settings = _attributes(node)
    strides, pads = settings.get("strides", [1, 1]), settings.get("pads", [0, 0, 0, 0])
    shape = graph.shape(node.input[0])
    plain = settings.get("group", 1) == 1 and settings.get("auto_pad", b"NOTSET") == b"NOTSET"
    if weights is None or not plain or "output_shape" in settings or {*settings.get("dilations", ())} - {1}:
        return
    kernel, bias = weights
    if len(shape) != 4 or shape[2] is None or shape[3] is None or min(shape[2], shape[3]) < SMALL:
        return
    extra = settings.get("output_padding", [0, 0])
    grows = all(
        kernel.shape[2 + axis] - pads[axis] - pads[2 + axis] + extra[axis] == strides[axis] for axis in (0, 1)
    )
    rows, columns = (_phases(kernel.shape[2 + axis], strides[axis], pads[axis]) for axis in (0, 1))
    if not grows or max(strides) < 2 or kernel.shape[1] % CHANNEL_BLOCK or rows is None or columns is None:
        return
    norm, output = _norm_behind(graph, node)
    if norm is not None:
        scale, shift = norm
        kernel, bias = kernel * scale[:, None, None], bias * scale + shift
    width = shape[3] * strides[1]
    _emit_phases(graph, node.input[0], kernel, bias, (rows, columns), width=width, output=output)
    behind = [] if norm is None else graph.users[node.output[0]]
    size = "x".join(str(side) for side in kernel.shape[2:])
    graph.replace(
        node,
        f"{size} transposed convolution of {kernel.shape[0]} channels by {strides[0] * strides[1]} phases",
        also=behind,
    )


@dataclass(frozen=True)
class _Phase:
    """One phase along one axis.

    Attributes
    ----------
    taps
        Taps that it uses, in the order of their input pixels.
    before, behind
        Input pixels that they reach before and behind the phase's own input pixel.
    """

    taps: list[int]
    before: int
    behind: int


def _phases(taps: int, stride: int, pad: int) -> list[_Phase] | None:
    """Return all phases of an axis; None if one of them does not use its own input pixel.

    Input pixel i contributes to output pixel ``stride * i - pad + tap``.
    """
    found = []
    for phase in range(stride):
        mine = sorted((tap for tap in range(taps) if (tap - phase - pad) % stride == 0), reverse=True)
        steps = [(phase + pad - tap) // stride for tap in mine]
        if not mine or not steps[0] <= 0 <= steps[-1]:
            return None
        found.append(_Phase(mine, -steps[0], steps[-1]))
    return found


def _norm_behind(graph: _Graph, node: onnx.NodeProto) -> tuple[tuple[Float64, Float64] | None, str]:
    """Return scale and shift of a batch norm that is the only user of `node`, and the name of the last output."""
    users = graph.users.get(node.output[0], [])
    is_result = node.output[0] in {entry.name for entry in graph.model.graph.output}
    if len(users) != 1 or users[0].op_type != "BatchNormalization" or len(users[0].output) != 1 or is_result:
        return None, node.output[0]
    settings = _attributes(users[0])
    values = [graph.constant(name) for name in users[0].input[1:]]
    if settings.get("training_mode", 0) or any(value is None for value in values):
        return None, node.output[0]
    gain, shift, mean, variance = (np.asarray(value, np.float64) for value in values)
    scale = gain / np.sqrt(variance + settings.get("epsilon", 1e-5))
    return (scale, shift - mean * scale), users[0].output[0]


def _emit_phases(
    graph: _Graph,
    x: str,
    kernel: Float64,
    bias: Float64,
    phases: tuple[list[_Phase], list[_Phase]],
    *,
    width: int,
    output: str,
) -> None:
    """Emit one convolution per phase and interleave them; kernel [C, O, ky, kx] as in ConvTranspose."""
    offset = graph.store(bias, "safron_offset")
    last, across = graph.store([4], "safron_axis"), graph.store([0, 0, 0, 1, -1], "safron_shape")
    rows = []
    for row in phases[0]:
        pieces = []
        for column in phases[1]:
            part = kernel[:, :, row.taps][:, :, :, column.taps].transpose(1, 0, 2, 3)
            weight = graph.store(part, "safron_phase")
            pads = [row.before, column.before, row.behind, column.behind]
            piece = graph.add("Conv", [x, weight, offset], kernel_shape=list(part.shape[2:]), pads=pads)
            pieces.append(graph.add("Unsqueeze", [piece, last]))
        rows.append(graph.add("Reshape", [graph.add("Concat", pieces, axis=4), across]))
    interleaved = graph.add("Concat", rows, axis=3)
    graph.add("Reshape", [interleaved, graph.store([0, 0, -1, width], "safron_shape")], output)
