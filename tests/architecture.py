"""Which room of the code may use which? One table, for the test and for the picture in docs/architecture.md.

A room is a package, or the modules that lie directly in ``engine`` ("face"), in ``io`` or in ``training``. Rooms on one
floor do not use each other, except `generator`, whose windows are filled with the colours of `blending`'s floor.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = (
    ("engine.viewing",),
    ("engine",),  # the face: commands, render(), reports
    ("engine.virtual",),
    ("engine.preparation", "engine.evaluation", "engine.optimization", "training"),
    ("training.segmentation", "training.layouts"),
    ("training.diffusion",),
    ("training.data", "training.refiner"),
    ("training.config", "training.graphs"),
    ("engine.execution",),
    ("engine.scratch",),
    ("engine.generator", "engine.blending"),
    ("engine.plan",),
    ("engine.stains",),
    ("engine.system",),
    ("io.tiles",),
    ("io.masks", "io.slides", "io.measures"),
    ("io.synthesis",),
    ("io",),
)
"""From the top to the bottom: a module may import from its own room and from lower floors."""

TRAINING = (
    *("training.layouts", "training.diffusion", "training.data", "training.refiner"),
    *("training.config", "training.graphs"),
)
NOT_FOR = {
    "engine": ("engine.evaluation", "engine.optimization", "training", "training.segmentation", *TRAINING),
    "engine.evaluation": ("engine.preparation", "engine.execution", "engine.scratch", *TRAINING),
    "engine.optimization": (
        *("engine.preparation", "engine.execution", "engine.scratch", "training.segmentation"),
        *TRAINING,
    ),
    "engine.preparation": ("training.segmentation", *TRAINING),
    **dict.fromkeys(
        ("training", "training.segmentation", *TRAINING),
        tuple(room for floor in FLOORS for room in floor if "engine" in room),
    ),
}
"""Rooms on lower floors that a room has no business with."""


def floor_of(room: str) -> int:
    """Number of the floor, 0 at the top."""
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def room_of(module: str) -> str:
    """Room of a module or package, such as ``engine.plan`` of ``engine.plan.grid``."""
    known = {room for floor in FLOORS for room in floor}
    parts = module.split(".")
    return next(name for name in (".".join(parts[:end]) for end in (2, 1)) if name in known)


def modules() -> Iterator[tuple[str, Path]]:
    """Names below ``safron.`` of all modules, with their files."""
    for top in ("engine", "io", "training"):
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imports(module: str, file: Path) -> Iterator[str]:
    """Names below ``safron.`` of what a module imports, anywhere in it."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
        elif node.module and node.module.startswith("safron."):
            base = ""
        else:
            continue
        name = ".".join(part for part in (base, (node.module or "").removeprefix("safron.")) if part)
        for alias in node.names:
            yield f"{name}.{alias.name}"
