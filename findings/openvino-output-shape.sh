#!/usr/bin/env bash
# ConvTranspose with `output_shape` is moved by one pixel in OpenVINO, and in groups to the other side than without them.
#
# ONNX cuts a transposed convolution to the given shape. Where an odd number of rows is to go, its text says which side loses
# one more: with auto_pad SAME_UPPER the end, else the beginning. OpenVINO takes the wrong side for SAME_UPPER, and with
# groups for all others, so one layer moves the picture by a pixel: kernel 3, stride 2, twice the size is such a case. The
# same weights written with and without groups, which must give the same image, give two.
# Safe: `pads` and `output_padding` instead of `output_shape`, as PyTorch writes them.
#
# Seen on 2026-11-30 with openvino 2026.4.1, against onnxruntime 1.31.0 and the text of ONNX, 4 x 9 x 8, kernel 3, stride 2:
#   18 x 16, NOTSET, no groups: moved by 0, 0 pixels
#   17 x 15, SAME_UPPER, no groups: moved by 0, 0 pixels
#   18 x 16, SAME_UPPER, groups: moved by 0, 0 pixels
#   18 x 16, SAME_UPPER, no groups: moved by -1, -1 pixels
#   18 x 16, NOTSET, groups: moved by 1, 1 pixels
#   18 x 16, SAME_LOWER, groups: moved by 1, 1 pixels
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.31.0 onnx==1.23.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

sys.modules["openvino_telemetry"] = None  # else the import reports to a server
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

print(f"openvino {openvino.__version__.split('-')[0]}, onnxruntime {onnxruntime.__version__}")
CHANNELS, HEIGHT, WIDTH = 4, 9, 8
random = np.random.default_rng(0)
image = random.normal(size=(1, CHANNELS, HEIGHT, WIDTH)).astype(np.float32)
kernels = random.normal(size=(CHANNELS, 3, 3)).astype(np.float32)


def whole():
    """Each channel spread by its kernel with stride 2, nothing cut: 2 (size - 1) + 3 pixels a side."""
    spread = np.zeros((1, CHANNELS, 2 * HEIGHT + 1, 2 * WIDTH + 1), np.float32)
    for y, x, dy, dx in np.ndindex(HEIGHT, WIDTH, 3, 3):
        spread[0, :, 2 * y + dy, 2 * x + dx] += image[0, :, y, x] * kernels[:, dy, dx]
    return spread


def moved(auto_pad, size, *, grouped):
    """Return by how many rows and columns OpenVINO's image is moved."""
    weights = kernels[:, None] if grouped else np.einsum("cd,cyx->cdyx", np.eye(CHANNELS, dtype=np.float32), kernels)
    node = helper.make_node(
        "ConvTranspose",
        ["image", "w"],
        ["out"],
        strides=[2, 2],
        output_shape=size,
        auto_pad=auto_pad,
        group=CHANNELS if grouped else 1,
    )
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image.shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, CHANNELS, *size])],
        [numpy_helper.from_array(np.ascontiguousarray(weights), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    full = whole()
    cut = full.shape[2] - size[0], full.shape[3] - size[1]
    first = [number // 2 if auto_pad == "SAME_UPPER" else number - number // 2 for number in cut]
    places = {
        (y, x): full[:, :, y : y + size[0], x : x + size[1]] for y in range(cut[0] + 1) for x in range(cut[1] + 1)
    }

    def place(found):
        return next((at for at, right in places.items() if np.allclose(found, right, atol=1e-4)), None)

    if place(session.run(None, {"image": image})[0]) != tuple(first):
        sys.exit("changed: onnxruntime differs from the text of ONNX")
    found = place(compiled({"image": image})[0])
    if found is None:
        sys.exit("changed: no part of the whole")
    by = first[0] - found[0], first[1] - found[1]
    print(f"{size[0]} x {size[1]}, {auto_pad}, {'groups' if grouped else 'no groups'}: moved by {by[0]}, {by[1]} pixels")
    return by


TWICE, ODD = (18, 16), (17, 15)
right = [
    moved("NOTSET", TWICE, grouped=False),
    moved("SAME_UPPER", ODD, grouped=False),
    moved("SAME_UPPER", TWICE, grouped=True),
]
wrong = [
    moved("SAME_UPPER", TWICE, grouped=False),
    moved("NOTSET", TWICE, grouped=True),
    moved("SAME_LOWER", TWICE, grouped=True),
]
if any(by != (0, 0) for by in right) or any(by == (0, 0) for by in wrong):
    sys.exit("changed: see the head of this script")
PYTHON
