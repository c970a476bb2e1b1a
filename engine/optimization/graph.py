"""How is a part of an ONNX graph replaced by another?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

Float64 = npt.NDArray[np.float64]


@dataclass
class Graph:
    """A graph being rewritten: which node makes each tensor, and what replaces which node."""

    model: onnx.ModelProto
    label_values: tuple[int, ...]
    changes: list[str] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    _new: list[onnx.NodeProto] = field(default_factory=list)
    _replaced: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)

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
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
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
        stored = (*original.graph.initializer, *self.initializers)
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


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    from onnx import helper

    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def weights_of(graph: Graph, node: onnx.NodeProto, outputs_axis: int) -> tuple[Float64, Float64] | None:
    """Return kernel and bias of a two-dimensional convolution if they are constants."""
    weight = graph.constant(node.input[1])
    if weight is None or weight.ndim != 4 or weight.dtype != np.float32:
        return None
    bias: npt.NDArray[Any] | None = np.zeros(weight.shape[outputs_axis])
    if len(node.input) > 2 and node.input[2]:
        bias = graph.constant(node.input[2])
    return None if bias is None else (weight.astype(np.float64), bias.astype(np.float64))
