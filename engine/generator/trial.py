"""Does the generator run, at which batch size, and how much memory does it keep?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.system.memory import resident_bytes, usable_cores
from safron.io.errors import BadInput, Failed

from .halving import Halving, is_out_of_memory
from .model import PatchModel, runs_apart

GPU_BATCH = 32
# Enough for one worker to keep many cores busy; a CPU runs patches apart, and gains nothing else by it.
CPU_BATCH = 8


def choose_batch(batch: int | None, model: PatchModel) -> int:
    """Patches a call: as given, else what suits the device."""
    usual = GPU_BATCH if model.device.startswith("cuda") else CPU_BATCH if runs_apart(model) else 1
    return usual if batch is None else batch


@dataclass(frozen=True)
class Trial:
    """What one call of the generator showed: patches a call that it takes, and memory that it keeps."""

    batch: int
    added_bytes: int


def try_model(model: PatchModel, plan: RenderPlan) -> Trial:
    """Run the generator once on an arbitrary label.

    A generator that cannot run, or returns the wrong shape or NaN, is found here and not hours later; a batch
    that a GPU has no memory for is halved, once.

    Raises
    ------
    BadInput
        What the generator says where it fails.
    """
    before = resident_bytes()
    try:
        try:
            if runs_apart(model):  # as many as run at a time show all that there is to see
                _try_batch(model, plan, min(plan.batch, usable_cores()))
                batch = plan.batch
            else:
                batch = _try_batch(model, plan, plan.batch)
        except Exception as error:
            if not (isinstance(model, Halving) and is_out_of_memory(error) and plan.batch > 1):
                raise
            batch = _try_batch(model, plan, -(-plan.batch // 2))
    except Failed as error:  # nothing has begun yet: it is what was asked for that does not work
        raise BadInput(str(error)) from error
    return Trial(batch, max(0, resident_bytes() - before))


def _try_batch(model: PatchModel, plan: RenderPlan, batch: int) -> int:
    side, channels = plan.grid.tile + 2 * plan.grid.context, len(plan.noise_scales)
    values, shape = [label.value for label in model.card.labels], (batch, channels, side, side)
    if isinstance(model, Halving):
        # Batches are compared: patches that are alike would be equal whatever the kernels do, and patches of one label beside
        # those of all show a generator that scales by its batch.
        random = np.random.default_rng(0)
        labels = random.choice(np.array(values, np.uint8), (batch, side, side))
        labels[1::2] = min(values)
        model.rehearse(labels, random.standard_normal(shape, np.float32) if channels else None)
    else:
        labels = np.full((batch, side, side), values[0], np.uint8)
        model(labels, np.zeros(shape, np.float32) if channels else None)
    return batch
