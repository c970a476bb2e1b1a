"""What does a sampler's running picture look like, while it is still noisy?

Shown is xt, the picture with the noise that is left in it, as the last passes stored it in scratch: of each place the newest chunk that
is there. This process reads what is on screen and as fine as it is shown; the render does nothing for it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from safron.engine.generator.sampler import Sampler
from safron.engine.plan.window import Window
from safron.engine.scratch.arrays import Scratch
from safron.io.errors import Failed

from .pictures import Shown

MOST_CHUNKS = 256
"""Chunks of a tile that is shown; a coarser one, of a large canvas, is left out."""


class RunningCanvas:
    """The running picture of a sampler.

    Parameters
    ----------
    scratch
        Folder of the render.
    sampler
        As `RenderPlan.inputs` has it, in JSON.
    height, width
        Of the slide in pixels.
    """

    def __init__(self, scratch: Path, sampler: str, height: int, width: int) -> None:
        self._scratch, self._shape = Scratch(scratch), (height, width)
        self._step = msgspec.json.decode(sampler, type=Sampler).step(0)

    def read(self, window: Window, level: int) -> Shown | None:
        """Show a tile; None if nothing of it is stored.

        Parameters
        ----------
        window
            Pixels of the level.
        level
            Each pixel stands for 2 ** level pixels of the slide along an axis, and shows the one in their middle.
        """
        rgb = np.zeros((window.height, window.width, 3), np.uint8)
        there = np.zeros((window.height, window.width), np.uint8)
        steps = (
            int(path.name) for path in (self._scratch.path / "passes").glob("*") if path.name.isdecimal()
        )
        for step in sorted(steps)[-2:]:  # the later one last, above the other
            try:
                self._draw(self._scratch.of_pass(step), window, level, rgb, there)
            except OSError:  # deleted at this moment
                continue
        return Shown(rgb, there) if there.any() else None

    def _draw(
        self,
        scratch: Scratch,
        window: Window,
        level: int,
        rgb: npt.NDArray[np.uint8],
        there: npt.NDArray[np.uint8],
    ) -> None:
        size, (_, *drawn) = scratch.state.chunk, scratch.state.shape
        # Where in the running picture, which may have another pixel size, the pixels of the level lie.
        rows, columns = (
            np.minimum(((np.arange(start, stop) + 0.5) * 2**level * have / side).astype(np.int64), have - 1)
            for start, stop, have, side in (
                (window.y, window.y_stop, drawn[0], self._shape[0]),
                (window.x, window.x_stop, drawn[1], self._shape[1]),
            )
        )
        chunks = [
            (int(down), int(right))
            for down in np.unique(rows // size)
            for right in np.unique(columns // size)
        ]
        for down, right in chunks if len(chunks) <= MOST_CHUNKS else ():
            mine = np.flatnonzero(rows // size == down), np.flatnonzero(columns // size == right)
            part = Window(down * size, right * size, size, size).clip(Window(0, 0, *drawn))
            try:
                values = scratch.state.read(part)
            except Failed:  # not stored yet, or no longer
                continue
            inside = np.ix_(rows[mine[0]] - part.y, columns[mine[1]] - part.x)
            picture = values.transpose(1, 2, 0)[inside].astype(np.float32)
            rgb[np.ix_(*mine)] = self._step.colors_of(picture)
            there[np.ix_(*mine)] = 255
