"""What does a pass of a sampler read and do that an ordinary render does not?

It reads the running picture under its patches, and when all predictions of a block are averaged, every pixel takes the
step. Beyond its edges the running picture is mirrored, so that a generator finds there what it was trained on: a picture
with as much noise as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import lcm
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.blending.dense import DenseSums
from safron.engine.generator.noise import normal_noise
from safron.engine.generator.planes import PlaneSource, Time
from safron.engine.generator.sampler import Sampler, Step, noise_seed
from safron.engine.plan.passes import mirrored
from safron.engine.plan.planes import PlaneSpec
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.plan.window import Window
from safron.engine.scratch.arrays import Scratch
from safron.engine.system.large_arrays import kept

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

# Rows that take the step together, so that what is computed on the way stays in the core's cache.
STRIP = 32


@dataclass(frozen=True)
class Held:
    """Part of the running picture, in memory; a plane source of the input "xt".

    Attributes
    ----------
    spec
        See `PlaneSource`.
    values
        [channels, window.height, window.width], float32 or as it is stored.
    window
        Its drawn pixels; may reach beyond the picture.
    """

    spec: PlaneSpec
    values: npt.NDArray[Any]
    window: Window

    def read(self, window: Window) -> Float32:
        """See `PlaneSource`; the window lies inside `window`."""
        return self.values[(slice(None), *window.slices(self.window))].astype(np.float32)


@dataclass(frozen=True)
class Begun:
    """The noise that sampling begins with, computed where it is read; a plane source of the input "xt".

    Attributes
    ----------
    spec
        See `PlaneSource`.
    sampling
        The first step.
    """

    spec: PlaneSpec
    sampling: Sampling

    def read(self, window: Window) -> Float32:
        """See `PlaneSource`."""
        return np.asarray(self.sampling.read(window), np.float32)


@dataclass(frozen=True)
class Sampling:
    """One step of a sampler.

    Attributes
    ----------
    whole
        The render.
    sampler
        The generator's.
    number
        Of the step, 0 the first.
    offset
        (y, x): where drawn pixel 0 lies in the plan of this pass; see `safron.engine.plan.passes`.
    before
        Scratch with the running picture before the step; None before the first, which begins with noise.
    """

    whole: RenderPlan
    sampler: Sampler
    number: int
    offset: tuple[int, int]
    before: Scratch | None

    @property
    def is_last(self) -> bool:
        """Whether the slide is made in this pass."""
        return self.number == len(self.sampler.times) - 1

    @cached_property
    def step(self) -> Step:
        """The numbers of the step."""
        return self.sampler.step(self.number)

    def on_canvas(self, window: Window) -> Window:
        """Return a window of this pass's plan in drawn pixels of the canvas."""
        return window.shift(-self.offset[0], -self.offset[1])

    def in_picture(self, window: Window) -> Window:
        """Return a window of drawn pixels, counted from the first pixel of the running picture."""
        return window.shift(-self.whole.drawn.y, -self.whole.drawn.x)

    def hold(self, window: Window) -> Held | Begun:
        """Give the running picture under a window of drawn pixels, which may reach beyond it.

        What is stored is read now, into memory that this thread keeps: it holds until the thread asks for another window.
        """
        spec, _ = self.sampler.specs
        if self.before is None:
            return Begun(spec, self)
        assert self.whole.passes is not None
        shape = (self.sampler.channels, window.height, window.width)
        return Held(spec, self.read(window, kept("held", shape, self.whole.passes.state)), window)

    def read(self, window: Window, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Read the running picture, mirrored beyond its edges.

        Parameters
        ----------
        window
            Drawn pixels.
        out
            Memory for it, of the stored type; None for new memory.

        Returns
        -------
        npt.NDArray[Any]
            [channels, window.height, window.width].
        """
        drawn, here = self.whole.drawn, self.in_picture(window)
        inside = here.clip(Window(0, 0, drawn.height, drawn.width))
        if inside == here:
            return self._read(here, out)
        rows = np.array(mirrored(here.y, here.y_stop, drawn.height))
        columns = np.array(mirrored(here.x, here.x_stop, drawn.width))
        seen = Window.from_bounds(rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        if out is None or seen.clip(inside) != seen:  # the latter of a picture smaller than a patch
            made = self._read(seen)[:, (rows - seen.y)[:, None], columns - seen.x]
            if out is None:
                return made
            out[:] = made
            return out
        # All that is seen beyond the edges lies in this window, too: a second copy of it would be as large.
        down, across = inside.slices(here)
        self._read(inside, out[:, down, across])
        for beyond in (slice(0, across.start), slice(across.stop, here.width)):
            out[:, down, beyond] = out[:, down, columns[beyond] - here.x]
        for beyond in (slice(0, down.start), slice(down.stop, here.height)):
            out[:, beyond] = out[:, rows[beyond] - here.y]
        return out

    def _read(self, here: Window, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Read the running picture where it is."""
        if self.before is None:
            return self._noise(here, -1)
        return self.before.state.read(here, out)

    def _noise(self, here: Window, step: int) -> Float32:
        """Return the noise of a step: float32 [channels, height, width], by the place on the canvas."""
        window = here.shift(self.whole.drawn.y, self.whole.drawn.x)
        return normal_noise(
            window, seed=noise_seed(self.whole.seed, step), scales=(1,) * self.sampler.channels
        )

    def sources(self, held: Held | Begun) -> tuple[PlaneSource, ...]:
        """Give the sources of the inputs "xt" and "t"."""
        _, t = self.sampler.specs
        return held, Time(t, self.sampler.times[self.number])

    def of_fill(self, held: Held | Begun, colors: UInt8, window: Window) -> Float32:
        """Return the predictions that lead to these colours.

        Parameters
        ----------
        held
            The running picture around the window.
        colors
            RGB, uint8 [window.height, window.width, 3].
        window
            Drawn pixels.

        Returns
        -------
        npt.NDArray[np.float32]
            float32 [window.height, window.width, 3].
        """
        return self.step.towards(self.step.values_of(colors), held.read(window).transpose(1, 2, 0))

    def after(self, sums: DenseSums) -> Iterator[tuple[slice, Float32]]:
        """Take the step in all pixels of a block.

        Parameters
        ----------
        sums
            All predictions; its window is one of this pass's plan.

        Yields
        ------
        rows : slice
            Some rows of the block.
        picture : npt.NDArray[np.float32]
            Their running picture after the step, [channels, rows, width].
        """
        area, side = self.on_canvas(sums.window), lcm(self.whole.slide.tile, STRIP)
        for start in range(0, area.height, STRIP):
            rows = slice(start, min(start + STRIP, area.height))
            part = Window(area.y + start, area.x, rows.stop - start, area.width)
            if start % side == 0:  # a row of chunks
                held = self.hold(replace(part, height=min(side, area.height - start)))
            fresh = self._noise(self.in_picture(part), self.number) if self.step.sigma else None
            means = sums.means(part.shift(*self.offset))
            yield rows, self.step.advance(held.read(part), means, fresh)
