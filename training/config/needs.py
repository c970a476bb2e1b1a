"""Is what training needs installed?"""

from __future__ import annotations

import importlib.util

from safron.io.errors import BadInput


def need_torch() -> None:
    """Raise `BadInput` unless PyTorch and what belongs to it are there."""
    for module in ("torch", "onnx", "scipy"):
        if importlib.util.find_spec(module) is None:
            raise BadInput(f"training needs {module}, which is missing; run: pip install 'safron[train]'")
