"""Which generators ship with the package?"""

from __future__ import annotations

from pathlib import Path

MODELS = Path(__file__).parent / "models"

BFLOAT16 = {"safron-seamless": (0.34, 6.0)}
"""Mean and largest difference of bfloat16 from float32, in grey levels, of generators whose cards are older than that field."""


def model_names() -> list[str]:
    """Names that `load_model` knows besides files."""
    return ["identity", *sorted(path.stem for path in MODELS.glob("*.onnx"))]
