"""Which generators ship with the package?"""

from __future__ import annotations

from pathlib import Path

MODELS = Path(__file__).parent / "models"
CPU_FORMS = MODELS / "cpu"
"""Graphs that give the same bits in less time on a CPU, of the same names; `safron.engine.optimization.packing` makes them."""

BFLOAT16 = {"safron-seamless": (0.34, 6.0), "safron-tissue": (0.31, 9.0)}
"""Mean and largest difference of bfloat16 from float32, in grey levels, of generators whose cards do not say it."""


def model_names() -> list[str]:
    """Names that `load_model` knows besides files."""
    return ["identity", *sorted(path.stem for path in MODELS.glob("*.onnx"))]


def cpu_form(path: Path) -> Path:
    """Return the graph that ONNX Runtime runs on a CPU in place of this one."""
    form = CPU_FORMS / path.name
    return form if path.parent == MODELS and form.is_file() else path
