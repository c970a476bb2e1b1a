"""Does the generator run, always with the same bits, at which batch size, and how much memory does it keep?"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.system.memory import resident_bytes
from safron.io.errors import BadInput, Failed

from .halving import in_halves, is_out_of_memory
from .made_up import made_up_inputs
from .model import GeneratorInfo, PatchModel
from .onnx_model import OnnxModel
from .planes import Inputs, call_with, each
from .same_bits import find_shapes
from .two_sizes import check_sizes
from .whole_numbers import check_whole_numbers

log = logging.getLogger("safron")

GPU_BATCH = 32
# Calls at a time on a GPU, see `safron.engine.execution.device_queue`.
GPU_CALLS = 2
# Patches that a worker on a CPU holds at a time, where the generator takes any number.
CPU_BATCH = 8


def choose_batch(batch: int | None, info: GeneratorInfo) -> int:
    """Return the batch size: as given, else what suits the device."""
    usual = GPU_BATCH if info.on_gpu else CPU_BATCH if info.batch_invariant else 1
    return usual if batch is None else batch


@dataclass(frozen=True)
class WarmUp:
    """What the first calls of the generator showed.

    Attributes
    ----------
    info
        Of the generator, with what was seen of batches.
    batch
        Batch size that the device has memory for.
    added_bytes
        Memory that the first calls took: for the libraries that they load, and for a call.
    more_bytes
        Memory that each call takes which runs at the same time.
    patch_seconds
        Time of one patch while nothing else is generated.
    core_seconds
        CPU time of one patch, which other programs change little; on a GPU its time.
    """

    info: GeneratorInfo
    batch: int
    added_bytes: int
    more_bytes: int
    patch_seconds: float
    core_seconds: float

    def bytes_of(self, calls: int) -> int:
        """Return what so many calls at a time take."""
        return self.added_bytes + (calls - 1) * self.more_bytes


def warm_up(model: PatchModel, info: GeneratorInfo, plan: RenderPlan, *, joining: bool = False) -> WarmUp:
    """Run the generator on labels as if at random.

    A generator that cannot run, that returns the wrong shape or NaN, or that returns something else for the same input
    is found here and not hours later. A batch that a GPU has no memory for is halved, once.

    Parameters
    ----------
    model, info
        The generator.
    plan
        Of the render.
    joining
        Whether several patches may go into one call on a CPU.

    Raises
    ------
    BadInput
        What the generator says where it fails.
    """
    before = resident_bytes()
    try:
        if not info.on_gpu:
            (seconds, cores), alone = _run_twice(model, info, plan)
            info = find_shapes(model, info, plan, alone, joining=joining)
            added = max(0, resident_bytes() - before)
            return WarmUp(info, plan.batch, added, added, seconds, cores)
        batch = plan.batch
        try:
            info, seconds, one_call = _rehearse(model, info, plan, batch)
        except Exception as error:
            if not is_out_of_memory(error) or batch < 2:
                raise
            batch = -(-batch // 2)
            info, seconds, one_call = _rehearse(model, info, plan, batch)
    except Failed as error:  # nothing has begun yet: it is what was asked for that does not work
        raise BadInput(str(error)) from error
    more = max(0, resident_bytes() - one_call)
    return WarmUp(info, batch, max(0, one_call - before), more, seconds, seconds)


def _rehearse(
    model: PatchModel, info: GeneratorInfo, plan: RenderPlan, batch: int
) -> tuple[GeneratorInfo, float, int]:
    """Compare batches, and run as many side by side as a render does.

    Returns
    -------
    tuple[GeneratorInfo, float, int]
        What stays the same, the seconds of a patch, and resident bytes before two calls ran at the same time.
    """
    info, seconds = _compare_batches(model, info, plan, batch)
    alone, inputs = resident_bytes(), made_up_inputs(info, plan, batch)
    with ThreadPoolExecutor(GPU_CALLS, "safron-warm-up") as threads:
        list(threads.map(lambda _: call_with(model, inputs), range(GPU_CALLS)))
    return info, seconds, alone


def _run_twice(
    model: PatchModel, info: GeneratorInfo, plan: RenderPlan
) -> tuple[tuple[float, float], npt.NDArray[Any]]:
    """Generate the same patches twice, or as often as calls run at a time, which shows what memory they keep.

    Returns the seconds and the CPU seconds of one patch, and the patches.
    """
    times: list[float] = []
    began = time.process_time()

    def call() -> npt.NDArray[Any]:
        start = time.perf_counter()
        made = call_with(model, inputs)
        times.append((time.perf_counter() - start) / len(made))
        return made

    if info.batch_invariant and info.per_call is None:  # one call of two patches that are alike
        inputs = each(made_up_inputs(info, plan, 1), [0, 0])
        first, *others = call()
    else:
        inputs = made_up_inputs(info, plan, info.per_call or plan.batch)
        with ThreadPoolExecutor(info.calls or 1) as threads:
            count = max(2, min(info.calls or 1, plan.batch))
            first, *others = threads.map(lambda _: call(), range(count))
    cores = (time.process_time() - began) / (len(times) * len(inputs["labels"]))
    if not all(np.array_equal(first, other) for other in others):
        raise BadInput(
            f"generator {info.card.name!r} returned other pixels for the same input, so no render could be continued or "
            "repeated; export it for inference, without dropout and random operators"
        )
    if isinstance(model, OnnxModel):
        check_sizes(model, inputs, first)
        check_whole_numbers(model, inputs, first)
    return (min(times), cores), first


def _compare_batches(
    model: PatchModel, info: GeneratorInfo, plan: RenderPlan, batch: int
) -> tuple[GeneratorInfo, float]:
    """Run a batch whole, again, in halves, and its patches elsewhere beside others.

    Returns what stays the same, and the seconds of one patch.
    """
    inputs = made_up_inputs(info, plan, batch)
    whole = call_with(model, inputs)
    start = time.perf_counter()
    again = call_with(model, inputs)
    seconds = (time.perf_counter() - start) / batch
    if isinstance(model, OnnxModel):
        check_sizes(model, inputs, whole)
    if not np.array_equal(whole, again):
        log.warning(
            "%s: generator %r returned other bits for the same input: another run will differ in its last bits",
            info.device,
            info.card.name,
        )
    if batch < 2:
        return info, seconds
    info = replace(
        info,
        same_halves=np.array_equal(whole, call_with(partial(in_halves, model), inputs)),
        same_places=all(_is_same_elsewhere(model, whole, inputs, first) for first in (0, 1)),
    )
    return info, seconds


def _is_same_elsewhere(model: PatchModel, whole: npt.NDArray[Any], inputs: Inputs, first: int) -> bool:
    """Whether every other patch gives the same a place further, from place `first` on, beside patches of one label.

    Those neighbours have another range and another mean, which a generator that scales by its batch would show.
    """
    kept = np.arange(first, len(whole), 2)
    there = {name: np.zeros_like(values) for name, values in inputs.items()}
    there["labels"][:] = inputs["labels"].min()
    for name, values in inputs.items():
        there[name][kept] = values[kept - 1]
    return np.array_equal(call_with(model, there)[kept], whole[kept - 1])
