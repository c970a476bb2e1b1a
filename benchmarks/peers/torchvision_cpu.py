"""How does torchvision import without CUDA? Its wheels here need CUDA's libraries, and without them it stops at two operators.

Import this before torchvision: it names the two operators, which no peer calls. All else in torchvision is Python.
"""

from __future__ import annotations

import torch

_OPERATORS = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
