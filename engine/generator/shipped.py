"""Which generators ship with the package?"""

from __future__ import annotations

from pathlib import Path

MODELS = Path(__file__).parent / "models"


def model_names() -> list[str]:
    """Names that `load_model` knows besides files."""
    return ["identity", *sorted(path.stem for path in MODELS.glob("*.onnx"))]
