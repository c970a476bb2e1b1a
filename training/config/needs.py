"""What does a command that trains need, and what is left when it is interrupted?"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from safron.io.console import say_if_interrupted
from safron.io.errors import BadInput


def need_torch() -> None:
    """Raise `BadInput` unless PyTorch and what belongs to it are there."""
    for module in ("torch", "onnx", "scipy"):
        if importlib.util.find_spec(module) is None:
            raise BadInput(f"training needs {module}, which is missing; run: pip install 'safron[train]'")


def leaves_checkpoint(checkpoint: Path) -> None:
    """Let the line after Ctrl-C say whether there is a checkpoint to resume from."""
    say_if_interrupted(
        lambda: (
            "checkpoints are kept, --resume continues from the last"
            if checkpoint.exists()
            else "nothing was trained yet"
        )
    )
