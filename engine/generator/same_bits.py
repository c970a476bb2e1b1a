"""Does a patch have the same bits in a window of another shape than its own?

Where it has, less is computed twice. Some patches lie in one wide window (`safron.engine.execution.joined_patches`), and a
patch is generated without the rows and columns that it shares with patches before it (`safron.engine.execution.shared_pixels`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.plan.render_plan import RenderPlan

from .made_up import made_up_inputs
from .model import GeneratorInfo, PatchModel
from .planes import Inputs, call_with

# Patches side by side in one call; more of them leave more patches over. Renders of fewer than FEW patches gain less than the
# trial takes.
JOINED, FEW = 2, 100


def find_shapes(
    model: PatchModel, info: GeneratorInfo, plan: RenderPlan, alone: npt.NDArray[Any], *, joining: bool
) -> GeneratorInfo:
    """Try the shapes that are of use for a render on a CPU.

    Parameters
    ----------
    model, info
        The generator.
    plan
        Of the render.
    alone
        [1, T, T, C]: what it made of `made_up_inputs`.
    joining
        Whether several patches may go into one call.
    """
    card, stride, multiple = info.card, plan.grid.columns.stride, info.card.tile_multiple
    plain = info.per_call == 1 and card.adapter is None and card.sampler is None
    if plan.patches < FEW or not plain or not multiple or stride % multiple or stride % card.alignment:
        return info
    shared = _shares(model, info, plan, alone)
    joined = JOINED if joining and _are_same_joined(model, info, plan, shared=shared) else 1
    return replace(info, shared=shared, joined=joined)


def without(inputs: Inputs, top: int, left: int) -> Inputs:
    """Leave out the first rows and columns of windows."""
    return {
        name: np.ascontiguousarray(values[..., top:, left:]) if values.ndim > 2 else values
        for name, values in inputs.items()
    }


def _shares(model: PatchModel, info: GeneratorInfo, plan: RenderPlan, alone: npt.NDArray[Any]) -> bool:
    """Whether what is left of a patch without its overlap is the same in the smaller window."""
    shared = plan.grid.overlap
    if not shared or shared % info.card.alignment:
        return False
    inputs = made_up_inputs(info, plan, 1)
    return all(
        np.array_equal(call_with(model, without(inputs, top, left)), alone[:, top:, left:])
        for top, left in ((shared, shared), (shared, 0), (0, shared))
    )


def _are_same_joined(model: PatchModel, info: GeneratorInfo, plan: RenderPlan, *, shared: bool) -> bool:
    """Whether patches side by side are the same in one wide window, whole and, where they are `shared`, without their overlap."""
    grid, planar = plan.grid, {"labels", "noise", "style"}
    if not getattr(model, "may_join", False) or not planar.issuperset(spec.name for spec in plan.planes):
        return False
    stride, reach, side = (
        grid.columns.stride,
        (JOINED - 1) * grid.columns.stride,
        grid.tile + 2 * grid.context,
    )
    large = made_up_inputs(info, replace(plan, grid=replace(grid, tile=grid.tile + reach)), 1)
    wide = {name: values[..., :side, :] if values.ndim > 2 else values for name, values in large.items()}
    whole = call_with(model, wide)
    for x in range(0, reach + 1, stride):
        alone = {
            name: values[..., x : x + side] if values.ndim > 2 else values for name, values in wide.items()
        }
        if not np.array_equal(call_with(model, alone), whole[:, :, x : x + grid.tile]):
            return False
    rest = grid.overlap
    return not shared or np.array_equal(call_with(model, without(wide, rest, rest)), whole[:, rest:, rest:])
