"""Which parts of a generator stay in float32 where the rest is computed in bfloat16?

The convolution that reads the guides, and the one after it. Guides are distances in pixels, of which bfloat16 keeps eight bits: in
`safron-tissue` single pixels were 31 grey levels off. Now none is by more than 12, for an eighth more time (``benchmarks/LOG.md``).

OpenVINO has a mark for such nodes, which Python can set only in its own file format.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np

PASSING = {"Convert", "Concat", "Clamp"}
"""What hands values on as they are."""
POINTWISE = {"Add", "Multiply", "PRelu", "Relu", "Clamp", "Sigmoid", "Tanh", "Convert"}
"""What may stand between two convolutions."""


def keep_guides_exact(core: Any, model: Any) -> Any:
    """Mark the convolutions that read guides, and those that read their results.

    Parameters
    ----------
    core
        OpenVINO's.
    model
        An `openvino.Model`; it is not changed.

    Returns
    -------
    Any
        The model, or a copy with marks.
    """
    import openvino

    first = [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Convolution" and _reads_guides(node.input_value(0))
    ]
    found = [
        node for node in (*first, *(later for node in first for later in _after(node))) if _is_alone(node)
    ]
    names = {node.get_friendly_name() for node in found}
    if not names:
        return model
    with TemporaryDirectory() as folder:
        graph, weights = Path(folder) / "model.xml", Path(folder) / "model.bin"
        openvino.serialize(model, str(graph), str(weights))
        tree, values = ElementTree.parse(graph), np.fromfile(weights, np.uint8)
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") in names:
            about = layer.find("rt_info")
            about = ElementTree.SubElement(layer, "rt_info") if about is None else about
            ElementTree.SubElement(about, "attribute", name="precise", version="0")
    return core.read_model(ElementTree.tostring(tree.getroot()), openvino.Tensor(values))


def _reads_guides(source: Any) -> bool:
    """Whether a value is an input "guides", or has it in it unchanged."""
    node = source.get_node()
    if node.get_type_name() == "Parameter":
        return "guides" in source.get_names()
    return node.get_type_name() in PASSING and any(
        _reads_guides(node.input_value(index)) for index in range(node.get_input_size())
    )


def _after(node: Any) -> list[Any]:
    """Return the convolutions that read a node's result, changed pixel by pixel at most."""
    users = [target.get_node() for target in node.output(0).get_target_inputs()]
    found = [user for user in users if user.get_type_name() == "Convolution"]
    return found + [conv for user in users if user.get_type_name() in POINTWISE for conv in _after(user)]


def _is_alone(conv: Any) -> bool:
    """Whether no other image is added to its result: OpenVINO loses the shape of such a sum if one of the two is marked."""
    node = conv
    for _ in range(2):  # the bias, and what follows it
        users = [target.get_node() for target in node.output(0).get_target_inputs()]
        users = [user for user in users if user.get_type_name() != "ShapeOf"]
        if len(users) != 1:
            return False
        before, node = node, users[0]
        sources = (node.input_value(index).get_node() for index in range(node.get_input_size()))
        if any(
            _is_image(source)
            for source in sources
            if source.get_friendly_name() != before.get_friendly_name()
        ):
            return False
        if node.get_type_name() != "Add":
            return True
    return True


def _is_image(node: Any) -> bool:
    """Whether a node depends on the values of an input."""
    kind = str(node.get_type_name())
    if kind in ("Parameter", "Constant", "ShapeOf"):
        return kind == "Parameter"
    return any(_is_image(node.input_value(index).get_node()) for index in range(node.get_input_size()))
