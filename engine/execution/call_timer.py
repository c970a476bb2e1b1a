"""Does a call of the generator take too long?

A call that hangs cannot be interrupted: it runs in a library, on a CPU or a GPU. So calls are timed from outside, and one
that exceeds ``--patch-timeout`` ends the render.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from safron.engine.generator.model import PatchModel
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.system.failures import Stuck
from safron.engine.system.signals import END_SECONDS, end_within
from safron.io.errors import Failed

Made = TypeVar("Made")


class CallTimer:
    """Times the generator calls of one render in this process.

    Parameters
    ----------
    seconds
        The longest time that a call may take; None times nothing.
    plan
        Names the place of a block.
    """

    def __init__(self, seconds: float | None = None, plan: RenderPlan | None = None) -> None:
        self.seconds = seconds
        self.plan = plan
        # By thread: when its call began; the block of its task.
        self._calls: dict[int, float] = {}
        self._blocks: dict[int, Any] = {}

    def timed(self, model: PatchModel) -> PatchModel:
        """Return the generator with its calls timed."""
        return model if self.seconds is None else _TimedModel(model, self)

    @contextmanager
    def task(self, block: Any) -> Iterator[None]:
        """Run a task of a block in the body."""
        thread = threading.get_ident()
        self._blocks[thread] = block
        try:
            yield
        finally:
            self._blocks.pop(thread, None)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Call the generator in the body."""
        thread = threading.get_ident()
        self._calls[thread] = time.monotonic()
        try:
            yield
        finally:
            self._calls.pop(thread, None)

    def check(self) -> None:
        """Raise `Stuck` if a call has taken too long; a program then ends within seconds, even if the call does not return."""
        if self.seconds is None:
            return
        now = time.monotonic()
        for thread, began in list(self._calls.items()):
            if now - began > self.seconds:
                # A device's own threads have batches of several blocks.
                blocks = [self._blocks[thread]] if thread in self._blocks else [*self._blocks.values()]
                raise ends(Stuck(self._message(now - began, blocks)))

    def _message(self, seconds: float, blocks: list[Any]) -> str:
        places = "; ".join(self._place(block) for block in sorted(blocks)) or "no block"
        return (
            f"--patch-timeout {self.seconds:g}: a call of the generator has taken {seconds:.1f} s, in {places}; finished "
            "blocks are kept, the same command with a longer time or none continues"
        )

    def _place(self, block: Any) -> str:
        if self.plan is None:
            return f"block {block}"
        window = self.plan.block_plan(block).window
        return f"block ({block[0]}, {block[1]}) at x={window.x}, y={window.y}, {window.width} x {window.height} px"


def ends(error: Stuck) -> Stuck:
    """Let this process end with an error soon, if it is a program's own: a thread of it may never end."""
    end_within(END_SECONDS, f"error: {error}", code=error.exit_code)
    return error


class _TimedModel:
    """A generator whose calls are timed."""

    def __init__(self, model: PatchModel, timer: CallTimer) -> None:
        self.card, self.sha256, self.device = model.card, model.sha256, model.device
        self._model, self._timer = model, timer

    def __call__(
        self,
        labels: npt.NDArray[np.uint8],
        noise: npt.NDArray[np.float32] | None = None,
        **planes: npt.NDArray[Any],
    ) -> npt.NDArray[Any]:
        """Run a batch; see `PatchModel`."""
        with self._timer.call():
            return self._model(labels, noise, **planes)


def first_call(call: Callable[[], Made], seconds: float | None) -> Made:
    """Run the warm-up of a generator in a thread, so that this one can be interrupted meanwhile.

    Raises
    ------
    Stuck
        It takes longer than `seconds`.
    Exception
        The warm-up raised it.
    """
    made: list[Made] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            made.append(call())
        except BaseException as error:
            errors.append(error)

    # A daemon: it may never end.
    thread = threading.Thread(target=run, name="safron-warm-up", daemon=True)
    began = time.monotonic()
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        if seconds is not None and thread.is_alive() and time.monotonic() - began > seconds:
            raise ends(
                Stuck(
                    f"--patch-timeout {seconds:g}: the first call of the generator has taken "
                    f"{time.monotonic() - began:.1f} s; nothing was begun; give a longer time or none"
                )
            )
    if errors:
        raise errors[0]
    if not made:
        raise Failed("the warm-up of the generator ended without a result")
    return made[0]
