"""What is a generator tried on before a render?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from safron.engine.plan.render_plan import RenderPlan

from .model import GeneratorInfo
from .planes import Inputs

# Pixels on a side of what has one label: rows of large regions and rows of small ones.
SQUARES = 40, 8


def made_up_inputs(info: GeneratorInfo, plan: RenderPlan, count: int) -> Inputs:
    """Give patches as if at random, of which every second has one label only.

    Patches that are alike would be equal whatever the kernels do, and patches of one label beside those of all show a
    generator that scales by its batch.
    """
    side = plan.grid.tile + 2 * plan.grid.context
    values = np.array([label.value for label in info.card.labels], np.uint8)
    labels, fine = (_squares(values, count, side, square) for square in SQUARES)
    in_part = np.arange(side) // SQUARES[0] % 2 == 0
    labels[:, in_part] = fine[:, in_part]
    labels[1::2] = values.min()
    return {"labels": labels} | {spec.name: spec.made_up(count, side) for spec in plan.planes}


def _squares(values: npt.NDArray[np.uint8], count: int, side: int, square: int) -> npt.NDArray[np.uint8]:
    """Windows of squares, each of one label."""
    across = -(-side // square)
    # A multiplicative hash of the place; NumPy's generators take long to import.
    places = np.arange(count * across * across, dtype=np.uint32) * np.uint32(2654435761)
    few = values[(places >> 16) % len(values)].reshape(count, across, across)
    return np.ascontiguousarray(few.repeat(square, 1).repeat(square, 2)[:, :side, :side])
