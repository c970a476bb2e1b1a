"""What does a sampler's running picture look like, while it is still noisy?

Shown is xt, the picture with the noise that is left in it, as the last passes stored it in scratch: of each place the newest part that
is there. Where few pixels are shown of many, they come from what each block left beside its part of the picture, one pixel of so many.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from safron.engine.generator.sampler import Sampler
from safron.engine.plan.window import Window
from safron.io.errors import Failed

from .arrays import Scratch, recorded

UInt8 = npt.NDArray[np.uint8]


class RunningCanvas:
    """The running picture of a sampler.

    Parameters
    ----------
    scratch
        Of the render.
    sampler
        As `safron.engine.plan.render_plan.Passes.content` has it, in JSON.
    height, width
        Of the slide in pixels.
    """

    def __init__(self, scratch: Scratch, sampler: str, height: int, width: int) -> None:
        self._scratch, self._shape = scratch, (height, width)
        self._step = msgspec.json.decode(sampler, type=Sampler).step(0)

    def read(self, window: Window, level: int, *, most: int | None = None) -> tuple[UInt8, UInt8] | None:
        """Show a part; None if nothing of it is stored.

        Parameters
        ----------
        window
            Pixels of the level.
        level
            Each pixel stands for 2 ** level pixels of the slide along an axis, and shows one near their middle.
        most
            Largest number of chunks that are read of a pass; where it takes more, nothing is shown.

        Returns
        -------
        tuple[UInt8, UInt8] or None
            RGB [window.height, window.width, 3], and where it is known: 255, elsewhere 0, [window.height, window.width].
        """
        rgb = np.zeros((window.height, window.width, 3), np.uint8)
        there = np.zeros((window.height, window.width), np.uint8)
        steps = (
            int(path.name) for path in (self._scratch.path / "passes").glob("*") if path.name.isdecimal()
        )
        for step in sorted(steps)[-2:]:  # the later one last, above the other
            try:
                self._draw(self._scratch.of_pass(step), window, level, rgb, there, most)
            except (OSError, ValueError):  # deleted at this moment, or damaged
                continue
        return (rgb, there) if there.any() else None

    def _draw(
        self, scratch: Scratch, window: Window, level: int, rgb: UInt8, there: UInt8, most: int | None
    ) -> None:
        _, height, width = scratch.state.shape
        # Where in the running picture, which may have another pixel size, the pixels of the level lie.
        rows, columns = (
            np.minimum(((np.arange(start, stop) + 0.5) * 2**level * have / side).astype(np.int64), have - 1)
            for start, stop, have, side in (
                (window.y, window.y_stop, height, self._shape[0]),
                (window.x, window.x_stop, width, self._shape[1]),
            )
        )
        coarse, load, size = recorded(scratch.path).get("glimpse", 0), self._of_state, scratch.state.chunk
        if coarse and 2**level * height >= self._shape[0] << coarse:
            load, (below, right, _) = self._of_blocks, scratch.level(coarse).shape
            size = scratch.level(coarse).chunks[0]
            rows, columns = np.minimum(rows >> coarse, below - 1), np.minimum(columns >> coarse, right - 1)
        downs, rights = _cuts(rows // size), _cuts(columns // size)
        if most is not None and len(downs) * len(rights) > most:
            return
        for (y, mine), (x, across) in product(downs, rights):
            inside = (rows[mine] - y * size)[:, None], columns[across] - x * size
            colors = load(scratch, (y, x), inside)
            if colors is not None:
                rgb[mine, across] = colors
                there[mine, across] = 255

    def _of_state(self, scratch: Scratch, chunk: tuple[int, int], inside: Any) -> UInt8 | None:
        """Read pixels of a chunk of the running picture; None if it is not stored, or no longer."""
        size, (_, *drawn) = scratch.state.chunk, scratch.state.shape
        part = Window(chunk[0] * size, chunk[1] * size, size, size).clip(Window(0, 0, *drawn))
        try:
            values = scratch.state.read(part)
        except Failed:
            return None
        return self._step.colors_of(values[:, *inside].astype(np.float32)).transpose(1, 2, 0)

    def _of_blocks(self, scratch: Scratch, chunk: tuple[int, int], inside: Any) -> UInt8 | None:
        """Read pixels of what a block left beside the running picture; None if it is not stored."""
        try:
            part: UInt8 = scratch.read_part(recorded(scratch.path)["glimpse"], chunk)[inside]
        except (OSError, ValueError, RuntimeError, KeyError):
            return None
        return part


def _cuts(chunks: npt.NDArray[np.int64]) -> list[tuple[int, slice]]:
    """Say which of these rising numbers lie where: each number, and its places."""
    numbers, starts = np.unique(chunks, return_index=True)
    stops = [*starts[1:].tolist(), len(chunks)]
    return [
        (int(number), slice(int(start), stop))
        for number, start, stop in zip(numbers, starts, stops, strict=True)
    ]
