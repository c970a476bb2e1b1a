"""Is what training needs installed?"""

from __future__ import annotations

import importlib.util
import os

from safron.io.errors import BadInput


def need_torch() -> None:
    """Raise `BadInput` unless PyTorch and what belongs to it are there."""
    for module in ("torch", "onnx", "scipy"):
        if importlib.util.find_spec(module) is None:
            raise BadInput(f"training needs {module}, which is missing; run: pip install 'safron[train]'")


def prepare_torch(threads: int | None) -> None:
    """Import PyTorch for a training on so many CPU threads; None leaves their number to PyTorch.

    Raises
    ------
    BadInput
        It is missing.
    """
    need_torch()
    # Read when PyTorch's thread library loads. Threads that spin while they wait made a step six times slower on a machine
    # with other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
